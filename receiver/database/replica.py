"""A hot standby for reading: how far it is behind, and what is asked of the primary in its stead.

How far behind is found out beside the reads, about once a second: the primary is asked how far it has written its
log, and a moment later the standby how far it has replayed it. What the standby has replayed, it shows; so an answer
of it is at most as old as the last question to the primary whose log it has passed. That needs no clocks that agree,
an idle primary is no lag, and a standby whose line is cut falls behind as soon as the primary writes anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
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

LOOK_SECONDS = 1.0
"""Between two looks at how far the standby is."""

FIRST_LOOKS_SECONDS = 0.2
"""As long as that is not known: after a start, and when the standby is back."""

HEAD_START_SECONDS = 0.1
"""From the question to the primary to that to the standby: an ordinary standby has caught up by then."""

REMEMBERED = 3600
"""Looks. A standby that is further behind is so by nobody knows how much."""

WAIT_SECONDS = 0.5
"""Longest wait for a connection to the standby: the primary is there, too."""

PATIENCE_SECONDS = 3.0
"""How long a look may take: a server that hangs says nothing, and breaks nothing off."""

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


class Behind:
    """How old a standby's answers are, from positions in the log. Does no I/O; times are of one monotonic clock."""

    def __init__(self) -> None:
        self._written: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)
        self._replayed: int | None = None
        self.shows: float | None = None
        """The standby shows all that the primary had at this moment; None: not known."""

    def see(self, at: float, written: int, replayed: int) -> None:
        """The primary's position at a moment, and the standby's a little later. Raises NotFollowing.

        The standby can never be where the primary was not yet when it was asked afterwards, unless that is another
        history: of the former primary after a failover, say.
        """
        before, self._replayed = self._replayed, replayed
        if before is None:
            return
        if before > written:
            # Also forgets the moments: it must not seem to follow when the primary has written as much.
            self._written.clear()
            self.shows = None
            raise NotFollowing("it has replayed what the primary never wrote; make it anew from this primary")
        self._written.append((at, written))
        while self._written and self._written[0][1] <= replayed:
            self.shows, _ = self._written.popleft()


def get_written(conn: Connection) -> tuple[int, int]:
    """Of a primary: the cluster's identifier, and how far its log is written. Raises psycopg.Error on a standby."""
    row = conn.execute(
        "select system_identifier, (pg_current_wal_lsn() - '0/0')::bigint from pg_control_system()"
    ).fetchone()
    assert row is not None  # noqa: S101 one row
    return row[0], row[1]


def get_replayed(conn: Connection, system_identifier: int) -> int:
    """Of a standby: how far it has replayed its primary's log. Raises NotFollowing where it is none of this cluster."""
    row = conn.execute(
        "select pg_is_in_recovery(), system_identifier, (pg_last_wal_replay_lsn() - '0/0')::bigint"
        " from pg_control_system()"
    ).fetchone()
    assert row is not None  # noqa: S101 one row
    is_standby, found, replayed = row
    if found != system_identifier:
        raise NotFollowing("it is a copy of another database; correct DATABASE_REPLICA_URL")
    if not is_standby:
        raise NotFollowing("it is no standby; it was promoted, or DATABASE_REPLICA_URL leads to a primary")
    return int(replayed or 0)


def measure(primary: Connection, standby: Connection, patience_seconds: float) -> float | None:
    """Seconds until the standby shows what the primary has now; None: longer than that. Raises NotFollowing."""
    system_identifier, written = get_written(primary)
    began = time.monotonic()
    while get_replayed(standby, system_identifier) < written:
        if time.monotonic() - began > patience_seconds:
            return None
        time.sleep(0.02)
    return time.monotonic() - began


class Replica:
    """The connections to a standby, and a thread that keeps an eye on it. Open it after any fork."""

    def __init__(self, conninfo: str, primary_conninfo: str, *, max_lag_seconds: float, max_size: int) -> None:
        """Raises ReceiverError with code `database_url` where `conninfo` is none; that nobody answers is no error."""
        full_conninfo(conninfo, name="", variable="DATABASE_REPLICA_URL")
        self._conninfo = {"primary": primary_conninfo, "replica": conninfo}
        self._eyes: dict[str, Connection] = {}
        self.max_lag_seconds = max_lag_seconds
        self.pool = open_pool(conninfo, max_size=max_size, name="receiver web replica", wait_seconds=WAIT_SECONDS)
        self._behind = Behind()
        self.fault: str | None = "it was not looked at yet"
        """What was wrong with it when it was last looked at or asked, in words; None: nothing."""
        self._stale = False
        """Whether connections of the pool may lead elsewhere than to the standby that was looked at."""
        self._used = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="replica-watch", daemon=True)
        self._thread.start()

    @property
    def lag_seconds(self) -> float | None:
        """An answer given now may lack what was stored within so many seconds; None: nobody knows."""
        shows = self._behind.shows
        return None if shows is None else time.monotonic() - shows

    def fitness(self) -> Unfit | float:
        """Why it must not be asked now; where it may, `lag_seconds`."""
        lag = self.lag_seconds
        if self.fault is not None or lag is None:
            return "unusable"
        return "behind" if lag > self.max_lag_seconds else lag

    def doubt(self) -> None:
        """It did not answer: nobody asks it until it was looked at again."""
        self.fault = "it broke off, or had no connection to give"

    def close(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=2)
        for conn in self._eyes.values():
            conn.close()
        self.pool.close(timeout=2)

    def _watch(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._look()
                self.fault = None
            except (psycopg.Error, ReceiverError) as error:
                self._behind = Behind()
                self.fault = str(error).strip()
            except Exception as error:
                log.exception("looking at the replica failed; trying again", extra=about("looking_failed"))
                self._behind, self.fault = Behind(), f"looking at it failed: {error}"
            self._tell()
            known = self.fault is not None or self._behind.shows is not None
            self._wake.wait(LOOK_SECONDS if known else FIRST_LOOKS_SECONDS)

    def _look(self) -> None:
        at = time.monotonic()
        try:
            system_identifier, written = get_written(self._eye("primary"))
        except (psycopg.Error, ReceiverError):
            # Its own matter, of which others tell. How old the replica's answers are shows by itself.
            self._close_eye("primary")
            return
        time.sleep(HEAD_START_SECONDS)
        try:
            self._behind.see(at, written, get_replayed(self._eye("replica"), system_identifier))
        except (psycopg.Error, NotFollowing):
            # The address may name several servers, of which the next connection finds the one that is a standby.
            self._close_eye("replica")
            self._stale = True
            raise
        if self._stale:
            self.pool.drain()  # so must the reads' connections: idle ones may lead to what is the primary now
            self._stale = False

    def _eye(self, which: str) -> Connection:
        """A connection to look with: one of the pools' might have to be waited for while there is much to do."""
        conn = self._eyes.get(which)
        if conn is None or conn.closed:
            conn = connect(
                self._conninfo[which], name="receiver web watch", autocommit=True, patience_seconds=PATIENCE_SECONDS
            )
            self._eyes[which] = conn
        return conn

    def _close_eye(self, which: str) -> None:
        if (conn := self._eyes.pop(which, None)) is not None:
            conn.close()

    def _tell(self) -> None:
        """In the log, when it changes whether it is asked."""
        fit = isinstance(self.fitness(), float)
        if fit and not self._used:
            log.info("the replica is asked for lists, sums and files", extra=about("replica_used"))
        elif not fit and self._used:
            reason = self.fault or f"it is more than {self.max_lag_seconds:g} seconds behind"
            log.warning("the replica is not asked, the primary is: %s", reason, extra=about("replica_not_used"))
        self._used = fit


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
