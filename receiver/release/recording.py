"""Record the answer to a request: decide the next state of its submission, without I/O, and write it in one update."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from receiver.changes.audit import SYSTEM, record_change
from receiver.changes.events import Events
from receiver.database.locks import lock_batches
from receiver.database.pool import Connection
from receiver.model import SubmissionState
from receiver.release.answer import Answer
from receiver.release.calls import refuse_calls, withdraw_calls
from receiver.release.claim import Outgoing
from receiver.release.resolution import record_late_answer
from receiver.release.states import PROVEN, refresh_state

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2, 120

NOTHING_SENT = "Nothing was sent. It can be resolved as not queued."
"""The error for an answer that arrived after its submission had become unknown."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows of a submission when an answer comes. `proven`: a result shows that it was queued.
    `canceled`: its batch was, so that it is not sent again."""

    now: datetime
    canceled: bool
    in_doubt: bool
    proven: bool


@dataclass(frozen=True, slots=True)
class Next:
    """The next state of the submission. `next_try_at` is used only while it is pending."""

    state: SubmissionState
    next_try_at: datetime
    error: str | None


def next_state(outgoing: Outgoing, answer: Answer, known: Known) -> Next:
    """Decide the next state of the submission from the answer to its request."""
    next_try_at = known.now
    state: SubmissionState
    if answer.state == "not_sent":
        seconds = min(FIRST_WAIT_SECONDS * 2 ** min(outgoing.tries - 1, 10), LONGEST_WAIT_SECONDS)
        next_try_at += timedelta(seconds=seconds)
        state = "withdrawn" if known.canceled else "pending"
    else:
        state = answer.state
    # Callbacks may arrive before the answer, and all of them before a time-out. Or they prove the previous try, and
    # then a refusal of this one does not matter.
    if known.proven and state != "accepted" and (state != "refused" or outgoing.tries > 1):
        return Next("accepted", next_try_at, None)
    if state in ("pending", "withdrawn") and known.in_doubt:
        # An unknown submission waits for a person, even if it would be safe to send it again.
        return Next("unknown", next_try_at, f"{NOTHING_SENT} {answer.error or ''}".strip())
    return Next(state, next_try_at, answer.error)


def record_answer(conn: Connection, outgoing: Outgoing, answer: Answer) -> SubmissionState | None:
    """Record the answer to a request and return the state of the submission. None: another worker has it now.

    A submission that became `unknown` meanwhile still accepts the answer to the same request.
    """
    lock_batches(conn, [outgoing.batch_id])
    known = _get_known(conn, outgoing, answer)
    if known is None:
        return None
    events = Events()
    decided = next_state(outgoing, answer, known)
    state, is_pending = decided.state, decided.state == "pending"
    # The number of the try must match, so that a late answer is not used for a later request.
    updated = conn.execute(
        "update submission set state = %(state)s, next_try_at = %(next_try_at)s, provider_status = %(provider_status)s,"
        " calls_queued = %(calls_queued)s, error = %(error)s, answer = %(answer_text)s, polls_planned = false,"
        " answered_at = case when not %(is_pending)s then %(now)s::timestamptz end,"
        " sent_at = case when %(is_pending)s then next_try_at else sent_at end,"
        " released_at = case when not %(is_pending)s then released_at end"
        " where batch_id = %(batch_id)s and submission_no = %(submission_no)s and worker_id = %(worker_id)s"
        " and tries = %(tries)s and state in ('sending', 'unknown')",
        asdict(outgoing) | asdict(answer) | asdict(decided) | {"is_pending": is_pending, "now": known.now},
    )
    if updated.rowcount == 0:
        late = record_late_answer(conn, outgoing.batch_id, outgoing.submission_no, outgoing.tries, answer, events)
        if late is None:
            return None
        state = late
    if state == "accepted":
        # The provider can be reached again. From now on, only the gates hold back what was tried in vain.
        conn.execute(
            "update submission set sent_at = null where batch_id = %s and state = 'pending' and sent_at is not null",
            (outgoing.batch_id,),
            prepare=True,
        )
    elif state == "refused":
        refuse_calls(conn, outgoing.batch_id, [outgoing.submission_no], events)
        events.add("submission.refused", outgoing.batch_id, outgoing.submission_no)
        _pause_rest(conn, outgoing.batch_id)
    elif state == "withdrawn":
        withdraw_calls(conn, outgoing.batch_id, [outgoing.submission_no], events)
    elif state == "unknown" and not known.in_doubt:
        events.add("submission.unknown", outgoing.batch_id, outgoing.submission_no)
    refresh_state(conn, [outgoing.batch_id], events)
    events.write(conn)
    return state


def _pause_rest(conn: Connection, batch_id: int) -> None:
    """Pause the batch: the provider may refuse the rest, too, so a person checks it first."""
    paused = conn.execute(
        "update batch b set paused_at = now() where batch_id = %s and paused_at is null and exists (select from"
        " submission s where s.batch_id = b.batch_id and s.state = 'pending')",
        (batch_id,),
    ).rowcount
    if paused:
        record_change(conn, SYSTEM, "pause", batch_id=batch_id, note="The provider refused a submission.")


def _get_known(conn: Connection, outgoing: Outgoing, answer: Answer) -> Known | None:
    """None: the submission was purged. For an accepted one, no proof is searched, because this would read its calls."""
    with conn.cursor(row_factory=class_row(Known)) as cursor:
        return cursor.execute(
            "select clock_timestamp() as now, b.canceled_at is not null as canceled, s.state = 'unknown' as in_doubt,"
            f" %s and {PROVEN} as proven from submission s join batch b using (batch_id)"
            " where s.batch_id = %s and s.submission_no = %s",
            (answer.state != "accepted", outgoing.batch_id, outgoing.submission_no),
        ).fetchone()
