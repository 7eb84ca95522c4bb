"""Wait for a condition, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from receiver.database.pool import Connection

PATIENCE_SECONDS = 60.0
"""Long, because only a failing test waits this long, and a busy machine must not make a test fail."""


def eventually(
    met: Callable[[], bool], seconds: float = PATIENCE_SECONDS, otherwise: Callable[[], object] = lambda: ""
) -> None:
    """Return when the condition is true. Fail after `seconds`; the message contains the result of `otherwise`."""
    end = time.monotonic() + seconds
    pause = 0.005
    while not met():
        assert time.monotonic() < end, f"the condition did not become true: {otherwise()}"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.1)


def waits_for_lock(conn: Connection, name: str) -> bool:
    """Whether a session with this application name waits for a lock of another session."""
    # Without this, a transaction sees only its first snapshot of pg_stat_activity.
    conn.execute("select pg_stat_clear_snapshot()")
    found = conn.execute(
        "select from pg_stat_activity where application_name = %s and wait_event_type = 'Lock'"
        " and datname = current_database()",
        (name,),
    ).fetchone()
    return found is not None
