"""Makes callbacks durable: by group commit, or in the spool while the database is unavailable.

In each process, one thread writes to the journal: it commits all callbacks that were added during its last commit. Each
sender waits for its group. A database that fails, or does not answer for `COMMIT_SECONDS`, is *unavailable*: its
connection is cut, and the group goes to a second thread, which writes to the spool. All further groups go there, too,
until the `DatabaseProbe` has a new connection. With two threads, the database and the spool never delay each other.
Callbacks are added by threads or by an event loop (receiver.intake.endpoint).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psycopg

from receiver.database.pool import Connection
from receiver.errors import ReceiverError
from receiver.intake.database_probe import DatabaseProbe
from receiver.intake.group_names import GroupNames
from receiver.intake.journal import Callback, Group, write_group
from receiver.intake.spool import Spool
from receiver.logs import about

COMMIT_SECONDS = 1.2
"""If a commit takes longer, the database is unavailable. An answer is required within two seconds."""

ANSWER_SECONDS = 8.0
"""The longest wait of a sender. After that, it is asked to try again."""

GATHER_SECONDS = 0.005
"""How long the writer waits for the next callbacks of the senders that it has just answered. One group for all senders
costs much less than two groups. A single sender never waits.
"""

log = logging.getLogger(__name__)


class CannotStore(ReceiverError):
    """Neither the database nor the spool could store the callback. The sender must try again."""

    code = "storage_unavailable"


class Pending:
    """Callbacks that will be one group. `answer` belongs to the event loop that added them."""

    __slots__ = ("answer", "callbacks", "stored")

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.stored: Future[bool] = Future()
        """The result is whether the group is in the spool. The exception is CannotStore."""
        self.answer: Any = None


class Writer:
    """Stores callbacks. `connect` opens an autocommit connection, and gives up within about two seconds."""

    def __init__(self, connect: Callable[[], Connection], spool: Spool) -> None:
        self.spool = spool
        self._names, self._spool_names = GroupNames(spool), GroupNames(spool)
        self._wake, self._wake_spool = threading.Event(), threading.Event()
        # If the spool hangs, pending callbacks go to the database as soon as it is available.
        self._database = DatabaseProbe(connect, spool, self._names.may_use_journal, self._wake.set, COMMIT_SECONDS)
        self._failed: deque[tuple[Pending, Group]] = deque()
        self._journal_ended = False
        self._lock = threading.Lock()
        self._pending = Pending()
        self._expected = 1
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._write_groups, name="journal-writer", daemon=True),
            threading.Thread(target=self._spool_groups, name="spool-writer", daemon=True),
        ]

    @property
    def database_unavailable(self) -> bool:
        return self._database.conn is None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._database.start()

    def stop(self) -> None:
        """Store the pending callbacks, then end the threads. From now on, `add` raises CannotStore."""
        with self._lock:
            self._stopping = True
        self._database.stop()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        self._database.close()
        self.spool.close()

    def add(self, callback: Callback) -> Pending:
        """Add a callback; it is durable when the returned group is stored. Raises CannotStore."""
        with self._lock:
            if self._stopping:
                raise CannotStore("The service is stopping; send the callback again.")
            pending = self._pending
            pending.callbacks.append(callback)
            if len(pending.callbacks) in (1, self._expected):
                self._wake.set()
        return pending

    def store(self, callback: Callback) -> bool:
        """Return once the callback is durable: True if it is in the spool. Raises CannotStore."""
        pending = self.add(callback)
        try:
            return pending.stored.result(COMMIT_SECONDS)
        except TimeoutError:
            self.cut_connection()
        try:
            return pending.stored.result(ANSWER_SECONDS - COMMIT_SECONDS)
        except TimeoutError:
            self.give_up(pending, callback)
            raise CannotStore("Storing the callback takes too long; send it again.") from None

    def give_up(self, pending: Pending, callback: Callback | None = None) -> None:
        """No sender waits any more for this callback (None: for any callback of the group). What is still pending is
        dropped."""
        with self._lock:
            if pending is self._pending:
                kept = pending.callbacks if callback is not None else ()
                pending.callbacks = [each for each in kept if each is not callback]

    def _write_groups(self) -> None:
        while not self._stopping or (self._database.conn is not None and self._pending.callbacks):
            if not self._stopping:
                self._wake.wait()
                self._wake.clear()
                if 0 < len(self._pending.callbacks) < self._expected:
                    self._wake.wait(GATHER_SECONDS)
            self._wake.clear()
            if (conn := self._database.conn) is None:
                self._wake_spool.set()
            elif (pending := self._take_pending()).callbacks:
                try:
                    self._write(conn, pending)
                except Exception as error:  # any error: the senders are waiting
                    _fail(pending, error)
        self._journal_ended = True
        self._wake_spool.set()

    def _write(self, conn: Connection, pending: Pending) -> None:
        group = self._names.group(pending.callbacks, directly=True)
        try:
            write_group(conn, group)
        except psycopg.Error as error:
            log.warning("database unavailable, callbacks go to the spool: %s", error, extra=about("database_away"))
            self._names.mark_failed()
            self._failed.append((pending, group))
            self._database.disconnect()
            self._wake_spool.set()
        else:
            self._expected = len(group.callbacks) + len(self._pending.callbacks)
            pending.stored.set_result(False)

    def _spool_groups(self) -> None:
        while not self._journal_ended or self._failed or self._pending.callbacks:
            self._wake_spool.wait()
            self._wake_spool.clear()
            while self._failed:  # groups that the database did not store, before later ones
                self._spool(*self._failed.popleft())
                self._database.check_now()  # the spool now has callbacks to drain
            while (self.database_unavailable or self._journal_ended) and (pending := self._take_pending()).callbacks:
                self._spool(pending, self._spool_names.group(pending.callbacks, directly=False))
                if not self.database_unavailable:
                    self._database.check_now()  # it is available again, and the last drain may have been too early

    def _spool(self, pending: Pending, group: Group) -> None:
        try:
            position = self.spool.append(group)
        except Exception as error:  # any error: the senders are waiting
            self._names.spooled(group, None)
            _fail(pending, error)
        else:
            self._names.spooled(group, position)
            pending.stored.set_result(True)

    def _take_pending(self) -> Pending:
        with self._lock:
            pending, self._pending = self._pending, Pending()
        return pending

    def cut_connection(self) -> None:
        """Make the current statement fail now. The server may still execute it: `write_group` allows that."""
        self._database.cut_connection()


def _fail(pending: Pending, error: Exception) -> None:
    log.error("callbacks could not be stored: %s", error, extra=about("callbacks_not_stored"))
    pending.stored.set_exception(CannotStore("The callback could not be stored; send it again."))
