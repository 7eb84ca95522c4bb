"""Refuse or withdraw the calls of whole submissions, or make them pending again.

The batch is locked. Its counters change in the same transaction. Calls that have a final result are never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from receiver.changes.counters import own_counters
from receiver.changes.events import REMAINING, Events
from receiver.database.arrays import integers
from receiver.database.pool import Connection
from receiver.model import SubmissionState

_OF_THEM = """batch_id = %(batch_id)s and submission_no = any(%(submissions)s)"""


def state_if_unsent(conn: Connection, batch_id: int) -> SubmissionState:
    """What a submission of the batch becomes that turns out not to have been sent. Of a canceled one it is withdrawn,
    with its calls (`withdraw_calls`)."""
    canceled = conn.execute("select from batch where batch_id = %s and canceled_at is not null", (batch_id,)).fetchone()
    return "pending" if canceled is None else "withdrawn"


def count_calls(
    conn: Connection, batch_id: int, counter: Literal["refused", "withdrawn"], calls: int, events: Events
) -> None:
    """Count calls as refused or withdrawn, or no longer if the number is negative."""
    own_counters(conn, [batch_id])
    for (remaining,) in conn.execute(
        f"update batch_count c set {counter} = {counter} + %s where batch_id = %s returning {REMAINING}",
        (calls, batch_id),
    ):
        events.add_remaining(batch_id, -calls, remaining)


def refuse_calls(
    conn: Connection, batch_id: int, submissions: Sequence[int], events: Events, *, erased_only: bool = False
) -> None:
    """Count calls of these submissions as refused: all, or those whose numbers were erased. None will be made."""
    if not erased_only:
        clear_overdue(conn, batch_id, submissions)
    refused = conn.execute(
        "update outstanding o set refused = true from submission s join call using (batch_id, submission_no)"
        " where s.batch_id = %(batch_id)s and s.submission_no = any(%(submissions)s)"
        " and call.row between s.first_row and s.last_row and (call.phone_number < 0 or not %(erased_only)s)"
        " and o.batch_id = call.batch_id and not o.refused and o.row = call.row",
        {"batch_id": batch_id, "submissions": list(submissions), "erased_only": erased_only},
    ).rowcount
    count_calls(conn, batch_id, "refused", refused, events)


def withdraw_calls(conn: Connection, batch_id: int, submissions: Sequence[int], events: Events) -> int:
    """Count all calls of these submissions, which are `withdrawn`, as withdrawn; returns how many were pending.

    Their rows stay in `outstanding`, so that a million calls are withdrawn in a moment, and pending again in another.
    """
    clear_overdue(conn, batch_id, submissions)
    calls = count_open(conn, batch_id, submissions)
    count_calls(conn, batch_id, "withdrawn", calls, events)
    return calls


def withdraw_pending(conn: Connection, batch_id: int, events: Events) -> int:
    """Withdraw everything unreleased of a batch; returns how many calls that were. The caller refreshes its state."""
    pending = conn.execute(
        "update submission set state = 'withdrawn', answered_at = now() where batch_id = %s and state = 'pending'"
        " returning submission_no",
        (batch_id,),
    ).fetchall()
    return withdraw_calls(conn, batch_id, [number for (number,) in pending], events) if pending else 0


NOTHING_LEFT = "Nothing was sent, because all of its calls were withdrawn: suppressed, or answered meanwhile."
"""The error of a submission that is withdrawn because each of its calls is."""


def withdraw_rows(conn: Connection, batch_id: int, submission_no: int, rows: Collection[int], reason: str) -> int:
    """Withdraw single calls of a pending submission. Without any call left, it is withdrawn itself, and the caller
    refreshes the state of its batch. Returns how many calls the caller must count as withdrawn."""
    withdrawn = conn.execute(
        "insert into withdrawn (batch_id, row, reason) select %s, row, %s from unnest(%b::integer[]) as g (row)"
        " on conflict do nothing returning row",
        (batch_id, reason, integers(sorted(rows))),
    ).fetchall()
    given = {"batch_id": batch_id, "submission_no": submission_no, "rows": integers([row for (row,) in withdrawn])}
    counted = conn.execute(
        "delete from outstanding where batch_id = %(batch_id)s and not refused and row = any(%(rows)b)", given
    ).rowcount
    (is_left,) = conn.execute(
        "select exists (select from call c where batch_id = %(batch_id)s and submission_no = %(submission_no)s"
        " and phone_number > 0 and not exists (select from withdrawn w where w.batch_id = c.batch_id"
        "  and w.row = c.row))",
        given,
    ).fetchall()[0]
    conn.execute(
        "update submission set withdrawn_calls = withdrawn_calls + cardinality(%(rows)b), csv_bytes = csv_bytes"
        "  - (select coalesce(sum(octet_length(line) + 2), 0) from call where batch_id = %(batch_id)s"
        "   and row = any(%(rows)b))"
        " where batch_id = %(batch_id)s and submission_no = %(submission_no)s",
        given,
    )
    if not is_left:
        conn.execute(
            "update submission set state = 'withdrawn', answered_at = now(), error = %s"
            " where batch_id = %s and submission_no = %s",
            (NOTHING_LEFT, batch_id, submission_no),
        )
    return counted


def reopen_calls(conn: Connection, batch_id: int, submissions: Sequence[int], events: Events) -> None:
    """Make the calls of withdrawn submissions pending again: the provider has them after all. Those that were withdrawn
    one by one were not in what it got."""
    count_calls(conn, batch_id, "withdrawn", -count_open(conn, batch_id, submissions), events)


def count_open(conn: Connection, batch_id: int, submissions: Sequence[int]) -> int:
    """How many calls of these submissions are outstanding. As far as is known, none of the submissions was sent.

    So none of their calls has a final result, and all are outstanding except those that were refused, or withdrawn one
    by one.
    """
    calls: int = conn.execute(
        f"select (select coalesce(sum(calls - withdrawn_calls), 0) from submission where {_OF_THEM})::integer"
        " - (select count(*) from outstanding o join call c using (batch_id, row) where o.batch_id = %(batch_id)s"
        "  and o.refused and c.submission_no = any(%(submissions)s))::integer",
        {"batch_id": batch_id, "submissions": list(submissions)},
    ).fetchall()[0][0]
    return calls


def clear_overdue(conn: Connection, batch_id: int, submissions: Sequence[int]) -> None:
    """Count calls of these submissions as overdue no longer."""
    marked = conn.execute(
        f"update submission set overdue_at = null where {_OF_THEM} and overdue_at is not null returning submission_no",
        {"batch_id": batch_id, "submissions": list(submissions)},
    ).fetchall()
    if marked:
        own_counters(conn, [batch_id])
        conn.execute(
            "update batch_count set overdue = overdue - (select count(*) from outstanding o join call c"
            "  using (batch_id, row) where o.batch_id = %(batch_id)s and not o.refused"
            "  and c.submission_no = any(%(submissions)s)) where batch_id = %(batch_id)s",
            {"batch_id": batch_id, "submissions": [submission_no for (submission_no,) in marked]},
        )
