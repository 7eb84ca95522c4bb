"""Read from a hot standby, or from the primary while the standby is behind or unavailable.

A thread measures the lag about once a second: it reads the position of the primary in its log, and then waits until the
standby has replayed the log to this position. From then on the standby shows everything that the primary had when the
measurement began. This needs no synchronized clocks, an idle primary causes no lag, and a standby whose connection is
lost falls behind as soon as the primary writes anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Concatenate, Literal, ParamSpec, TypeVar

import psycopg

from receiver.database.pool import (
    Connection,
    DatabaseUnavailable,
    Pool,
    at_one_moment,
    connect,
    full_conninfo,
    open_pool,
    reading,
)
from receiver.errors import NotFound, ReceiverError
from receiver.logs import about

MEASURE_SECONDS = 1.0
"""Interval between two measurements of the lag."""

REPLAY_CHECK_SECONDS = 0.05
"""Interval between two queries to the standby during a measurement."""

CONNECTION_WAIT_SECONDS = 0.5
"""Longest wait for a connection to the standby. It is short, because the primary can answer instead."""

STATEMENT_SECONDS = 3.0
"""Longest duration of a query of the measurement."""

Unfit = Literal["behind", "unusable"]
Source = Literal["replica", "behind", "unusable", "interrupted", "not_found", "own_change"]
"""The source of a read. `replica`: the replica. All others: the primary, and the reason. `behind`: the lag was too
large. `unusable`: the replica had a fault. `interrupted`: the connection was lost or the read was canceled.
`not_found`: the replica did not have the row. `own_change`: the replica may lack a recent change of this reader."""

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

log = logging.getLogger(__name__)


class NotFollowing(ReceiverError):
    """The server is not a replica of this primary."""

    code = "not_following"


def measure(primary: Connection, standby: Connection, limit_seconds: float) -> float | None:
    """Seconds until the standby shows what the primary has now. None: longer than the limit. Raises NotFollowing."""
    copied_from, replayed = _get_replayed(standby)
    ((system_identifier, written),) = primary.execute(
        "select system_identifier, (pg_current_wal_lsn() - '0/0')::bigint from pg_control_system()"
    ).fetchall()
    if copied_from != system_identifier:
        raise NotFollowing("it is a copy of another database; correct DATABASE_REPLICA_URL")
    if replayed > written:
        # Another history, for example that of the former primary after a failover.
        raise NotFollowing("it has replayed what the primary never wrote; create it again from this primary")
    began = time.monotonic()
    while replayed < written:
        if time.monotonic() - began > limit_seconds:
            return None
        time.sleep(REPLAY_CHECK_SECONDS)
        _, replayed = _get_replayed(standby)
    return time.monotonic() - began


def _get_replayed(standby: Connection) -> tuple[int, int]:
    """The system identifier of the standby, and its position in the log. Raises NotFollowing."""
    ((is_standby, system_identifier, replayed),) = standby.execute(
        "select pg_is_in_recovery(), system_identifier, (pg_last_wal_replay_lsn() - '0/0')::bigint"
        " from pg_control_system()"
    ).fetchall()
    if not is_standby:
        raise NotFollowing("it is not a standby: it was promoted, or DATABASE_REPLICA_URL leads to a primary")
    return system_identifier, int(replayed or 0)


class Replica:
    """The connections to a standby, and a thread that measures its lag. Open it after any fork."""

    def __init__(self, conninfo: str, primary_conninfo: str, *, max_lag_seconds: float, max_size: int) -> None:
        """Raises ReceiverError with code `database_url` if `conninfo` is malformed. The server may be unavailable."""
        full_conninfo(conninfo, name="", variable="DATABASE_REPLICA_URL")
        self._conninfo, self._primary_conninfo = conninfo, primary_conninfo
        self.max_lag_seconds = max_lag_seconds
        self.pool = open_pool(
            conninfo, max_size=max_size, name="receiver web replica", wait_seconds=CONNECTION_WAIT_SECONDS
        )
        self.fault: str | None = "it was not measured yet"
        """The reason why it cannot be used. None: it can."""
        self._current_at: float | None = None
        """It shows everything that the primary had at this time of the monotonic clock. None: unknown."""
        self._used = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replica-watch", daemon=True)
        self._thread.start()

    @property
    def lag_seconds(self) -> float | None:
        """An answer may lack changes of the last `lag_seconds`. None: unknown."""
        return None if self._current_at is None else time.monotonic() - self._current_at

    def fitness(self) -> Unfit | float:
        """`lag_seconds` if it can be used now, else the reason why not."""
        lag = self.lag_seconds
        if self.fault is not None or lag is None:
            return "unusable"
        return "behind" if lag > self.max_lag_seconds else lag

    def suspend(self) -> None:
        """Do not use it before the next measurement, because it did not answer."""
        self.fault = "the connection was lost, or none was available"

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2)
        self.pool.close(timeout=2)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                # Without a pool, because the measurement must not wait for a connection under load.
                with _connect(self._primary_conninfo) as primary, _connect(self._conninfo) as standby:
                    # The address may name several servers: idle connections of the pool may lead to another one.
                    self.pool.drain()
                    self._follow(primary, standby)
            except Exception as error:  # any error: the next measurement may succeed
                self._current_at, self.fault = None, str(error).strip() or type(error).__name__
            self._log_change()
            self._stop.wait(MEASURE_SECONDS)

    def _follow(self, primary: Connection, standby: Connection) -> None:
        """Measure until something fails. Raises psycopg.Error and ReceiverError."""
        while not self._stop.is_set():
            began = time.monotonic()
            if measure(primary, standby, self.max_lag_seconds) is not None:
                self._current_at, self.fault = began, None
            self._log_change()
            self._stop.wait(MEASURE_SECONDS)

    def _log_change(self) -> None:
        is_fit = isinstance(self.fitness(), float)
        if is_fit and not self._used:
            log.info("the replica is used for lists, sums and exports", extra=about("replica_used"))
        elif not is_fit and self._used:
            reason = self.fault or f"it is more than {self.max_lag_seconds:g} seconds behind"
            log.warning("the replica is not used; reads go to the primary: %s", reason, extra=about("replica_not_used"))
        self._used = is_fit


def _connect(conninfo: str) -> Connection:
    return connect(conninfo, name="receiver web watch", autocommit=True, patience_seconds=STATEMENT_SECONDS)


class Reader:
    """The reads of one answer: from the replica until it cannot be used, and from then on only from the primary.

    So a later read of one answer never shows an older state than an earlier one. If the replica does not have a row,
    the primary decides whether it exists.
    """

    def __init__(self, primary: Pool, replica: Replica | None = None, *, own_change: bool = False) -> None:
        self._primary = primary
        self._replica = replica
        self.source: Source | None = None
        """The source of the last read. None: nothing was read, or there is no replica."""
        self.lag_seconds = 0.0
        """The largest lag of the replica at a read."""
        self._own_change = own_change

    def read(
        self, read: Callable[Concatenate[Connection, _Given], _Found], *given: _Given.args, **named: _Given.kwargs
    ) -> _Found:
        """Call `read` with a connection and return its result. It may be called twice, and must not change anything.

        Raises the errors of `read` on the primary, and DatabaseUnavailable.
        """
        return self._read(reading, lambda conn: read(conn, *given, **named))

    def read_at_one_moment(self, read: Callable[[Connection], _Found]) -> _Found:
        """As `read`, but all statements see the database at the same moment."""
        return self._read(at_one_moment, read)

    def _read(
        self, connected: Callable[[Pool], AbstractContextManager[Connection]], read: Callable[[Connection], _Found]
    ) -> _Found:
        if self._replica is not None and self.source in (None, "replica"):
            fitness = "own_change" if self._own_change else self._replica.fitness()
            if not isinstance(fitness, float):
                self.source = fitness
            else:
                self.source, self.lag_seconds = "replica", max(self.lag_seconds, fitness)
                try:
                    with connected(self._replica.pool) as conn:
                        return read(conn)
                except NotFound:
                    self.source = "not_found"
                except DatabaseUnavailable:
                    self.source = "interrupted"
                    self._replica.suspend()
                except psycopg.Error:
                    # The read was canceled because replay waited for it (Postgres manual, 26.4.2), or the replica has
                    # not replayed a migration yet. Any other error occurs on the primary, too.
                    self.source = "interrupted"
        with connected(self._primary) as conn:
            return read(conn)
