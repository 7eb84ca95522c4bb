"""From a request to durable: group commit, and the spool when the database is away.

In each process, one thread writes to the journal: it commits whatever gathered while its last commit ran. Whoever
brought a callback waits for its group. A database that fails or keeps silent for `COMMIT_SECONDS` is *away*: its
connection is cut, and the group goes to the thread that writes to the spool. So do all that follow, at once, until the
`DatabaseProbe` has brought it back. Each has a thread of its own, so neither delays what the other can store.
A thread may bring a callback, or an event loop (receiver.intake.endpoint).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
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

GATHER_SECONDS = 0.002
"""How long the writer waits for the senders that it just answered to send again. One group of all of them costs much
less than two that take turns. A single sender never waits.
"""

log = logging.getLogger(__name__)


class CannotStore(ReceiverError):
    """Neither the database nor the spool could keep the callback. The sender must be told to try again."""

    code = "storage_unavailable"


class Gathering:
    """Callbacks that will be one group. `stored` belongs to the loop that added them."""

    __slots__ = ("callbacks", "done", "failure", "spooled", "stored")

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.stored: Any = None
        self.done = threading.Event()
        self.failure: Exception | None = None
        self.spooled = False


class Writer:
    """Stores callbacks. `connect` opens an autocommit connection, and gives up within about two seconds."""

    on_done: Callable[[Gathering], None] | None = None
    """Called in the thread that wrote it when a gathering is done."""

    def __init__(self, connect: Callable[[], Connection], spool: Spool) -> None:
        self.spool = spool
        self._names, self._spool_names = GroupNames(spool), GroupNames(spool)
        self._wake, self._wake_spool = threading.Event(), threading.Event()
        # What gathered behind a spool that hangs goes to the database when that is back.
        self._database = DatabaseProbe(connect, spool, self._names.may_go_on, self._wake.set, COMMIT_SECONDS)
        self._failed: deque[tuple[Gathering, Group]] = deque()
        self._journal_ended = False
        self._lock = threading.Lock()
        self._gathering = Gathering()
        self._expected = 1
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._write_groups, name="journal-writer", daemon=True),
            threading.Thread(target=self._spool_groups, name="spool-writer", daemon=True),
        ]

    @property
    def database_away(self) -> bool:
        return self._database.conn is None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._database.start()

    def stop(self) -> None:
        """Store what has gathered, then end the threads. Whoever comes later is told CannotStore."""
        with self._lock:
            self._stopping = True
        self._database.stop()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        self._database.close()
        self.spool.close()

    def add(self, callback: Callback) -> Gathering:
        """Hand a callback to the writer; it is durable once the gathering is done. Raises CannotStore."""
        with self._lock:
            if self._stopping:
                raise CannotStore("The service is stopping; send the callback again.")
            gathering = self._gathering
            gathering.callbacks.append(callback)
            if len(gathering.callbacks) in (1, self._expected):
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

    def give_up(self, gathering: Gathering, callback: Callback | None = None) -> None:
        """Nobody waits for it, or for any, any more. What the writer has not taken yet must not pile up behind it."""
        with self._lock:
            if gathering is self._gathering:
                kept = gathering.callbacks if callback is not None else ()
                gathering.callbacks = [each for each in kept if each is not callback]

    def _write_groups(self) -> None:
        while not self._stopping or (self._database.conn is not None and self._gathering.callbacks):
            if not self._stopping:
                self._wake.wait()
                self._wake.clear()
                if 0 < len(self._gathering.callbacks) < self._expected:
                    self._wake.wait(GATHER_SECONDS)
            self._wake.clear()
            if (conn := self._database.conn) is None:
                self._wake_spool.set()
            elif (gathering := self._take()).callbacks:
                try:
                    self._write(conn, gathering)
                except Exception as error:  # whatever it is: who waits must hear of it
                    self._finish(gathering, error)
        self._journal_ended = True
        self._wake_spool.set()

    def _write(self, conn: Connection, gathering: Gathering) -> None:
        group = self._names.group(gathering.callbacks, directly=True)
        try:
            write_group(conn, group)
        except psycopg.Error as error:
            log.warning("database unavailable, callbacks go to the spool: %s", error, extra=about("database_away"))
            self._names.handed_over()
            self._failed.append((gathering, group))
            self._database.disconnect()
            self._wake_spool.set()
        else:
            self._expected = len(group.callbacks) + len(self._gathering.callbacks)
            self._finish(gathering)

    def _spool_groups(self) -> None:
        while not self._journal_ended or self._failed or self._gathering.callbacks:
            self._wake_spool.wait()
            self._wake_spool.clear()
            while self._failed:  # first what the database did not store, then what gathers while it is away
                self._spool(*self._failed.popleft())
                self._database.check_now()  # only now: whoever looked earlier found nothing to drain
            while (self.database_away or self._journal_ended) and (gathering := self._take()).callbacks:
                self._spool(gathering, self._spool_names.group(gathering.callbacks, directly=False))
                if not self.database_away:
                    self._database.check_now()  # it came back meanwhile, and the spool may have been drained already

    def _spool(self, gathering: Gathering, group: Group) -> None:
        try:
            position = self.spool.append(group)
        except Exception as error:  # as above
            self._names.spooled(group, None)
            self._finish(gathering, error)
        else:
            self._names.spooled(group, position)
            gathering.spooled = True
            self._finish(gathering)

    def _take(self) -> Gathering:
        with self._lock:
            gathering, self._gathering = self._gathering, Gathering()
        return gathering

    def _finish(self, gathering: Gathering, failure: Exception | None = None) -> None:
        if failure is not None:
            gathering.failure = failure
            log.error("callbacks could not be stored: %s", failure, extra=about("callbacks_not_stored"))
        gathering.done.set()
        if self.on_done is not None:
            self.on_done(gathering)

    def cut_connection(self) -> None:
        """Make the statement that is being written fail now. It may still be carried out: `write_group` allows that."""
        self._database.cut_connection()
