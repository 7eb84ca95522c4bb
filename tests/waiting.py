"""Waiting for a condition, with an end to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from receiver.database.pool import Connection

PATIENCE_SECONDS = 60.0
"""Long: it is only waited out where a test fails, and a busy machine must not be the reason."""


def eventually(
    met: Callable[[], bool], seconds: float = PATIENCE_SECONDS, otherwise: Callable[[], object] = lambda: ""
) -> None:
    """Return as soon as it is so; fail when it does not become so. `otherwise` tells what there was instead."""
    end = time.monotonic() + seconds
    pause = 0.005
    while not met():
        assert time.monotonic() < end, f"it never came true: {otherwise()}"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.1)


def waits_for_lock(conn: Connection, name: str) -> bool:
    """Whether a session of this application name waits for another one's lock."""
    # pg_stat_activity is looked at once a transaction, unless told otherwise.
    conn.execute("select pg_stat_clear_snapshot()")
    found = conn.execute(
        "select from pg_stat_activity where application_name = %s and wait_event_type = 'Lock'"
        " and datname = current_database()",
        (name,),
    ).fetchone()
    return found is not None
