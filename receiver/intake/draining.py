"""Drains the spool into the database in small steps, and cuts off a server that does not answer."""

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
"""Callbacks of one step."""

DRAIN_SECONDS = 30.0
"""How long the storing of one step may take. Nothing else is drained in this time."""


def drain_some(conn: Connection, spool: Spool, wait_seconds: float | None = None) -> int:
    """Store the oldest groups of the spool, and remove them there; returns how many callbacks they had.

    `wait_seconds`: how long the database may take, and then how long the spool may be in use by others.
    """
    groups = spool.oldest(DRAIN_CALLBACKS)
    if not groups:
        return 0
    # Each group has its own commit: a transaction left open on a broken connection would block the next attempt. A
    # group that was stored earlier may exist only on this server, and not on its synchronous standbys. Writing it again
    # locks the row of its claim. So this commit is written to the log, too, and waits for the standbys.
    reached = None
    try:
        with cut_after(wait_seconds or DRAIN_SECONDS, conn):
            for position, group in groups:
                write_group(conn, group)
                reached = position
    finally:
        # After the connection was cut, the next attempt must not begin with the first group again, because it might
        # never get past it.
        if reached is not None:
            spool.remove(reached, wait_seconds)
    return sum(len(group.callbacks) for _, group in groups)


@contextlib.contextmanager
def cut_after(seconds: float, conn: Connection) -> Iterator[None]:
    """Make the block's statements on the connection fail after this time. A server may never answer."""
    watchdog = threading.Timer(seconds, shut_down, (conn,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def shut_down(conn: Connection) -> None:
    """Make the current statement fail now. The server may still execute it."""
    with contextlib.suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
