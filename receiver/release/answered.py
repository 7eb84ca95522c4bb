"""Withdraws follow-ups whose earlier call was answered after all, while they are not released."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from receiver.changes.events import Events
from receiver.database.pool import Connection
from receiver.queueing.follow_ups import list_answered
from receiver.release.calls import withdraw_rows
from receiver.release.states import refresh_state


def withdraw_answered(conn: Connection, batch_id: int, rows: Collection[int], events: Events) -> int:
    """Of these calls of a batch, which is locked, withdraw those that are unreleased, and of which an earlier call is
    completed. Returns how many calls the caller must count as withdrawn. A claim does the same for what it releases.
    """
    rows_of = defaultdict[int, list[int]](list)
    for submission_no, row in conn.execute(
        "select s.submission_no, c.row from call c join submission s using (batch_id, submission_no)"
        " where c.batch_id = %s and c.row = any(%s) and s.state = 'pending'",
        (batch_id, list(list_answered(conn, batch_id, rows))),
    ):
        rows_of[submission_no].append(row)
    counted = sum(withdraw_rows(conn, batch_id, number, found, "answered") for number, found in rows_of.items())
    if rows_of:
        refresh_state(conn, [batch_id], events)
    return counted
