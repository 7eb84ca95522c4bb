"""Callbacks at a fixed rate on persistent connections, even if answers are slow, as from an independent sender."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

TICK_SECONDS = 0.002
PATIENCE_SECONDS = 30.0
"""A slower answer counts as no answer."""


@dataclass(slots=True)
class _Line:
    socket: socket.socket
    sent_at: float = 0.0
    """When the current request should have been sent."""
    asked_at: float = 0.0
    """When it was sent: a delay of this sender itself is not part of the answer's time."""
    received: bytearray = field(default_factory=bytearray)


class Load:
    """Posts results, one for each number in turn, until the context ends.

    `rate`: callbacks a second; 0: as many as possible. `connections`: the most requests at a time. If none is free, a
    due callback waits for one, and its time includes the wait. `stored`: answers of 200.
    """

    def __init__(self, result_url: str, numbers: Sequence[str], rate: float, connections: int = 64) -> None:
        self.rate = rate
        self.stored = 0
        self.failures: list[str] = []
        self.durations: list[tuple[float, float]] = []
        """(due time by time.monotonic(), seconds until the answer)"""
        address = urlsplit(result_url)
        self._address = (address.hostname or "", address.port or 80)
        self._requests = cycle([_request(address.path, address.netloc, number) for number in numbers])
        self._selector = selectors.DefaultSelector()
        self._free = deque(self._connect() for _ in range(connections))
        self._busy: dict[int, _Line] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending, and wait for the outstanding answers."""
        self._stop.set()
        self._thread.join()
        for line in (*self._free, *self._busy.values()):
            line.socket.close()
        self._selector.close()

    def _connect(self) -> _Line:
        return _Line(socket.create_connection(self._address, timeout=PATIENCE_SECONDS))

    def _run(self) -> None:
        due_at = time.monotonic()
        while self._busy or not self._stop.is_set():
            now = time.monotonic()
            while self._free and not self._stop.is_set() and (due_at <= now or not self.rate):
                self._send(due_at if self.rate else now)
                due_at = due_at + 1 / self.rate if self.rate else now
            for key, _ in self._selector.select(TICK_SECONDS):
                self._receive(key.data)
            for line in [each for each in self._busy.values() if now - each.asked_at > PATIENCE_SECONDS]:
                self._fail(line, "no answer was received")

    def _send(self, due_at: float) -> None:
        line = self._free.popleft()
        line.sent_at, line.asked_at = due_at, time.monotonic()
        line.received.clear()
        self._busy[id(line)] = line
        self._selector.register(line.socket, selectors.EVENT_READ, line)
        try:
            line.socket.sendall(next(self._requests))
        except OSError as error:
            self._fail(line, repr(error))

    def _receive(self, line: _Line) -> None:
        try:
            more = line.socket.recv(4096)
        except OSError as error:
            self._fail(line, repr(error))
            return
        line.received += more
        if not more:
            self._fail(line, "they hung up")
        elif line.received.endswith(b"}"):  # each answer's body is one line of JSON
            if not line.received.startswith(b"HTTP/1.1 200 ") or b'"stored"' not in line.received:
                self._fail(line, bytes(line.received[:40]).decode("latin-1"))
                return
            self.stored += 1
            self.durations.append((line.sent_at, time.monotonic() - line.sent_at))
            self._leave(line)
            self._free.append(line)

    def _fail(self, line: _Line, why: str) -> None:
        self.failures.append(why)
        self._leave(line)
        line.socket.close()
        self._free.append(self._connect())

    def _leave(self, line: _Line) -> None:
        del self._busy[id(line)]
        self._selector.unregister(line.socket)


def _request(path: str, host: str, number: str) -> bytes:
    events = [
        {"event": event, "timestamp": 1796119200 + at} for at, event in enumerate(("queued", "dialing", "connected"))
    ]
    details = {"phone_number": f"'{number}'", "status": "completed", "attempts": "1", "max_attempts": "3"}
    body = json.dumps({**details, "queued_timestamp": "1796119200", "duration": 32, "events": events})
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()
