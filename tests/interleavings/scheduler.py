"""Runs writers in threads, one statement at a time, in an order that a seed decides.

Each statement of a writer, and each commit and rollback, waits until the scheduler grants it. A granted statement ends,
or waits for a lock of another writer. `pg_blocking_pids` tells which. So between two steps nothing moves, and the same
seed gives the same order.
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from queue import Empty, SimpleQueue
from random import Random
from typing import Any, TypeVar

import psycopg
from psycopg._preparing import PrepareManager
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from receiver.database.pool import GAVE_WAY, Connection
from receiver.errors import ReceiverError

QUICK_SECONDS, SLOW_SECONDS = 0.002, 0.03
"""A statement that takes longer may wait for a lock, so Postgres is asked, and again after twice the time."""

STUCK_SECONDS = 60.0
INTERRUPTIONS = (0.02, 0.05, 0.15, 0.5, 1.0)
"""How often a writer is interrupted before it takes a lock, writes or commits. A schedule uses one of these, or has a
`cut`. Few interruptions let one writer do much in a gap of another one."""

_PLAIN_READ = re.compile("select(?!.*(lock|for update))", re.IGNORECASE | re.DOTALL)
_KEEPS_LOCKS = re.compile("(select|insert|update|delete|with)(?!.*unlock)", re.IGNORECASE | re.DOTALL)

_Result = TypeVar("_Result")


class Stuck(Exception):
    """A writer neither ends nor waits for a lock that Postgres shows."""


class _Kept(PrepareManager):
    """Prepares each statement, and keeps it after a rollback, too. Else the planning takes most of the time."""

    prepare_threshold, prepared_max = 1, 10_000

    def clear(self) -> bool:
        return False


def keep_plans(conn: Connection) -> None:
    """Plan each statement once on this connection."""
    conn.execute("deallocate all")
    conn._prepared = _Kept()
    conn.execute("set plan_cache_mode = force_generic_plan")
    conn.commit()


class _Cursor(psycopg.Cursor[TupleRow]):
    def execute(self, query: Any, *given: Any, **options: Any) -> Any:
        self.connection.statement = query  # type: ignore[attr-defined]
        try:
            return super().execute(query, *given, **options)
        finally:
            self.connection.statement = "savepoint"  # type: ignore[attr-defined]


class Stepped(psycopg.Connection[TupleRow]):
    """A connection whose statements wait for the scheduler while it belongs to a writer."""

    writer: Writer | None = None
    statement: object = ""
    answered_at = 0.0

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.cursor_factory = _Cursor

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        if self.writer is None:
            return super().wait(gen, interval)
        self.writer.step(self)
        try:
            return super().wait(gen, interval)
        except GAVE_WAY as error:
            self.writer.gave_way = error
            raise

    def commit(self) -> None:
        if self.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.statement = "commit"
            super().commit()

    def rollback(self) -> None:
        if self.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.statement = "rollback"
            super().rollback()


class OwnPool:
    """The two connections of a writer, for code that takes connections from a pool."""

    def __init__(self, conns: Sequence[Stepped]) -> None:
        self._free = list(conns)

    @contextmanager
    def connection(self) -> Iterator[Stepped]:
        conn = self._free.pop(0)
        try:
            yield conn
            conn.commit()
        except BaseException:
            conn.rollback()
            raise
        finally:
            self._free.insert(0, conn)


class Writer:
    """One thread. `run` gets the first connection; an error of `allowed` is an answer, any other one is a failure."""

    def __init__(self, name: str, conns: Sequence[Stepped], allowed: tuple[type[ReceiverError], ...] = ()) -> None:
        self.name = name
        self.conns = conns
        self.pool = OwnPool(conns)
        self.state = "new"  # then "running", "ready", "blocked", "ended"
        self.statement = self.granted = ""
        self.failure: str | None = None
        self.gave_way: Exception | None = None
        self._allowed = allowed
        self._conn = conns[0]
        self._grant: SimpleQueue[None] = SimpleQueue()
        self._reports: SimpleQueue[tuple[Writer, str]] = SimpleQueue()

    @property
    def pid(self) -> int:
        return self._conn.info.backend_pid

    @property
    def is_plain_read(self) -> bool:
        return _matches(_PLAIN_READ, self.statement)

    @property
    def keeps_locks(self) -> bool:
        """Whether the granted statement ends no wait of another writer."""
        return self.gave_way is None and _matches(_KEEPS_LOCKS, self.granted)

    def start(self, run: Callable[[Writer], None], reports: SimpleQueue[tuple[Writer, str]]) -> threading.Thread:
        self._reports, self.state = reports, "running"
        thread = threading.Thread(target=self._run, args=(run,), name=self.name, daemon=True)
        thread.start()
        return thread

    def _run(self, run: Callable[[Writer], None]) -> None:
        for conn in self.conns:
            conn.writer = self
        try:
            run(self)
            self.conns[0].commit()
        except self._allowed:
            self.conns[0].rollback()
        except Exception:
            self.failure = traceback.format_exc()
        finally:
            for conn in self.conns:
                conn.writer = None
                if not conn.closed:
                    conn.rollback()
            self._reports.put((self, "ended"))

    def step(self, conn: Stepped) -> None:
        """Wait for the grant of the connection's next statement."""
        self._conn, self.statement = conn, " ".join(str(conn.statement).split())
        self._reports.put((self, "ready"))
        self._grant.get()

    def grant(self) -> None:
        self.state, self.granted = "running", self.statement
        self._grant.put(None)


