"""Waiting for a condition, with an end to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from receiver.database.pool import Connection


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the awaited condition did not come about"
        time.sleep(0.005)


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
