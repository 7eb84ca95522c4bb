"""Claiming what is released next: every gate of a submission is looked at here, under its batch's lock.

A closed gate postpones what it holds back, so that the next claim does not read it again: the pace holds
back the batch, the calling hours all of its submissions with the same zones. Pause and cancellation are flags of the
batch. Nothing else decides when something is sent (`receiver.schedule`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from psycopg.rows import class_row

from receiver.changes.events import Events
from receiver.database.pool import Connection
from receiver.logs import about
from receiver.queueing.batches import get_now
from receiver.queueing.follow_ups import list_answered
from receiver.queueing.suppressions import find_suppressed
from receiver.release.calls import count_calls, refuse_calls, withdraw_pending, withdraw_rows
from receiver.release.resolution import SENT_SINCE
from receiver.release.states import refresh_state
from receiver.schedule import TERMS, WINDOW, RefusalCode, Refuse, Release, Released, Terms, Wait, decide, due_at

log = logging.getLogger(__name__)

CANDIDATES = 4
"""Batches that a claim tries in turn, where others are at work on the first ones."""

DECISIONS = 100
"""Submissions that one claim postpones, refuses or withdraws at most."""

REASONS: dict[RefusalCode, str] = {
    "window_over": "Nothing was sent and nobody is called, because its time window ended before it could be sent. Check"
    " that a worker is running. To call these contacts, queue them again with a later end.",
    "not_sent_in_time": "Nothing was sent and nobody is called, because it could not be sent for an hour and calls"
    " would be too late. Check that a worker is running. To call these contacts, queue them again.",
}
"""Why something was refused without being sent."""

HELD = "select application_id, deployment_id from deployment_cancel where state in ('waiting', 'asking')"
"""SQL: the deployments that are being canceled."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A submission that this worker sends, with the parameters of its request."""

    batch_id: int
    submission_no: int
    worker_id: int
    tries: int
    calls: int
    withdrawn_calls: int
    first_row: int
    last_row: int
    csv_bytes: int
    columns: list[str]
    application_id: int
    deployment_id: int
    start_at: datetime | None
    end_at: datetime | None
    max_attempts: int | None
    reattempt_wait_seconds: int | None
    is_pci: bool


@dataclass(frozen=True, slots=True)
class _Batch(Terms):
    """A batch with something to send, locked."""

    batch_id: int
    canceled: bool
    """Only release 1.0.0 or 1.1.0 can have made something of it pending again."""
    is_follow_up: bool
    waits_since: datetime
    max_attempts: int | None
    reattempt_wait_seconds: int | None


@dataclass(frozen=True, slots=True)
class _Pending:
    submission_no: int
    calls: int
    withdrawn_calls: int
    time_zones: list[str] | None
    sent_at: datetime | None
    """Its first failed try."""


class _Open(NamedTuple):
    """A submission that can be sent now, and the decision about it."""

    batch: _Batch
    submission_no: int
    release: Release
    now: datetime


def claim_submission(
    conn: Connection,
    worker_id: int,
    *,
    simulated: bool = False,
    signing_key: str | None = None,
    grace: timedelta = timedelta(hours=1),
) -> Outgoing | None:
    """Mark the next submission whose gates are open `sending` for this worker. The caller commits before it sends or
    claims again.

    `simulated`: the worker's provider is a simulator. Only batches for this kind of provider are sent to it.
    `signing_key`: the fingerprint of the key that signs the submission's token. `grace`: RESULT_GRACE.
    First, what is unreleased in a batch whose time window has ended is refused. A transaction that refused or withdrew
    calls claims nothing from a further batch: it already holds the counters of one (lock order).
    """
    events = Events()
    outgoing = None
    for batch_id in () if _refuse_ended(conn, events) else _list_candidates(conn, simulated):
        found = _find_open(conn, batch_id, simulated, events)
        if isinstance(found, _Open):
            outgoing = _mark_sending(conn, found, worker_id, signing_key, grace)
        if found is not None:
            break
    events.write(conn)
    return outgoing


def _list_candidates(conn: Connection, simulated: bool) -> list[int]:
    """Batches that may have something to send now. Ordered by when the batch was created, or when its pace next
    allows a release, whichever is later."""
    found = conn.execute(
        "select b.batch_id from batch b where b.state = 'queueing' and b.simulated = %s and b.paused_at is null"
        " and (b.next_release_at is null or b.next_release_at <= now() or b.last_release_at > now())"
        " and (b.end_at is null or b.end_at > now())"
        " and exists (select from submission s where s.batch_id = b.batch_id and s.state = 'pending'"
        "  and s.next_try_at <= now())"
        f" and (b.application_id, b.deployment_id) not in ({HELD})"
        " order by greatest(b.created_at, b.next_release_at), b.batch_id limit %s",
        (simulated, CANDIDATES),
        prepare=True,
    ).fetchall()
    return [batch_id for (batch_id,) in found]


