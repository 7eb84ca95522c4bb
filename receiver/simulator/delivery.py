"""The simulator's requests, and the fixed pool of threads that makes them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

TIMEOUT = 10.0
"""Seconds to wait for a connection, and for each read."""
TRICKLE = 2.0
"""Seconds that a slow sender takes for a body."""
PIECES = 10
"""The parts in which a slow sender sends it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request. Without one, `status` is None and `error` has the reason."""

    status: int | None
    body: bytes = b""
    error: str | None = None


class Client:
    """Makes requests, from any thread. Follows no redirect, and tries nothing twice."""

    def __init__(self, connections: int = 1) -> None:
        self._pool = PoolManager(maxsize=connections, timeout=TIMEOUT, retries=False)
        self.stopping = threading.Event()
        """Once it is set, slow bodies are cut off."""

    def get(self, url: str) -> Answer:
        return self._request("GET", url, None, {})

    def post(self, url: str, body: bytes, content_type: str, *, slow: bool = False) -> Answer:
        """POST the bytes as they are; an empty `content_type` sends no such header."""
        headers = {"Content-Length": str(len(body))}
        if content_type:
            headers["Content-Type"] = content_type
        return self._request("POST", url, self._trickled(body) if slow else body, headers)

    def _request(self, method: str, url: str, body: bytes | Iterator[bytes] | None, headers: dict[str, str]) -> Answer:
        headers["User-Agent"] = "receiver-simulator"
        try:
            response = self._pool.request(method, url, body=body, headers=headers, redirect=False)
        except HTTPError as error:
            return Answer(None, error=f"{type(error).__name__}: {error}")
        return Answer(response.status, response.data)

    def _trickled(self, body: bytes) -> Iterator[bytes]:
        size = max(1, -(-len(body) // PIECES))
        for start in range(0, len(body), size):
            if self.stopping.wait(TRICKLE / PIECES):
                raise ConnectionAbortedError("the simulator is stopping")
            yield body[start : start + size]


Job = Callable[[], None]


class Senders:
    """A fixed number of threads that do the submitted jobs in order."""

    def __init__(self, threads: int) -> None:
        self.client = Client(threads)
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._send, name=f"sender-{no}", daemon=True) for no in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def stop(self, within: float) -> None:
        """Begin no more jobs, and wait up to `within` seconds for running ones. Others end with the process."""
        self.client.stopping.set()
        for _ in self._threads:
            self.submit(lambda: None)  # wakes a thread
        end = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _send(self) -> None:
        while True:
            job = self._jobs.get()
            if self.client.stopping.is_set():
                return
            job()