@cache
def _matches(expression: re.Pattern[str], statement: str) -> bool:
    return expression.match(statement) is not None


class Schedule:
    """Runs writers until all have ended. `steps`: what was executed, for people.

    `cut`: the first writer is interrupted only once, before it takes its lock, write or commit with this number.
    """

    def __init__(self, observer: Connection, random: Random, cut: int | None = None) -> None:
        self._observer = observer
        self._random = random
        self._interruption = random.choice(INTERRUPTIONS)
        self._cut = cut
        self._reports: SimpleQueue[tuple[Writer, str]] = SimpleQueue()
        self.steps: list[str] = []

    def run(self, writers: Sequence[Writer], run: Callable[[Writer], None]) -> None:
        threads = []
        for writer in writers:  # one after the other, because the first statements are in the order of the writers
            threads.append(writer.start(run, self._reports))
            self._come_to_rest(writers, freed=False)
        last: Writer | None = None
        while any(writer.state != "ended" for writer in writers):
            ready = [writer for writer in writers if writer.state == "ready"]
            if not ready:
                # All wait for each other. Postgres ends one of them.
                try:
                    self._receive(STUCK_SECONDS)
                except Empty:
                    raise Stuck from None
            else:
                last = self._choose(ready, last)
                self.steps.append(f"{last.name}: {last.statement[:200]}")
                last.grant()
            self._come_to_rest(writers, freed=not ready or last is None or not last.keeps_locks)
        for thread in threads:
            thread.join()

    def _choose(self, ready: Sequence[Writer], last: Writer | None) -> Writer:
        """The previous writer, unless it is interrupted, or waits; else another one."""
        if last in ready and last is not None and not self._is_interrupted(last):
            return last
        if last is None and self._cut is not None:
            return ready[0]
        return self._random.choice([writer for writer in ready if writer is not last] or ready)

    def _is_interrupted(self, writer: Writer) -> bool:
        if self._cut is None:
            rate = 0.0 if writer.is_plain_read and self._interruption < 1 else self._interruption
            return self._random.random() < rate
        self._cut -= not writer.is_plain_read
        return self._cut == 0 and not writer.is_plain_read

    def _come_to_rest(self, writers: Sequence[Writer], *, freed: bool) -> None:
        """Wait until each writer is ready, has ended, or waits for a lock. `freed`: a wait may have ended."""
        while True:
            for writer in [each for each in writers if freed and each.state == "blocked"]:
                if not self._blockers(writer):
                    writer.state = "running"
            moving = [each for each in writers if each.state == "running"]
            if not moving:
                return
            until, patience = time.monotonic() + STUCK_SECONDS, QUICK_SECONDS
            while any(each.state == "running" for each in moving):
                if time.monotonic() > until:
                    raise Stuck
                try:
                    self._receive(patience)
                except Empty:
                    patience = min(2 * patience, SLOW_SECONDS)
                    for writer in moving:
                        if writer.state == "running" and (pids := self._blockers(writer)):
                            names = [each.name for each in writers if each.pid in pids]
                            self.steps.append(f"    {writer.name} waits for {', '.join(names)}")
                            writer.state = "blocked"
            if not any(each.state == "blocked" for each in writers):
                return
            freed = freed or any(each.gave_way for each in moving)

    def _receive(self, seconds: float) -> None:
        writer, state = self._reports.get(timeout=seconds)
        writer.state = state

    def _blockers(self, writer: Writer) -> list[int]:
        found = self._observer.execute("select pg_blocking_pids(%s)", (writer.pid,), prepare=True).fetchone()
        assert found is not None
        pids: list[int] = found[0]
        return pids
