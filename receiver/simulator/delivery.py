"""The simulator's requests: a fixed pool of threads, each with its own open connections.

It uses `http.client` directly, because a slow sender and a stop need the socket."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from urllib3.util.wait import wait_for_read

TIMEOUT = 10.0
"""Seconds to wait for a connection, and for each read."""
IDLE = 1.0
"""Seconds after which an open connection is not used again. The server may be closing it, and a callback that is lost
in this race would look like a failure of the receiver."""
TRICKLE = 2.0
"""Seconds that a slow sender takes for a body."""

_SCHEMES: dict[str, type[http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request. Without one, `status` is None and `error` has the reason."""

    status: int | None
    body: bytes = b""
    error: str | None = None


class Client:
    """Makes the requests of one thread. Follows no redirect, and tries nothing twice."""

    def __init__(self, stopping: threading.Event | None = None) -> None:
        self._stopping = stopping or threading.Event()
        self._open: dict[tuple[str, str], tuple[http.client.HTTPConnection, float]] = {}
        self._current: http.client.HTTPConnection | None = None

    def get(self, url: str) -> Answer:
        return self._request("GET", url, None, "", slow=False)

    def post(self, url: str, body: bytes, content_type: str, *, slow: bool = False) -> Answer:
        """POST the bytes as they are; an empty `content_type` sends no such header."""
        return self._request("POST", url, body, content_type, slow=slow)

    def abort(self) -> None:
        """End the current request at once, with an error. Called by another thread."""
        connection = self._current
        sock = None if connection is None else connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has just been closed

    def close(self) -> None:
        for connection, _ in self._open.values():
            connection.close()
        self._open.clear()

    def _request(self, method: str, url: str, body: bytes | None, content_type: str, *, slow: bool) -> Answer:
        parts = urlsplit(url)
        key = (parts.scheme, parts.netloc)
        connection = self._connection(key)
        self._current = connection
        try:
            connection.putrequest(method, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            connection.putheader("User-Agent", "receiver-simulator")
            if content_type:
                connection.putheader("Content-Type", content_type)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            if body is not None and slow:
                connection.endheaders()
                self._trickle(connection, body)
            else:
                connection.endheaders(body)
            response = connection.getresponse()
            answer = Answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Answer(None, error=f"{type(error).__name__}: {error}")
        finally:
            self._current = None
        # http.client has closed the socket if the server asked for it.
        if connection.sock is not None:
            self._open[key] = (connection, time.monotonic())
        return answer

    def _connection(self, key: tuple[str, str]) -> http.client.HTTPConnection:
        connection, used_at = self._open.pop(key, (None, 0.0))
        if connection is not None:
            # An idle connection that has something to read has ended.
            if time.monotonic() - used_at < IDLE and not wait_for_read(connection.sock, 0):
                return connection
            connection.close()
        return _SCHEMES[key[0]](key[1], timeout=TIMEOUT)

    def _trickle(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        pieces = 10
        size = max(1, -(-len(body) // pieces))
        for start in range(0, len(body), size):
            if self._stopping.wait(TRICKLE / pieces):
                raise ConnectionAbortedError("the simulator is stopping")
            connection.send(body[start : start + size])


Job = Callable[[Client], None]


class Senders:
    """A fixed number of threads that do the submitted jobs in order."""

    def __init__(self, threads: int) -> None:
        self._stopping = threading.Event()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._clients = [Client(self._stopping) for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._send, args=(client,), name=f"sender-{no}", daemon=True)
            for no, client in enumerate(self._clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def stop(self, within: float) -> None:
        """Begin no more jobs. Running ones get half of `within` seconds, then they are cut off."""
        self._stopping.set()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + within
        self._join(time.monotonic() + within / 2)
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < end:
            for client in self._clients:
                client.abort()
            self._join(time.monotonic() + 0.05)

    def _join(self, until: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _send(self, client: Client) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            job(client)
        client.close()
