"""A batch's submissions, page by page, and those that need attention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import SUBMISSION_STATES, SubmissionState
from receiver.summary.batches import DUE_AT, RELEASE_AT


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
    error_code: str | None
    time_zone: str | None
    release_at: datetime | None
    due_at: datetime | None


_SELECT = f"""select s.submission_no as id, s.state, s.calls, s.calls_queued, s.first_row, s.last_row, s.tries,
    s.next_try_at, s.sent_at, s.answered_at, s.provider_status, s.error, s.error_code,
    array_to_string(s.time_zones, ',') as time_zone, {RELEASE_AT} as release_at, {DUE_AT} as due_at
    from submission s join batch b using (batch_id) where s.batch_id = %s"""


def count_submissions(conn: Connection, batch_id: int) -> dict[SubmissionState, int]:
    """How many submissions are in each state; states without any are left out."""
    counted: dict[str, int] = dict(
        conn.execute(
            "select state, count(*) from submission where batch_id = %s group by state", (batch_id,)
        ).fetchall()
    )
    return {state: counted[state] for state in SUBMISSION_STATES if state in counted}


def describe_missing(conn: Connection, batch_id: int) -> str | None:
    """A sentence if the provider queued fewer calls than it was sent; it does not say which ones."""
    sent, queued, first, submissions = conn.execute(
        "select sum(calls - withdrawn_calls), sum(calls_queued), min(submission_no), count(*) from submission"
        " where batch_id = %s and state = 'accepted' and calls_queued < calls - withdrawn_calls",
        (batch_id,),
    ).fetchall()[0]
    if not submissions:
        return None
    where = f"submission {first}" if submissions == 1 else f"{submissions:,} submissions"
    return f"The provider queued {queued:,} of {sent:,} calls of {where}. {sent - queued:,} may get no result."


def get_next_release(conn: Connection, batch_id: int) -> datetime | None:
    """The earliest time when something of a batch can be released. None: it is paused, or nothing is unreleased."""
    row = conn.execute(
        f"select {RELEASE_AT} from submission s join batch b using (batch_id)"
        " where s.batch_id = %s and s.state = 'pending' order by s.next_try_at limit 1",
        (batch_id,),
    ).fetchone()
    return row[0] if row is not None else None


_NEEDS_ATTENTION = "(s.state = 'unknown' or (s.state = 'refused' and s.acknowledged_at is null))"


class Unseen(NamedTuple):
    """`submissions`: how many are unknown, or refused and not acknowledged. `can_be_acknowledged`: whether a person can
    acknowledge refused or overdue calls."""

    submissions: int
    can_be_acknowledged: bool


def get_unseen(conn: Connection, batch_id: int) -> Unseen:
    """What of a batch needs attention. Raises NotFound."""
    row = conn.execute(
        f"select count(*) filter (where {_NEEDS_ATTENTION}), bool_or(s.state = 'refused' and s.acknowledged_at is null)"
        " or c.overdue > c.acknowledged_overdue from submission s join batch_total c using (batch_id)"
        " where s.batch_id = %s group by c.overdue, c.acknowledged_overdue",
        (batch_id,),
    ).fetchone()
    if row is None:  # every batch has a submission
        raise NotFound(f"Batch {batch_id} does not exist.")
    return Unseen(*row)


def list_submissions_in_doubt(conn: Connection, batch_id: int, limit: int) -> list[SubmissionProgress]:
    """The first `limit` submissions that need attention: first the unknown ones, then the refused ones that nobody
    acknowledged."""
    with conn.cursor(row_factory=class_row(SubmissionProgress)) as cursor:
        return cursor.execute(
            f"{_SELECT} and {_NEEDS_ATTENTION} order by s.state = 'refused', s.submission_no limit %s",
            (batch_id, limit),
        ).fetchall()


def get_submission(conn: Connection, batch_id: int, submission_no: int) -> SubmissionProgress:
    """One submission. Raises NotFound."""
    found = list_submissions(conn, batch_id, 1, submission_no - 1)
    if not found or found[0].id != submission_no:
        raise NotFound(f"Batch {batch_id} has no submission {submission_no}.")
    return found[0]


def list_submissions(conn: Connection, batch_id: int, limit: int, after: int = 0) -> list[SubmissionProgress]:
    """Up to `limit` submissions after the number `after`, in order. Raises NotFound for an unknown batch."""
    with conn.cursor(row_factory=class_row(SubmissionProgress)) as cursor:
        found = cursor.execute(
            f"{_SELECT} and s.submission_no > %s order by s.submission_no limit %s",
            (batch_id, after, limit),
        ).fetchall()
    if not found and not after:  # every batch has a submission
        raise NotFound(f"Batch {batch_id} does not exist.")
    return found
