"""Shared by the tests of fetching results."""

from __future__ import annotations

from receiver.database.pool import Connection
from receiver.results.polls import plan_polls


def plan_all(conn: Connection) -> int:
    """Plan the polls of every overdue submission; returns for how many calls."""
    planned = 0
    while (submission := plan_polls(conn)) is not None:
        planned += submission.calls
    conn.commit()
    return planned
