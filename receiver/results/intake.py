"""From a request to durable: group commit without a timer, and the spool when the database is away.

One writer thread a process commits whatever gathered while its last commit ran. Whoever brought a
callback waits for its group. A database that fails or keeps silent for `PATIENCE_SECONDS` is *away*: its
connection is cut, the group goes to the spool, and so do all that follow, at once, until another
thread has reached the database and proved with a prompt commit that it can store; it then empties the
spool into it, beside what comes. Under gevent these threads are greenlets; nothing here depends on which.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg

from receiver.database.pool import Connection
from receiver.database.sessions import Session, get_session, lives
from receiver.errors import ReceiverError
from receiver.logs import OncePer, about
from receiver.results.journal import Callback, Group, write_group
from receiver.results.spool import Spool

PATIENCE_SECONDS = 1.2
"""How long a commit may take before the database counts as away. The answer is owed within two seconds."""

PROMPT_SECONDS = 0.5
"""A database that stores a group within this is back."""

PROBE_SECONDS = 0.5
"""Between two tries to reach a database that is away."""

SPOOL_CHECK_SECONDS = 5.0
"""Between two looks for groups that another process, or an earlier one, left in the spool."""

DRAIN_CALLBACKS = 500
"""How many callbacks are read from the spool at once."""

DRAIN_PATIENCE_SECONDS = 30.0
"""How long what was read from the spool at once may take to store; nothing else is drained meanwhile."""

NOT_DRAINED_SECONDS = 10.0
"""One line of the log in so many seconds where the spool cannot be drained."""

log = logging.getLogger(__name__)
_drains = logging.getLogger(f"{__name__}.drains")
_drains.addFilter(OncePer(NOT_DRAINED_SECONDS))


class CannotStore(ReceiverError):
    """Neither the database nor the spool could keep the callback. The sender must be told to try again."""

    code = "storage_unavailable"


class _Gathering:
    """Callbacks that will be one group, and those who wait for it."""

    __slots__ = ("callbacks", "done", "failure", "spooled")

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.done = threading.Event()
        self.failure: Exception | None = None
        self.spooled = False


class Intake:
    """Stores callbacks. `connect` opens an autocommit connection, and gives up within about two seconds."""

    def __init__(self, connect: Callable[[], Connection], spool: Spool) -> None:
        self.spool = spool
        self._connect = connect
        self._lock = threading.Lock()
        self._gathering = _Gathering()
        self._wake = threading.Event()
        self._conn: Connection | None = None
        self._last_try: Session | None = None
        self._look = threading.Event()
        self._stopping = False
        self._writer_id, self._sequence = uuid4(), 0
        self._threads = [
            threading.Thread(target=self._write_groups, name="journal-writer", daemon=True),
            threading.Thread(target=self._look_after_database, name="journal-recovery", daemon=True),
        ]

    @property
    def database_away(self) -> bool:
        return self._conn is None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Store what has gathered, then end both threads. Whoever comes later is told CannotStore."""
        with self._lock:
            self._stopping = True
        self._wake.set()
        self._look.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        self._disconnect()
        self.spool.close()

    def store(self, callback: Callback) -> bool:
        """Return once the callback is durable: True where that is in the spool. Raises CannotStore."""
        with self._lock:
            if self._stopping:
                raise CannotStore("The service is stopping; send the callback again.")
            gathering = self._gathering
            gathering.callbacks.append(callback)
        self._wake.set()
        if not gathering.done.wait(PATIENCE_SECONDS):
            self._cut_connection()
            gathering.done.wait()
        if gathering.failure is not None:
            raise CannotStore("The callback could not be stored; send it again.") from gathering.failure
        return gathering.spooled

    def _write_groups(self) -> None:
        while True:
            if not self._stopping:
                self._wake.wait()
            self._wake.clear()
            with self._lock:
                gathering, self._gathering = self._gathering, _Gathering()
            if gathering.callbacks:
                try:
                    gathering.spooled = self._write(gathering.callbacks)
                except Exception as error:  # whatever it is: who waits must hear of it
                    gathering.failure = error
                    log.error("callbacks could not be stored: %s", error, extra=about("callbacks_not_stored"))
                finally:
                    gathering.done.set()
            elif self._stopping:
                return

    def _write(self, callbacks: list[Callback]) -> bool:
        """Make them durable; whether that is in the spool."""
        with self._lock:
            # In one step: a group named before the database was away must not overtake those in the spool.
            conn = self._conn
            self._sequence += 1
            group = Group(self._writer_id, self._sequence, tuple(callbacks))
        if conn is None:
            self.spool.append(group)
            if self._conn is not None:
                self._look.set()  # it came back meanwhile, and the spool may have been drained already
            return True
        try:
            write_group(conn, group)
            return False
        except psycopg.Error as error:
            log.warning("database away, callbacks go to the spool: %s", error, extra=about("database_away"))
            self._disconnect()
            try:
                self.spool.append(group)
            finally:
                self._look.set()  # only now: whoever looks earlier finds nothing to drain
            return True

    def _look_after_database(self) -> None:
        while not self._stopping:
            pause = PROBE_SECONDS
            try:
                if self._conn is None:
                    self._return()
                elif self.spool.oldest(1):
                    with self._connect() as conn:
                        self._drain(conn)
                if self._conn is not None:
                    pause = SPOOL_CHECK_SECONDS
            except (psycopg.Error, ReceiverError) as error:
                if self._conn is None:
                    log.debug("database or spool still away: %s", error, extra=about("still_away"))
                else:
                    _drains.warning("the spool cannot be drained: %s", error, extra=about("spool_not_drained"))
            except Exception:
                log.exception("looking after the database failed; trying again", extra=about("looking_failed"))
            self._look.wait(pause)
            self._look.clear()

    def _return(self) -> None:
        """Go back to the database, if it is there and stores."""
        conn = self._connect()
        if not self._stores(conn):
            conn.close()
            return
        with self._lock:
            # A new name for what comes: the old one's groups may lie in the spool, and a writer's groups
            # must reach the journal in their order.
            self._writer_id, self._sequence = uuid4(), 0
            self._conn = conn
        self._look.set()

    def _stores(self, conn: Connection) -> bool:
        """Whether it does so promptly, and has room for what was spooled."""
        try:
            with _cut_after(PATIENCE_SECONDS, conn):
                if self._last_try is not None and lives(conn, self._last_try):
                    # Its commit still waits: for a synchronous standby, say, and does so whoever hung up. Another one
                    # would, too, and then another, until the server has no connection left for anybody.
                    return False
                self._last_try = get_session(conn)
                began = time.monotonic()
                write_group(conn, Group(uuid4(), 1, ()))
                if time.monotonic() - began > PROMPT_SECONDS:
                    return False
        except psycopg.Error:
            return False
        try:
            with self._connect() as beside:
                self._tell_drained(self._drain_some(beside, PATIENCE_SECONDS))
        except psycopg.errors.DiskFull:
            return False  # a full disk takes a group of none, and nothing that has to be put somewhere
        except (psycopg.Error, ReceiverError) as error:
            # Whatever else holds up the spool must not hold up what comes.
            log.debug("the spool cannot be drained yet: %s", error, extra=about("still_away"))
        return True

    def _drain(self, conn: Connection) -> None:
        stored = 0
        while not self._stopping and (some := self._drain_some(conn)):
            stored += some
        self._tell_drained(stored)

    def _drain_some(self, conn: Connection, patience_seconds: float | None = None) -> int:
        """Store the oldest groups of the spool, and forget them there; returns how many callbacks they were."""
        groups = self.spool.oldest(DRAIN_CALLBACKS)
        if not groups:
            return 0
        # Each group commits by itself: a transaction left open on a broken line would lock out the next try. One that
        # was stored before, and may be on this server alone, is on its synchronous standbys afterwards, too: to find
        # that it is claimed locks its row, so that this commit as well is written to the log and waits for them.
        reached = None
        try:
            with _cut_after(patience_seconds or DRAIN_PATIENCE_SECONDS, conn):
                for position, group in groups:
                    write_group(conn, group)
                    reached = position
        finally:
            # Where it is cut off, the next try must not begin at the first group again: it might never come further.
            if reached is not None:
                self.spool.remove(reached)
        return sum(len(group.callbacks) for _, group in groups)

    def _tell_drained(self, stored: int) -> None:
        if stored:
            log.info("spool drained: %d callbacks", stored, extra=about("spool_drained", callbacks=stored))

    def _cut_connection(self) -> None:
        """Make the writer's statement fail now. It may still be carried out: `write_group` allows for that."""
        conn = self._conn
        if conn is not None:
            _shut_down(conn)

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()


@contextlib.contextmanager
def _cut_after(seconds: float, conn: Connection) -> Iterator[None]:
    """Make what runs on the connection fail if it takes longer: a server can be silent for ever."""
    watchdog = threading.Timer(seconds, _shut_down, (conn,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _shut_down(conn: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
