"""A batch's submissions, page by page, and those that need attention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.model import SUBMISSION_STATES, SubmissionState


@dataclass(frozen=True, slots=True)
class SubmissionProgress:
    """One submission with its requests and answers. `next_try_at` has a meaning only while it is pending."""

    id: int
    state: SubmissionState
    calls: int
    calls_queued: int | None
    first_row: int
    last_row: int
    tries: int
    next_try_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None
    provider_status: int | None
    error: str | None


_COLUMNS = """submission_no as id, state, calls, calls_queued, first_row, last_row, tries, next_try_at, sent_at,
    answered_at, provider_status, error"""


def count_submissions(conn: Connection, batch_id: int) -> dict[SubmissionState, int]:
    """How many submissions are in each state; states without any are left out."""
    counted: dict[str, int] = dict(
        conn.execute(
            "select state, count(*) from submission where batch_id = %s group by state", (batch_id,)
        ).fetchall()
    )
    return {state: counted[state] for state in SUBMISSION_STATES if state in counted}


def list_submissions_in_doubt(conn: Connection, batch_id: int, limit: int) -> list[SubmissionProgress]:
    """The first `limit` that need attention: the unknown, then the refused ones."""
    with conn.cursor(row_factory=class_row(SubmissionProgress)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from submission where batch_id = %s and state in ('unknown', 'refused')"
            " order by state = 'refused', submission_no limit %s",
            (batch_id, limit),
        ).fetchall()


def list_submissions(conn: Connection, batch_id: int, limit: int, after: int = 0) -> list[SubmissionProgress]:
    """Up to `limit` submissions after the number `after`, in order."""
    with conn.cursor(row_factory=class_row(SubmissionProgress)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from submission where batch_id = %s and submission_no > %s"
            " order by submission_no limit %s",
            (batch_id, after, limit),
        ).fetchall()
