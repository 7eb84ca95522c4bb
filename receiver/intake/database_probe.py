"""Holds the writer's connection to the database, and restores it after it was lost.

A thread connects, checks with a fast commit that the database can store, and then drains the spool into it while new
callbacks are stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import psycopg
from psycopg.rows import TupleRow

from receiver.database.pool import Connection
from receiver.errors import ReceiverError
from receiver.intake.draining import cut_after, drain_some, shut_down
from receiver.intake.journal import Group, write_group
from receiver.intake.spool import Spool
from receiver.logs import OncePer, about

PROMPT_SECONDS = 0.5
"""A database that stores a group within this time is available again."""

PROBE_SECONDS = 0.5
"""Between two attempts to reach an unavailable database."""

SPOOL_CHECK_SECONDS = 5.0
"""Between two checks for groups that another or an earlier process left in the spool."""

NOT_DRAINED_SECONDS = 10.0
"""At most one log line in this time while the spool cannot be drained."""

# A process id alone is reused. Together with its start it identifies a session for ever.
_OWN_SESSION = "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()"
_IS_ALIVE = "select from pg_stat_activity where pid = %s and backend_start = %s"

log = logging.getLogger(__name__)
_drains = logging.getLogger(f"{__name__}.drains")
_drains.addFilter(OncePer(NOT_DRAINED_SECONDS))


class DatabaseProbe:
    """Holds the connection while the database is available. Otherwise, its thread tries to connect again.

    `may_return`: whether the writer may use a new connection. `on_return`: called when there is one. `stores_within`:
    seconds after which an attempt is cut off.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        spool: Spool,
        may_return: Callable[[], bool],
        on_return: Callable[[], None],
        stores_within: float,
    ) -> None:
        self.conn: Connection | None = None
        """None: the database is unavailable."""
        self._connect = connect
        self._spool = spool
        self._may_return = may_return
        self._on_return = on_return
        self._stores_within = stores_within
        self._check = threading.Event()
        self._stopping = False
        self._last_attempt: TupleRow | None = None
        self._probe_id, self._probes = uuid4(), 0
        self._thread = threading.Thread(target=self._run, name="journal-recovery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Do not check any more. The connection can be used until `close`."""
        self._stopping = True
        self._check.set()

    def close(self) -> None:
        """End the thread and the connection."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.disconnect()

    def check_now(self) -> None:
        """Check now: there is something to drain, or the connection was lost."""
        self._check.set()

    def disconnect(self) -> None:
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.close()

    def cut_connection(self) -> None:
        """Make the current statement on the connection fail now. The server may still execute it."""
        conn = self.conn
        if conn is not None:
            shut_down(conn)

    def _run(self) -> None:
        while not self._stopping:
            pause = PROBE_SECONDS
            try:
                if self.conn is None:
                    self._reconnect()
                elif self._spool.depth():
                    with self._connect() as conn:
                        self._drain(conn)
                if self.conn is not None:
                    self._spool.clean()
                    pause = SPOOL_CHECK_SECONDS
            except (psycopg.Error, ReceiverError) as error:
                if self.conn is None:
                    log.debug("database or spool still unavailable: %s", error, extra=about("still_away"))
                else:
                    _drains.warning("the spool cannot be drained: %s", error, extra=about("spool_not_drained"))
            except Exception:
                log.exception("checking the database failed; trying again", extra=about("looking_failed"))
            self._check.wait(pause)
            self._check.clear()

    def _reconnect(self) -> None:
        """Use a new connection, if the database is available and can store."""
        conn = self._connect()
        if not self._stores(conn):
            conn.close()
            return
        self.conn = conn
        log.info("callbacks are stored in the database", extra=about("database_stores"))
        self._on_return()
        self._check.set()

    def _stores(self, conn: Connection) -> bool:
        """Whether the database stores fast enough, and has room for what is in the spool."""
        try:
            with cut_after(self._stores_within, conn):
                if self._last_attempt is not None and conn.execute(_IS_ALIVE, self._last_attempt).fetchone():
                    # The commit of the last attempt still waits, for example for a synchronous standby. More attempts
                    # would wait as well, and use up the server's connections.
                    return False
                self._last_attempt = conn.execute(_OWN_SESSION).fetchone()
                began = time.monotonic()
                self._probes += 1
                write_group(conn, Group(self._probe_id, self._probes, ()))
                if time.monotonic() - began > PROMPT_SECONDS:
                    return False
        except psycopg.Error:
            return False
        try:
            # A `with` block over the connection itself would turn DiskFull into DatabaseUnavailable.
            with closing(self._connect()) as other:
                self._log_drained(drain_some(other, self._spool, self._stores_within))
        except psycopg.errors.DiskFull:
            return False  # on a full disk, an empty group can be stored, but no callback
        except (psycopg.Error, ReceiverError) as error:
            # Another problem with the spool must not stop new callbacks.
            log.debug("the spool cannot be drained yet: %s", error, extra=about("still_away"))
        return self._may_return()

    def _drain(self, conn: Connection) -> None:
        stored = 0
        while not self._stopping and (some := drain_some(conn, self._spool)):
            stored += some
        self._log_drained(stored)

    def _log_drained(self, stored: int) -> None:
        if stored:
            log.info("spool drained: %d callbacks", stored, extra=about("spool_drained", callbacks=stored))