def _lock_batch(conn: Connection, batch_id: int, simulated: bool) -> _Batch | None:
    """The batch, locked. None: another transaction has its lock, or it may not be released any more."""
    with conn.cursor(row_factory=class_row(_Batch)) as cursor:
        return cursor.execute(
            f"select b.batch_id, {TERMS}, b.canceled_at is not null as canceled,"
            f" b.follows is not null as is_follow_up, {SENT_SINCE} as waits_since, b.max_attempts,"
            " b.reattempt_wait_seconds from batch b where b.batch_id = %s and b.state = 'queueing'"
            f" and b.simulated = %s and b.paused_at is null and (b.application_id, b.deployment_id) not in ({HELD})"
            " for update of b skip locked",
            (batch_id, simulated),
            prepare=True,
        ).fetchone()


def _find_open(conn: Connection, batch_id: int, simulated: bool, events: Events) -> _Open | Literal["counted"] | None:
    """A submission of the batch whose gates are open. None: there is none. `counted`: there is none, but calls of the
    batch were refused or withdrawn."""
    nothing: Literal["counted"] | None = None
    for _ in range(DECISIONS):
        batch = _lock_batch(conn, batch_id, simulated)
        if batch is None:
            return nothing
        if batch.canceled:
            withdraw_pending(conn, batch_id, events)
            refresh_state(conn, [batch_id], events)
            return "counted"
        now = get_now(conn)  # after the lock: the claim that held it before released earlier
        pending = _get_pending(conn, batch_id, now)
        if pending is None:
            return nothing
        calls = pending.calls - pending.withdrawn_calls
        decision = decide(
            batch.gates,
            pending.time_zones or (),
            calls,
            waits_since=batch.waits_since,
            tried_at=pending.sent_at,
            recent=[] if batch.calls_per_minute is None else _list_recent(conn, batch_id, now),
            now=now,
        )
        match decision:
            case Wait(until, whole_batch=True):
                conn.execute("update batch set next_release_at = %s where batch_id = %s", (until, batch_id))
                return nothing
            case Wait(until):
                _postpone(conn, batch_id, pending, until)
            case Refuse(code, next_release_at):
                refuse_unsent(conn, batch_id, [pending.submission_no], code, events)
                conn.execute(
                    "update batch set next_release_at = coalesce(%s, next_release_at) where batch_id = %s",
                    (next_release_at, batch_id),
                )
                nothing = "counted"
            case Release():
                if _withdraw_unwanted(conn, batch, pending, events):
                    return _Open(batch, pending.submission_no, decision, now)
                nothing = "counted"
    return nothing


def _get_pending(conn: Connection, batch_id: int, now: datetime) -> _Pending | None:
    """Locked: a worker of 1.0.0 locks only the submission that it claims, not its batch."""
    with conn.cursor(row_factory=class_row(_Pending)) as cursor:
        return cursor.execute(
            "select submission_no, calls, withdrawn_calls, time_zones, sent_at from submission"
            " where batch_id = %s and state = 'pending' and next_try_at <= %s"
            " order by next_try_at, submission_no limit 1 for update skip locked",
            (batch_id, now),
            prepare=True,
        ).fetchone()


def _list_recent(conn: Connection, batch_id: int, now: datetime) -> list[Released]:
    return [
        Released(*row)
        for row in conn.execute(
            "select released_at, calls - withdrawn_calls from submission where batch_id = %s and released_at > %s",
            (batch_id, now - WINDOW),
            prepare=True,
        )
    ]


def _postpone(conn: Connection, batch_id: int, pending: _Pending, until: datetime) -> None:
    """Everything in the batch with these zones opens at the same time."""
    conn.execute(
        "update submission set next_try_at = %s where batch_id = %s and state = 'pending' and next_try_at < %s"
        " and time_zones is not distinct from %s",
        (until, batch_id, until, pending.time_zones),
    )


def _withdraw_unwanted(conn: Connection, batch: _Batch, pending: _Pending, events: Events) -> bool:
    """Withdraw the calls whose numbers are suppressed or whose earlier calls were answered. True: some are left."""
    key = (batch.batch_id, pending.submission_no)
    number_of: dict[int, int] = dict(
        conn.execute(
            "select row, phone_number from call c where batch_id = %s and submission_no = %s and phone_number > 0"
            " and not exists (select from withdrawn w where w.batch_id = c.batch_id and w.row = c.row)"
            " and (%s or exists (select from suppression))",
            (*key, batch.is_follow_up),
        ).fetchall()
    )
    numbers = find_suppressed(conn, list(number_of.values()))
    suppressed = {row for row, number in number_of.items() if number in numbers}
    answered = list_answered(conn, batch.batch_id, number_of) - suppressed if batch.is_follow_up else set()
    for reason, rows in (("suppressed", suppressed), ("answered", answered)):
        if rows:
            count_calls(conn, batch.batch_id, "withdrawn", withdraw_rows(conn, *key, rows, reason), events)
    if not number_of or len(suppressed) + len(answered) < len(number_of):
        return True
    refresh_state(conn, [batch.batch_id], events)
    return False


