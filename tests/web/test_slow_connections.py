"""Two thousand connections send bytes slowly: they do not delay other clients, and the server closes them."""

from __future__ import annotations

import errno
import re
import resource
import selectors
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from receiver.database.pool import connect
from receiver.server.protocol import HEAD_MAX_SECONDS, RECEIVE_SECONDS
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import OURS, Sender, gunicorn_process

pytestmark = pytest.mark.long

CONNECTIONS = 2000
PACE_SECONDS = 2.0
"""Interval between two bytes of one connection. In total a thousand bytes per second."""

BODY = b'{"status": "completed"}'
HEAD = f"POST {results_path(7)} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n"
KINDS = {
    "nothing": b"",
    "head": HEAD.encode() + b"X-Long: ",
    "body": HEAD.encode() + b"\r\n{",
    "chunk": f"POST {results_path(7)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{{".encode(),
    "form": b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\nkey=",
}
"""The first bytes of each connection. All but the first continue with single bytes."""


@dataclass(slots=True)
class SlowConnection:
    kind: str
    line: socket.socket
    began: float
    lasted_seconds: float | None = None
    answer: bytearray = field(default_factory=bytearray)


class SlowConnections:
    """One thread sends a byte on each connection every `PACE_SECONDS`, until the server closes it."""

    def __init__(self, port: int, number: int) -> None:
        self.all: list[SlowConnection] = []
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        for at in range(number):
            kind = list(KINDS)[at % len(KINDS)]
            line = socket.create_connection(("127.0.0.1", port), timeout=30)
            line.sendall(KINDS[kind])
            line.setblocking(False)
            self.all.append(SlowConnection(kind, line, time.monotonic()))
            self._selector.register(line, selectors.EVENT_READ, self.all[-1])
        self._thread = threading.Thread(target=self._send_slowly)

    def _send_slowly(self) -> None:
        steps = 20
        turn = 0
        while not self._stop.is_set():
            for key, _ in self._selector.select(PACE_SECONDS / steps):
                self._listen(key.data)
            for each in self.all[turn % steps :: steps]:
                if each.lasted_seconds is None and each.kind != "nothing":
                    try:
                        each.line.send(b"x")
                    except OSError as error:
                        if error.errno != errno.EAGAIN:
                            self._end(each)
            turn += 1
            self._stop.wait(PACE_SECONDS / steps)

    def _listen(self, each: SlowConnection) -> None:
        try:
            received = each.line.recv(4096)
        except OSError:
            received = b""
        each.answer += received
        if not received:
            self._end(each)

    def _end(self, each: SlowConnection) -> None:
        if each.lasted_seconds is None:
            each.lasted_seconds = time.monotonic() - each.began
            self._selector.unregister(each.line)

    def __enter__(self) -> SlowConnections:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._selector.close()
        for each in self.all:
            each.line.close()

    def open_by_kind(self) -> Counter[str]:
        return Counter(each.kind for each in self.all if each.lasted_seconds is None)


@contextmanager
def many_files() -> Iterator[None]:
    """File descriptors for our side: most systems allow a process 1,024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS * 2
    if hard not in (-1, resource.RLIM_INFINITY) and hard < wanted:
        pytest.skip(f"this process may open no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted) if soft != -1 else soft, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def post_many(port: int, number: int) -> list[float]:
    """Post callbacks, half of them on new connections. Returns the sorted durations in seconds."""
    kept = Sender(port)
    durations = []
    for at in range(number):
        sender = kept if at % 2 else Sender(port)
        began = time.monotonic()
        request = f"POST {results_path()} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
        answer = sender.send(request.encode(), BODY).answer()
        durations.append(time.monotonic() - began)
        assert (answer.status, answer.body) == (200, b'{"status": "stored"}')
        if sender is not kept:
            sender.close()
    kept.close()
    return sorted(durations)


@pytest.mark.parametrize("entry_point", OURS)
def test_two_thousand_slow_connections_do_not_delay_others_and_are_closed(
    session_folder: Path, database_url: str, capsys: pytest.CaptureFixture[str], entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with many_files(), gunicorn_process(folder, database_url, entry_point=entry_point) as (parent, port):
        alone = post_many(port, 100)
        with SlowConnections(port, CONNECTIONS) as slow:
            beside = post_many(port, 200)
            assert slow.open_by_kind()["body"] == CONNECTIONS / len(KINDS), (
                "no slow connection was closed before its time"
            )
            # 20 s, and one more second for each 500 bytes. They send a byte in two seconds.
            eventually(lambda: set(slow.open_by_kind()) <= {"nothing"}, 120)
            lasted_seconds = {
                kind: [each.lasted_seconds or 0.0 for each in slow.all if each.kind == kind] for kind in KINDS
            }
            post_many(port, 20)
            limits = Path(f"/proc/{parent.pid}/limits").read_text()
    assert beside[len(beside) // 2] < 2, "the answer is owed within two seconds"
    for kind in ("head", "body", "chunk", "form"):
        assert RECEIVE_SECONDS - 1 <= min(lasted_seconds[kind]) and max(lasted_seconds[kind]) < 3 * HEAD_MAX_SECONDS, (
            kind
        )
    for each in slow.all:
        if each.kind in ("body", "chunk"):
            assert b'{"status": "incomplete"}' in each.answer or not each.answer
    with connect(database_url, name="test") as conn:
        eventually(lambda: conn.execute("select count(*) from callback").fetchone() == (320,))
        assert conn.execute("select count(*) from callback where batch_id = 7").fetchone() == (0,)
    found = re.search(r"Max open files +(\d+|unlimited)", limits)
    assert found is not None and (found[1] == "unlimited" or int(found[1]) >= CONNECTIONS)
    with capsys.disabled():
        medians = [1000 * each[len(each) // 2] for each in (alone, beside)]
        print(f"\nmedian of a callback: {medians[0]:.1f} ms alone, {medians[1]:.1f} ms beside {CONNECTIONS} slow ones")


def test_process_raises_the_limit_of_1024_connections(session_folder: Path, database_url: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < 5000:
        pytest.skip(f"this process may open no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # child processes inherit it
    try:
        with gunicorn_process(Path(tempfile.mkdtemp(dir=session_folder)), database_url) as (parent, _):
            (child, *_) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            limit = re.search(r"Max open files +(\d+)", Path(f"/proc/{child}/limits").read_text())
            assert limit is not None and int(limit[1]) == 5000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
