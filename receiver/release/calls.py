"""What becomes of the calls of whole submissions: refused, withdrawn, and pending again.

The batch is locked. Its counters change in the same transaction. Calls that have a final result are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from receiver.database.pool import Connection
from receiver.model import SubmissionState

_OF_THEM = """batch_id = %(batch_id)s and submission_no = any(%(submissions)s)"""


def state_if_unsent(conn: Connection, batch_id: int) -> SubmissionState:
    """What a submission of the batch becomes that turns out not to have been sent. Of a canceled one it is withdrawn,
    with its calls (`withdraw_calls`)."""
    canceled = conn.execute("select from batch where batch_id = %s and canceled_at is not null", (batch_id,)).fetchone()
    return "pending" if canceled is None else "withdrawn"


def refuse_calls(conn: Connection, batch_id: int, submissions: Sequence[int], *, erased_only: bool = False) -> None:
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
    conn.execute("update batch_count set refused = refused + %s where batch_id = %s", (refused, batch_id))


def withdraw_calls(conn: Connection, batch_id: int, submissions: Sequence[int]) -> int:
    """Count all calls of these submissions as withdrawn; returns how many were pending. Those refused stay so."""
    clear_overdue(conn, batch_id, submissions)
    # Sorting a million rows in memory is quicker than to look each up.
    conn.execute("set local work_mem = '64MB'")
    withdrawn = conn.execute(
        f"delete from outstanding o using (select row from call where {_OF_THEM}) c"
        " where o.batch_id = %(batch_id)s and not o.refused and o.row = c.row",
        {"batch_id": batch_id, "submissions": list(submissions)},
    ).rowcount
    conn.execute("update batch_count set withdrawn = withdrawn + %s where batch_id = %s", (withdrawn, batch_id))
    return withdrawn


def reopen_calls(conn: Connection, batch_id: int, submissions: Sequence[int]) -> None:
    """Make the calls of withdrawn submissions pending again: the provider has them after all. Those that were withdrawn
    one by one were not in what it got."""
    reopened = conn.execute(
        f"insert into outstanding (batch_id, row) select batch_id, row from call c where {_OF_THEM}"
        " and not exists (select from withdrawn w where w.batch_id = c.batch_id and w.row = c.row)"
        " and not exists (select from result r where r.batch_id = c.batch_id and r.row = c.row and outcome is not null)"
        " and not exists (select from outstanding o where o.batch_id = c.batch_id and o.refused and o.row = c.row)",
        {"batch_id": batch_id, "submissions": list(submissions)},
    ).rowcount
    conn.execute("update batch_count set withdrawn = withdrawn - %s where batch_id = %s", (reopened, batch_id))


def clear_overdue(conn: Connection, batch_id: int, submissions: Sequence[int]) -> None:
    """Count calls of these submissions as overdue no longer."""
    marked = conn.execute(
        f"update submission set overdue_at = null where {_OF_THEM} and overdue_at is not null returning submission_no",
        {"batch_id": batch_id, "submissions": list(submissions)},
    ).fetchall()
    if marked:
        conn.execute(
            "update batch_count set overdue = overdue - (select count(*) from outstanding o join call c"
            "  using (batch_id, row) where o.batch_id = %(batch_id)s and not o.refused"
            "  and c.submission_no = any(%(submissions)s)) where batch_id = %(batch_id)s",
            {"batch_id": batch_id, "submissions": [submission_no for (submission_no,) in marked]},
        )
