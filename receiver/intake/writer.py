"""From a request to durable: group commit without a timer, and the spool when the database is away.

One writer thread a process commits whatever gathered while its last commit ran. Whoever brought a
callback waits for its group. A database that fails or keeps silent for `COMMIT_SECONDS` is *away*: its
connection is cut, the group goes to the spool, and so do all that follow, at once, until the
`DatabaseProbe` has brought it back. A thread may bring a callback, or an event loop (receiver.intake.endpoint).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
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
"""How long a commit may take before the database counts as away. The answer is owed within two seconds."""

ANSWER_SECONDS = 8.0
"""The longest that anybody is kept waiting, whatever holds up the writer: then the sender is told to try again."""

log = logging.getLogger(__name__)


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


class Writer:
    """Stores callbacks. `connect` opens an autocommit connection, and gives up within about two seconds."""

    on_done: Callable[[Gathering], None] | None = None
    """Called in the writer's thread when a gathering is done."""

    def __init__(self, connect: Callable[[], Connection], spool: Spool) -> None:
        self.spool = spool
        self._names = GroupNames(spool)
        self._database = DatabaseProbe(connect, spool, self._names.may_go_on, COMMIT_SECONDS)
        self._lock = threading.Lock()
        self._gathering = Gathering()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._write_groups, name="journal-writer", daemon=True)

    @property
    def database_away(self) -> bool:
        return self._database.conn is None

    def start(self) -> None:
        self._thread.start()
        self._database.start()

    def stop(self) -> None:
        """Store what has gathered, then end both threads. Whoever comes later is told CannotStore."""
        with self._lock:
            self._stopping = True
        self._database.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._database.close()
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
        conn = self._database.conn
        group = self._names.group(callbacks, directly=conn is not None)
        if conn is None:
            self._spool(group)
            if not self.database_away:
                self._database.check_now()  # it came back meanwhile, and the spool may have been drained already
            return True
        try:
            write_group(conn, group)
            return False
        except psycopg.Error as error:
            log.warning("database away, callbacks go to the spool: %s", error, extra=about("database_away"))
            self._database.disconnect()
            try:
                self._spool(group)
            finally:
                self._database.check_now()  # only now: whoever looks earlier finds nothing to drain
            return True

    def _spool(self, group: Group) -> None:
        self._names.spooled(self.spool.append(group))

    def cut_connection(self) -> None:
        """Make the statement that is being written fail now. It may still be carried out: `write_group` allows that."""
        self._database.cut_connection()