def _mark_sending(
    conn: Connection, found: _Open, worker_id: int, signing_key: str | None, grace: timedelta
) -> Outgoing:
    batch, submission_no, release, now = found
    retries = timedelta(seconds=((batch.max_attempts or 1) - 1) * (batch.reattempt_wait_seconds or 0))
    due = due_at(release.start_at, release.end_at, retries, now, grace)
    # The `sent_at` of a pending submission is its first failed try. While it is sent, `next_try_at` stores that time.
    conn.execute(
        "update submission set state = 'sending', worker_id = %(worker_id)s, sent_at = %(now)s, released_at = %(now)s,"
        " next_try_at = coalesce(sent_at, %(now)s), tries = tries + 1, error = null, error_code = null,"
        " signing_key = %(signing_key)s, request_start_at = %(start_at)s, request_end_at = %(end_at)s,"
        " due_at = %(due_at)s, overdue_at = null"
        " where batch_id = %(batch_id)s and submission_no = %(submission_no)s",
        {
            "batch_id": batch.batch_id,
            "submission_no": submission_no,
            "worker_id": worker_id,
            "now": now,
            "signing_key": signing_key,
            "start_at": release.start_at,
            "end_at": release.end_at,
            "due_at": due,
        },
    )
    conn.execute(
        "update batch set last_release_at = %s, next_release_at = %s, due_at = greatest(due_at, %s)"
        " where batch_id = %s",
        (now, release.next_release_at, due, batch.batch_id),
    )
    with conn.cursor(row_factory=class_row(Outgoing)) as cursor:
        return cursor.execute(
            "select s.batch_id, s.submission_no, s.worker_id, s.tries, s.calls, s.withdrawn_calls, s.first_row,"
            " s.last_row, s.csv_bytes, b.columns, b.application_id, b.deployment_id, s.request_start_at as start_at,"
            " s.request_end_at as end_at, b.max_attempts, b.reattempt_wait_seconds, b.is_pci"
            " from submission s join batch b using (batch_id) where s.batch_id = %s and s.submission_no = %s",
            (batch.batch_id, submission_no),
            prepare=True,
        ).fetchall()[0]


def _refuse_ended(conn: Connection, events: Events) -> bool:
    """Refuse what is unreleased in one batch whose window is over, whatever holds it back, and for any provider.

    Returns whether there was one.
    """
    ended = conn.execute(
        "select batch_id from batch where state = 'queueing' and end_at <= now() and exists (select from submission s"
        " where s.batch_id = batch.batch_id and s.state = 'pending') limit %s",
        (CANDIDATES,),
        prepare=True,
    ).fetchall()
    for (batch_id,) in ended:
        locked = conn.execute(
            "select from batch where batch_id = %s and end_at <= now() for update skip locked", (batch_id,)
        ).fetchone()
        if locked is not None:
            pending = conn.execute(
                "select submission_no from submission where batch_id = %s and state = 'pending'", (batch_id,)
            ).fetchall()
            refuse_unsent(conn, batch_id, [number for (number,) in pending], "window_over", events)
            return True
    return False


def refuse_unsent(
    conn: Connection, batch_id: int, submissions: Sequence[int], code: RefusalCode, events: Events
) -> None:
    """Refuse those of these submissions that are pending. Their batch is locked."""
    found = conn.execute(
        "update submission set state = 'refused', answered_at = now(), error_code = %s,"
        " error = concat_ws(' ', %s::text, error)"
        " where batch_id = %s and submission_no = any(%s) and state = 'pending' returning submission_no",
        (code, REASONS[code], batch_id, list(submissions)),
    ).fetchall()
    submissions = [submission_no for (submission_no,) in found]
    for submission_no in submissions:
        events.add("submission.refused", batch_id, submission_no)
    refuse_calls(conn, batch_id, submissions, events)
    refresh_state(conn, [batch_id], events)
    log.warning(
        "batch %d: %d submissions were not sent and are refused, because it is too late to send them",
        batch_id, len(submissions),
        extra=about("refused_late", batch_id=batch_id, submissions=len(submissions), code=code),
    )  # fmt: skip
