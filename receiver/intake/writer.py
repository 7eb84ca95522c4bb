"""From a request to durable: group commit without a timer, and the spool when the database is away.

One writer thread a process commits whatever gathered while its last commit ran. Whoever brought a
callback waits for its group. A database that fails or keeps silent for `COMMIT_SECONDS` is *away*: its
connection is cut, the group goes to the spool, and so do all that follow, at once, until another
thread has reached the database and proved with a prompt commit that it can store; it then empties the
spool into it, beside what comes. A thread may bring a callback, or an event loop (receiver.intake.endpoint).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg

from receiver.database.pool import Connection
from receiver.database.sessions import Session, get_session, lives
from receiver.errors import ReceiverError
from receiver.intake.draining import cut_after, drain_some, shut_down
from receiver.intake.journal import Callback, Group, write_group
from receiver.intake.spool import Spool, SpoolFailed
from receiver.logs import OncePer, about

COMMIT_SECONDS = 1.2
"""How long a commit may take before the database counts as away. The answer is owed within two seconds."""

ANSWER_SECONDS = 8.0
"""The longest that anybody is kept waiting, whatever holds up the writer: then the sender is told to try again."""

PROMPT_SECONDS = 0.5
"""A database that stores a group within this is back."""

PROBE_SECONDS = 0.5
"""Between two tries to reach a database that is away."""

SPOOL_CHECK_SECONDS = 5.0
"""Between two looks for groups that another process, or an earlier one, left in the spool."""

NAMES = 20
"""How many names the writer may take at once (`_renew_name`). Each is a row of `journal_writer` for WRITER_DAYS."""

NAME_SECONDS = 60.0
"""How long it takes until it may take another."""

NOT_DRAINED_SECONDS = 10.0
"""One line of the log in so many seconds where the spool cannot be drained."""

log = logging.getLogger(__name__)
_drains = logging.getLogger(f"{__name__}.drains")
_drains.addFilter(OncePer(NOT_DRAINED_SECONDS))


class CannotStore(ReceiverError):
    """Neither the database nor the spool could keep the callback. The sender must be told to try again."""

    code = "storage_unavailable"


class Gathering:
    """Callbacks that will be one group. `waiters` belongs to whoever added them."""

    __slots__ = ("callbacks", "done", "failure", "spooled", "waiters")

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.waiters: list[Any] = []
        self.done = threading.Event()
        self.failure: Exception | None = None
        self.spooled = False


class Intake:
    """Stores callbacks. `connect` opens an autocommit connection, and gives up within about two seconds."""

    on_done: Callable[[Gathering], None] | None = None
    """Called in the writer's thread when a gathering is done."""

    def __init__(self, connect: Callable[[], Connection], spool: Spool) -> None:
        self.spool = spool
        self._connect = connect
        self._lock = threading.Lock()
        self._gathering = Gathering()
        self._wake = threading.Event()
        self._conn: Connection | None = None
        self._last_try: Session | None = None
        self._look = threading.Event()
        self._stopping = False
        # These are the writer's thread's: how it names its groups (`_renew_name`).
        self._writer_id, self._sequence = uuid4(), 0
        self._spooled_up_to: int | None = None
        self._names_paid_until = 0.0
        self._probe_id, self._probes = uuid4(), 0
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

    def add(self, callback: Callback) -> Gathering:
        """Hand a callback to the writer; it is durable once the gathering is done. Raises CannotStore."""
        with self._lock:
            if self._stopping:
                raise CannotStore("The service is stopping; send the callback again.")
            gathering = self._gathering
            gathering.callbacks.append(callback)
            if len(gathering.callbacks) == 1:
                self._wake.set()
        return gathering

    def store(self, callback: Callback) -> bool:
        """Return once the callback is durable: True if it is in the spool. Raises CannotStore."""
        gathering = self.add(callback)
        if not gathering.done.wait(COMMIT_SECONDS):
            self.cut_connection()
            if not gathering.done.wait(ANSWER_SECONDS - COMMIT_SECONDS):
                self.give_up(gathering, callback)
                raise CannotStore("Storing the callback takes too long; send it again.")
        if gathering.failure is not None:
            raise CannotStore("The callback could not be stored; send it again.") from gathering.failure
        return gathering.spooled

    def give_up(self, gathering: Gathering, callback: Callback) -> None:
        """Nobody waits for it any more. What the writer has not taken yet must not pile up behind it."""
        with self._lock:
            if gathering is self._gathering:
                gathering.callbacks = [each for each in gathering.callbacks if each is not callback]

    def _write_groups(self) -> None:
        while True:
            if not self._stopping:
                self._wake.wait()
            self._wake.clear()
            with self._lock:
                gathering, self._gathering = self._gathering, Gathering()
            if gathering.callbacks:
                try:
                    gathering.spooled = self._write(gathering.callbacks)
                except Exception as error:  # whatever it is: who waits must hear of it
                    gathering.failure = error
                    log.error("callbacks could not be stored: %s", error, extra=about("callbacks_not_stored"))
                finally:
                    gathering.done.set()
                    if self.on_done is not None:
                        self.on_done(gathering)
            elif self._stopping:
                return

    def _write(self, callbacks: list[Callback]) -> bool:
        """Make them durable; whether that is in the spool."""
        conn = self._conn
        if conn is not None:
            self._renew_name()
        self._sequence += 1
        group = Group(self._writer_id, self._sequence, tuple(callbacks))
        if conn is None:
            self._spool(group)
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
                self._spool(group)
            finally:
                self._look.set()  # only now: whoever looks earlier finds nothing to drain
            return True

    def _spool(self, group: Group) -> None:
        self._spooled_up_to = self.spool.append(group)

    def _renew_name(self) -> None:
        """Take a new name for what comes, if the spool still holds groups of the present one.

        A writer's groups must reach the journal in their order, and the next one goes there directly. Only the writer's
        thread names groups, and what it spooled is in the spool.
        """
        if not self._is_drained():
            self._writer_id, self._sequence = uuid4(), 0
            self._names_paid_until = max(time.monotonic(), self._names_paid_until) + NAME_SECONDS
        self._spooled_up_to = None

    def _may_rename(self) -> bool:
        """A database that is back only for moments would take a name, and so a row, each time."""
        return self._names_paid_until - time.monotonic() <= (NAMES - 1) * NAME_SECONDS

    def _is_drained(self) -> bool:
        """Whether nothing that goes by the present name is in the spool."""
        try:
            return self._spooled_up_to is None or self.spool.is_past(self._spooled_up_to)
        except SpoolFailed:
            return False

    def _look_after_database(self) -> None:
        while not self._stopping:
            pause = PROBE_SECONDS
            try:
                if self._conn is None:
                    self._return()
                elif self.spool.depth():
                    with self._connect() as conn:
                        self._drain(conn)
                if self._conn is not None:
                    self.spool.clean()
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
        self._conn = conn
        self._look.set()

    def _stores(self, conn: Connection) -> bool:
        """Whether it does so promptly, and has room for what was spooled."""
        try:
            with cut_after(COMMIT_SECONDS, conn):
                if self._last_try is not None and lives(conn, self._last_try):
                    # Its commit still waits: for a synchronous standby, say, and does so whoever hung up. Another one
                    # would, too, and then another, until the server has no connection left for anybody.
                    return False
                self._last_try = get_session(conn)
                began = time.monotonic()
                self._probes += 1
                write_group(conn, Group(self._probe_id, self._probes, ()))
                if time.monotonic() - began > PROMPT_SECONDS:
                    return False
        except psycopg.Error:
            return False
        try:
            with self._connect() as beside:
                self._tell_drained(drain_some(beside, self.spool, COMMIT_SECONDS))
        except psycopg.errors.DiskFull:
            return False  # a full disk takes a group of none, and nothing that has to be put somewhere
        except (psycopg.Error, ReceiverError) as error:
            # Whatever else holds up the spool must not hold up what comes.
            log.debug("the spool cannot be drained yet: %s", error, extra=about("still_away"))
        return self._is_drained() or self._may_rename()

    def _drain(self, conn: Connection) -> None:
        stored = 0
        while not self._stopping and (some := drain_some(conn, self.spool)):
            stored += some
        self._tell_drained(stored)

    def _tell_drained(self, stored: int) -> None:
        if stored:
            log.info("spool drained: %d callbacks", stored, extra=about("spool_drained", callbacks=stored))

    def cut_connection(self) -> None:
        """Make the writer's statement fail now. It may still be carried out: `write_group` allows for that."""
        conn = self._conn
        if conn is not None:
            shut_down(conn)

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
