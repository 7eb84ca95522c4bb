"""Requests that the simulator makes: a bounded pool of threads, each with connections it keeps open."""

from __future__ import annotations

import http.client
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT = 10.0
"""Seconds to wait for a connection, and for each read."""
IDLE = 1.0
"""Seconds after which an open connection is not used again: a server may be closing it just then, and
a callback lost to that race would look like one the receiver failed to take."""
TRICKLE = 2.0
"""Seconds over which a slow sender spreads a body."""

_SCHEMES: dict[str, type[http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `status` None and the reason in `error` where nothing did."""

    status: int | None
    body: bytes = b""
    error: str | None = None


class Wire:
    """The connections of one thread. Follows no redirect and tries nothing twice."""

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
        """Called by another thread: the request under way ends at once, with an error."""
        connection = self._current
        sock = None if connection is None else connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it was closed in this very moment, which is what was wanted

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
        # http.client has closed its socket by itself where the server asked for that.
        if connection.sock is not None:
            self._open[key] = (connection, time.monotonic())
        return answer

    def _connection(self, key: tuple[str, str]) -> http.client.HTTPConnection:
        connection, used_at = self._open.pop(key, (None, 0.0))
        if connection is not None:
            if time.monotonic() - used_at < IDLE and not _readable(connection.sock):
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


def _readable(sock: socket.socket | None) -> bool:
    """Whether an idle connection has something to read, which can only be its end."""
    if sock is None:
        return True
    poll = select.poll()  # unlike select(), not limited to descriptors below 1024
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


Job = Callable[[Wire], None]


class Senders:
    """A fixed number of threads that do what they are handed, in the order of handing."""

    def __init__(self, threads: int) -> None:
        self._stopping = threading.Event()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._wires = [Wire(self._stopping) for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._send, args=(wire,), name=f"sender-{no}", daemon=True)
            for no, wire in enumerate(self._wires)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def hand(self, job: Job) -> None:
        self._jobs.put(job)

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def stop(self, within: float) -> None:
        """What is under way may end in half the time (seconds), then it is cut off. The rest is not begun."""
        self._stopping.set()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + within
        self._join(time.monotonic() + within / 2)
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < end:
            for wire in self._wires:
                wire.abort()
            self._join(time.monotonic() + 0.05)

    def _join(self, until: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _send(self, wire: Wire) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            job(wire)
        wire.close()
