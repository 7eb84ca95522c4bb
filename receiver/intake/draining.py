"""Emptying the spool into the database, a piece at a time, and cutting off a server that keeps silent."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import psycopg

from receiver.database.pool import Connection
from receiver.intake.journal import write_group
from receiver.intake.spool import Spool

DRAIN_CALLBACKS = 500
"""How many callbacks are read from the spool at once."""

DRAIN_SECONDS = 30.0
"""How long what was read from the spool at once may take to store; nothing else is drained meanwhile."""


def drain_some(conn: Connection, spool: Spool, patience_seconds: float | None = None) -> int:
    """Store the oldest groups of the spool, and forget them there; returns how many callbacks they were.

    `patience_seconds`: how long the database may take, and then how long the spool may be somebody else's.
    """
    groups = spool.oldest(DRAIN_CALLBACKS)
    if not groups:
        return 0
    # Each group commits by itself: a transaction left open on a broken line would lock out the next try. One that
    # was stored before, and may be on this server alone, is on its synchronous standbys afterwards, too: to find
    # that it is claimed locks its row, so that this commit as well is written to the log and waits for them.
    reached = None
    try:
        with cut_after(patience_seconds or DRAIN_SECONDS, conn):
            for position, group in groups:
                write_group(conn, group)
                reached = position
    finally:
        # Where it is cut off, the next try must not begin at the first group again: it might never come further.
        if reached is not None:
            spool.remove(reached, patience_seconds)
    return sum(len(group.callbacks) for _, group in groups)


@contextlib.contextmanager
def cut_after(seconds: float, conn: Connection) -> Iterator[None]:
    """Make what runs on the connection fail if it takes longer: a server can be silent for ever."""
    watchdog = threading.Timer(seconds, shut_down, (conn,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def shut_down(conn: Connection) -> None:
    """Make the statement that runs on it fail now. The server may carry it out all the same."""
    with contextlib.suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
