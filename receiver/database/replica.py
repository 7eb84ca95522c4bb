"""Read from a hot standby, and from the primary instead while the standby is behind or away.

A thread measures the lag about once a second: it asks the primary how far it has written its log, and then waits until
the standby has replayed that much. From then on the standby shows everything that the primary had at the moment of the
question. This needs no synchronized clocks, an idle primary causes no lag, and a standby whose connection is cut falls
behind as soon as the primary writes anything.
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
"""Interval between two questions to the standby during a measurement."""

CONNECTION_WAIT_SECONDS = 0.5
"""Longest wait for a connection to the standby: the primary can be asked instead."""

STATEMENT_SECONDS = 3.0
"""How long a question of the measurement may take."""

Unfit = Literal["behind", "unusable"]
Came = Literal["replica", "behind", "unusable", "interrupted", "not_found", "own_change"]
"""Where a read came from: the replica, or the primary because the replica was too far behind, was gone or no standby
of this primary, broke off or canceled, had no such thing, or might not have what this reader just changed."""

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

log = logging.getLogger(__name__)


class NotFollowing(ReceiverError):
    """What was to be a replica is none of this primary."""

    code = "not_following"


def measure(primary: Connection, standby: Connection, limit_seconds: float) -> float | None:
    """Seconds until the standby shows what the primary has now. None: longer than the limit. Raises NotFollowing."""
    copied_from, replayed = _get_replayed(standby)
    row = primary.execute(
        "select system_identifier, (pg_current_wal_lsn() - '0/0')::bigint from pg_control_system()"
    ).fetchone()
    assert row is not None  # noqa: S101 one row
    system_identifier, written = row
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
    """The identifier of the standby's cluster, and its position in the log. Raises NotFollowing."""
    row = standby.execute(
        "select pg_is_in_recovery(), system_identifier, (pg_last_wal_replay_lsn() - '0/0')::bigint"
        " from pg_control_system()"
    ).fetchone()
    assert row is not None  # noqa: S101 one row
    is_standby, system_identifier, replayed = row
    if not is_standby:
        raise NotFollowing("it is not a standby: it was promoted, or DATABASE_REPLICA_URL leads to a primary")
    return system_identifier, int(replayed or 0)


class Replica:
    """The connections to a standby, and a thread that measures its lag. Open it after any fork."""

    def __init__(self, conninfo: str, primary_conninfo: str, *, max_lag_seconds: float, max_size: int) -> None:
        """Raises ReceiverError with code `database_url` if `conninfo` is malformed. An absent server is no error."""
        full_conninfo(conninfo, name="", variable="DATABASE_REPLICA_URL")
        self._conninfo, self._primary_conninfo = conninfo, primary_conninfo
        self.max_lag_seconds = max_lag_seconds
        self.pool = open_pool(
            conninfo, max_size=max_size, name="receiver web replica", wait_seconds=CONNECTION_WAIT_SECONDS
        )
        self.fault: str | None = "it was not measured yet"
        """Why it cannot be used, in words. None: it can."""
        self._shows: float | None = None
        """It shows everything that the primary had at this moment of the monotonic clock. None: not known."""
        self._used = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replica-watch", daemon=True)
        self._thread.start()

    @property
    def lag_seconds(self) -> float | None:
        """An answer may lack what was stored in the last so many seconds. None: not known."""
        return None if self._shows is None else time.monotonic() - self._shows

    def fitness(self) -> Unfit | float:
        """`lag_seconds` if it may be asked now, else the reason why not."""
        lag = self.lag_seconds
        if self.fault is not None or lag is None:
            return "unusable"
        return "behind" if lag > self.max_lag_seconds else lag

    def doubt(self) -> None:
        """It did not answer: do not use it before the next measurement."""
        self.fault = "the connection was lost, or none was available"

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2)
        self.pool.close(timeout=2)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                # Not from the pools: while there is much to do, a connection of theirs may have to be waited for.
                with _connect(self._primary_conninfo) as primary:
                    try:
                        self._follow(primary)
                    except (psycopg.Error, ReceiverError) as error:
                        if not primary.closed:
                            self._shows, self.fault = None, str(error).strip()
            except (psycopg.Error, ReceiverError):
                pass  # An absent primary is reported elsewhere, and the lag grows by itself.
            except Exception as error:
                log.exception("measuring the replica's lag failed; trying again", extra=about("looking_failed"))
                self._shows, self.fault = None, f"measuring its lag failed: {error}"
            self._log_change()
            self._stop.wait(MEASURE_SECONDS)

    def _follow(self, primary: Connection) -> None:
        """Measure until something fails. Raises psycopg.Error and ReceiverError."""
        with _connect(self._conninfo) as standby:
            # The address may name several servers: idle connections of the pool may lead to another one.
            self.pool.drain()
            while not self._stop.is_set():
                asked_at = time.monotonic()
                if measure(primary, standby, self.max_lag_seconds) is not None:
                    self._shows, self.fault = asked_at, None
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
    """The reads of one answer: by the replica as long as it serves, and by the primary from then on.

    Never back, so that what one answer is put together from does not become older on the way. The replica's word that
    there is no such thing is not taken: the primary is asked whether that is so.
    """

    def __init__(self, primary: Pool, replica: Replica | None = None, *, own_change: bool = False) -> None:
        self._primary = primary
        self._replica = replica
        self.came: Came | None = None
        """Where the last read came from; None: there was none, or there is no replica."""
        self.lag_seconds = 0.0
        """By how much the replica was behind, at most, when it was asked."""
        self._own_change = own_change

    def read(
        self, read: Callable[Concatenate[Connection, _Given], _Found], *given: _Given.args, **named: _Given.kwargs
    ) -> _Found:
        """What `read` returns, given a connection. It may be called twice, and must change nothing.

        Raises what it raises at the primary, and DatabaseUnavailable.
        """
        return self._read(reading, lambda conn: read(conn, *given, **named))

    def read_at_one_moment(self, read: Callable[[Connection], _Found]) -> _Found:
        """As `read`, but all that is read with the connection is as it was at one moment."""
        return self._read(at_one_moment, read)

    def _read(
        self, connected: Callable[[Pool], AbstractContextManager[Connection]], read: Callable[[Connection], _Found]
    ) -> _Found:
        if self._replica is not None and self.came in (None, "replica"):
            fitness = "own_change" if self._own_change else self._replica.fitness()
            if not isinstance(fitness, float):
                self.came = fitness
            else:
                self.came, self.lag_seconds = "replica", max(self.lag_seconds, fitness)
                try:
                    with connected(self._replica.pool) as conn:
                        return read(conn)
                except NotFound:
                    self.came = "not_found"
                except DatabaseUnavailable:
                    self.came = "interrupted"
                    self._replica.doubt()
                except psycopg.Error:
                    # Canceled, because replay was waiting for it (Postgres manual, 26.4.2); or not yet migrated.
                    # Where it is anything else, the primary says so, too.
                    self.came = "interrupted"
        with connected(self._primary) as conn:
            return read(conn)
