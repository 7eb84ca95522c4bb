"""From a request to durable: group commit without a timer, and the spool when the database is away.

One writer thread a process commits whatever gathered while its last commit ran. Whoever brought a
callback waits for its group. A database that fails or keeps silent for `PATIENCE_SECONDS` is *away*: its
connection is cut, the group goes to the spool, and so do all that follow, at once, until another
thread has reached the database, proved with a prompt commit that it can store, and emptied the
spool into it. Under gevent these threads are greenlets; nothing here depends on which.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import psycopg

from receiver.database.pool import Connection
from receiver.errors import ReceiverError
from receiver.results.journal import Callback, Group, write_group
from receiver.results.spool import Spool, SpoolFailed

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

log = logging.getLogger(__name__)


class CannotStore(ReceiverError):
    """Neither the database nor the spool could keep the callback. The sender must be told to try again."""

    code = "storage_unavailable"


class _Gathering:
    """Callbacks that will be one group, and those who wait for it."""

    __slots__ = ("callbacks", "done", "failure")

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.done = threading.Event()
        self.failure: Exception | None = None


class Intake:
    """Stores callbacks. `connect` opens an autocommit connection, and gives up within about two seconds."""

    def __init__(self, connect: Callable[[], Connection], spool: Spool) -> None:
        self.spool = spool
        self._connect = connect
        self._lock = threading.Lock()
        self._gathering = _Gathering()
        self._wake = threading.Event()
        self._conn: Connection | None = None
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
        """Store what has gathered, then end both threads."""
        self._stopping = True
        self._wake.set()
        self._look.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        self._disconnect()
        self.spool.close()

    def store(self, callback: Callback) -> None:
        """Return once the callback is durable. Raises CannotStore."""
        with self._lock:
            gathering = self._gathering
            gathering.callbacks.append(callback)
        self._wake.set()
        if not gathering.done.wait(PATIENCE_SECONDS):
            self._cut_connection()
            gathering.done.wait()
        if gathering.failure is not None:
            raise CannotStore("The callback could not be stored; send it again.") from gathering.failure

    def _write_groups(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                gathering, self._gathering = self._gathering, _Gathering()
            if gathering.callbacks:
                try:
                    self._write(gathering.callbacks)
                except Exception as error:  # whatever it is: who waits must hear of it
                    gathering.failure = error
                    log.error("callbacks could not be stored: %s", error)
                finally:
                    gathering.done.set()
            elif self._stopping:
                return

    def _write(self, callbacks: list[Callback]) -> None:
        with self._lock:
            # In one step: a group named before the database was away must not overtake those in the spool.
            conn = self._conn
            self._sequence += 1
            group = Group(self._writer_id, self._sequence, tuple(callbacks))
        if conn is not None:
            try:
                write_group(conn, group)
                return
            except psycopg.Error as error:
                log.warning("database away, callbacks go to the spool: %s", error)
                self._disconnect()
                self._look.set()
        self.spool.append(group)

    def _look_after_database(self) -> None:
        while not self._stopping:
            if self._conn is None:
                self._return()
            else:
                with contextlib.suppress(SpoolFailed, psycopg.Error):
                    if self.spool.oldest(1):
                        with self._connect() as conn:
                            self._drain(conn)
            self._look.wait(PROBE_SECONDS if self._conn is None else SPOOL_CHECK_SECONDS)
            self._look.clear()

    def _return(self) -> None:
        """Go back to the database, if it is there and stores promptly."""
        try:
            conn = self._connect()
        except (psycopg.Error, ReceiverError):
            return
        watchdog = threading.Timer(PATIENCE_SECONDS, _shut_down, (conn,))
        watchdog.daemon = True
        watchdog.start()
        try:
            began = time.monotonic()
            write_group(conn, Group(uuid4(), 1, ()))
            if time.monotonic() - began > PROMPT_SECONDS:
                conn.close()
                return
        except psycopg.Error:
            conn.close()
            return
        finally:
            watchdog.cancel()
        with self._lock:
            # A new name for what comes: the old one's groups may lie in the spool, and a writer's groups
            # must reach the journal in their order.
            self._writer_id, self._sequence = uuid4(), 0
            self._conn = conn
        self._look.set()

    def _drain(self, conn: Connection) -> None:
        stored = 0
        while not self._stopping and (groups := self.spool.oldest(DRAIN_CALLBACKS)):
            for position, group in groups:
                write_group(conn, group)
                self.spool.remove(position)
                stored += len(group.callbacks)
        log.info("spool drained: %d callbacks", stored)

    def _cut_connection(self) -> None:
        """Make the writer's statement fail now. It may still be carried out: `write_group` allows for that."""
        conn = self._conn
        if conn is not None:
            _shut_down(conn)

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()


def _shut_down(conn: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
