"""Shared by the tests of the intake: an intake with its spool, many callers, and checks of what was stored."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from receiver.database.pool import Connection, connect
from receiver.intake.packing import unpack
from receiver.intake.spool import Spool
from receiver.intake.writer import CannotStore, Writer
from tests.factories import make_callback
from tests.waiting import eventually

ANSWER_OWED_SECONDS = 2.0
PAUSE_SECONDS = 0.005
"""The pause of an endless caller between two callbacks. The spool is so fast that other threads would get no time."""

PLENTY = 1 << 30


@contextmanager
def running_intake(url: str, spool_path: Path, *, spool_bytes: int = PLENTY, up: bool = True) -> Iterator[Writer]:
    """A running intake; with `up`, after it has reached the database."""
    intake = Writer(partial(connect, url, name="journal", autocommit=True), Spool(spool_path, spool_bytes))
    intake.start()
    try:
        if up:
            eventually(lambda: not intake.database_unavailable)
        yield intake
    finally:
        intake.stop()


class Callers:
    """Threads that store one callback after another, each with a different body."""

    _numbers = count()

    def __init__(self, intake: Writer, threads: int) -> None:
        self.stored: list[bytes] = []
        self.refused: list[bytes] = []
        self.seconds: list[float] = []
        self._intake = intake
        self._end = threading.Event()
        self._threads = self._make_threads(threads, None)

    def run(self, times: int) -> None:
        """Each thread stores this many; returns when all are done."""
        self._threads = self._make_threads(len(self._threads), times)
        for thread in self._threads:
            thread.start()
        self._join()

    def start(self) -> None:
        """Each thread stores until `stop`, or until it is refused, with a short pause after each."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        self._join()

    def _join(self) -> None:
        eventually(
            lambda: not any(thread.is_alive() for thread in self._threads),
            otherwise=lambda: "a caller was never answered",
        )

    def _make_threads(self, threads: int, times: int | None) -> list[threading.Thread]:
        # Daemons: a thread that is never answered must not prevent the end of pytest.
        return [threading.Thread(target=self._work, args=(times,), daemon=True) for _ in range(threads)]

    def _work(self, times: int | None) -> None:
        while times != 0 and not self._end.is_set():
            times = None if times is None else times - 1
            body = b"%d" % next(self._numbers)
            began = time.monotonic()
            try:
                self._intake.store(make_callback(1, body))
                self.stored.append(body)
            except CannotStore:
                self.refused.append(body)
                if times is None:
                    return
            self.seconds.append(time.monotonic() - began)
            if times is None:
                self._end.wait(PAUSE_SECONDS)


def journaled(conn: Connection) -> Counter[bytes]:
    """How often each body is in the journal."""
    found = Counter(
        unpack(*row) for row in conn.execute("select packing, body from callback join waiting using (callback_id)")
    )
    conn.commit()
    return found


def assert_exactly_once(conn: Connection, callers: Callers) -> None:
    """Everything that was answered is in the journal soon, and nothing is there twice."""
    expected = set(callers.stored)
    eventually(lambda: expected <= journaled(conn).keys())
    found = journaled(conn)
    assert set(found.values()) <= {1}
    assert found.keys() - expected <= set(callers.refused)
