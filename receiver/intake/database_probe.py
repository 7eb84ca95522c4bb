"""The writer's connection to the database: found again when it was lost, and only then used.

A thread reaches the database, proves with a prompt commit that it can store, and then empties the spool into it,
beside what comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import psycopg

from receiver.database.pool import Connection
from receiver.database.sessions import Session, get_session, lives
from receiver.errors import ReceiverError
from receiver.intake.draining import cut_after, drain_some, shut_down
from receiver.intake.journal import Group, write_group
from receiver.intake.spool import Spool
from receiver.logs import OncePer, about

PROMPT_SECONDS = 0.5
"""A database that stores a group within this is back."""

PROBE_SECONDS = 0.5
"""Between two tries to reach a database that is away."""

SPOOL_CHECK_SECONDS = 5.0
"""Between two looks for groups that another process, or an earlier one, left in the spool."""

NOT_DRAINED_SECONDS = 10.0
"""One line of the log in so many seconds where the spool cannot be drained."""

log = logging.getLogger(__name__)
_drains = logging.getLogger(f"{__name__}.drains")
_drains.addFilter(OncePer(NOT_DRAINED_SECONDS))


class DatabaseProbe:
    """Holds the connection while the database stores, and looks for it in a thread of its own while it does not.

    `may_return`: whether the writer may go back to it. `on_return`: called when it may. `stores_within`: seconds after
    which a try is cut off.
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
        """None: the database is away."""
        self._connect = connect
        self._spool = spool
        self._may_return = may_return
        self._on_return = on_return
        self._stores_within = stores_within
        self._check = threading.Event()
        self._stopping = False
        self._last_try: Session | None = None
        self._probe_id, self._probes = uuid4(), 0
        self._thread = threading.Thread(target=self._run, name="journal-recovery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Check no more. What is being written over the connection goes on until `close`."""
        self._stopping = True
        self._check.set()

    def close(self) -> None:
        """End the thread and the connection."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.disconnect()

    def check_now(self) -> None:
        """Do not wait until the next check: there is something to drain, or the connection was lost."""
        self._check.set()

    def disconnect(self) -> None:
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.close()

    def cut_connection(self) -> None:
        """Make the statement that runs on the connection fail now. The server may carry it out all the same."""
        conn = self.conn
        if conn is not None:
            shut_down(conn)

    def _run(self) -> None:
        while not self._stopping:
            pause = PROBE_SECONDS
            try:
                if self.conn is None:
                    self._return()
                elif self._spool.depth():
                    with self._connect() as conn:
                        self._drain(conn)
                if self.conn is not None:
                    self._spool.clean()
                if self.conn is not None:
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

    def _return(self) -> None:
        """Go back to the database, if it is there and stores."""
        conn = self._connect()
        if not self._stores(conn):
            conn.close()
            return
        self.conn = conn
        self._on_return()
        self._check.set()

    def _stores(self, conn: Connection) -> bool:
        """Whether it does so promptly, and has room for what was spooled."""
        try:
            with cut_after(self._stores_within, conn):
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
                self._tell_drained(drain_some(beside, self._spool, self._stores_within))
        except psycopg.errors.DiskFull:
            return False  # a full disk takes a group of none, and nothing that has to be put somewhere
        except (psycopg.Error, ReceiverError) as error:
            # Whatever else holds up the spool must not hold up what comes.
            log.debug("the spool cannot be drained yet: %s", error, extra=about("still_away"))
        return self._may_return()

    def _drain(self, conn: Connection) -> None:
        stored = 0
        while not self._stopping and (some := drain_some(conn, self._spool)):
            stored += some
        self._tell_drained(stored)

    def _tell_drained(self, stored: int) -> None:
        if stored:
            log.info("spool drained: %d callbacks", stored, extra=about("spool_drained", callbacks=stored))
