"""Resolve an `unknown` submission: a person decides that it was queued, or that it was not.

The decision is stored with its try, because the answer to this try may still arrive: a worker may lose its database,
and so be given up, during its request. Such an answer is never lost, and never used for a later try.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from receiver.changes.audit import record_change
from receiver.changes.events import Events
from receiver.database.locks import lock_batch, lock_batches
from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.errors import Fault, InvalidInput, NotFound, ReceiverError
from receiver.model import SubmissionState
from receiver.queueing.batches import get_now
from receiver.release.answer import Answer
from receiver.release.calls import clear_overdue, refuse_calls, reopen_calls, state_if_unsent, withdraw_calls
from receiver.release.states import PROVEN, refresh_state

NOTE_CHARACTERS = 2_000

NOBODY_LEFT = "Nothing was sent, because all phone numbers in it were erased."
"""The error of a submission that is refused because it has no call left."""

SENT_SINCE = """greatest(b.created_at, b.start_at, b.waited_until, b.resumed_at, (select max(r.resolved_at)
    from resolution r where r.batch_id = b.batch_id and not r.queued))"""
"""SQL: since when batch `b` could be sent, its pace and calling hours aside."""

_STATES = {
    "pending": "it is waiting to be sent",
    "sending": "it is being sent",
    "accepted": "the provider accepted it",
    "refused": "it was refused",
    "withdrawn": "it was withdrawn",
}


class NotInDoubt(ReceiverError):
    """A person cannot decide this: the result of the submission is known, or will be known soon."""

    code = "not_in_doubt"


@dataclass(frozen=True, slots=True)
class Resolution:
    """A person's decision about one try, and the answer to this try.

    `late_state`: what a late answer proved. None: there is no late answer.
    """

    submission_no: int
    tries: int
    queued: bool
    note: str
    resolved_by: str
    resolved_at: datetime
    provider_status: int | None
    error: str | None
    late_state: str | None
    late_at: datetime | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """An `unknown` submission, with the information for the decision."""

    batch_id: int
    submission_no: int
    state: str
    calls: int
    application_id: int
    deployment_id: int
    sent_at: datetime | None
    end_at: datetime | None
    error: str | None


def get_doubt(conn: Connection, batch_id: int, submission_no: int) -> Doubt:
    """The submission, which is `unknown`. Raises NotFound, NotInDoubt."""
    with conn.cursor(row_factory=class_row(Doubt)) as cursor:
        doubt = cursor.execute(
            "select s.batch_id, s.submission_no, s.state, s.calls, b.application_id, b.deployment_id, s.sent_at,"
            " b.end_at, s.error from submission s join batch b using (batch_id)"
            " where s.batch_id = %s and s.submission_no = %s",
            (batch_id, submission_no),
        ).fetchone()
    if doubt is None:
        raise NotFound(f"Batch {batch_id} has no submission {submission_no}.")
    if known := _STATES.get(doubt.state):
        raise NotInDoubt(f"Submission {submission_no} of batch {batch_id} needs no decision: {known}.")
    return doubt


def resolve_submission(
    conn: Connection, batch_id: int, submission_no: int, *, queued: bool, note: str, by: str
) -> SubmissionState:
    """Store the decision that the submission was queued, or was not, and return its new state.

    Queued: `accepted`. Not queued: `pending`, and a worker sends it again with the same `result_url` when its gates are
    open; `withdrawn` if its batch is canceled or all of its calls were withdrawn; or `refused` if its time window has
    ended, or if all of its calls were erased. If this decision is wrong, everybody is called twice. Raises NotFound.
    Raises NotInDoubt, also if a callback shows that the provider has it. Raises InvalidInput without a note.
    """
    lock_batches(conn, [batch_id])
    events = Events()
    state = _resolve(conn, batch_id, submission_no, events, queued=queued, note=note, by=by)
    events.write(conn)
    return state


def _resolve(
    conn: Connection, batch_id: int, submission_no: int, events: Events, *, queued: bool, note: str, by: str
) -> SubmissionState:
    note, by = _text("note", note), _text("by", by)
    get_doubt(conn, batch_id, submission_no)
    key = (batch_id, submission_no)
    if not queued and _was_called_back(conn, batch_id, submission_no):
        raise NotInDoubt(
            f"Callbacks were received for submission {submission_no} of batch {batch_id}, so the provider queued it. "
            "Sending it again would dial people twice. See the callbacks with GET /api/v1/callbacks."
        )
    conn.execute(
        "insert into resolution (batch_id, submission_no, tries, queued, note, resolved_by, provider_status,"
        " calls_queued, error, answer) select batch_id, submission_no, tries, %s, %s, %s, provider_status,"
        " calls_queued, error, answer from submission where batch_id = %s and submission_no = %s",
        (queued, note, by, *key),
    )
    details = {"queued": queued}
    record_change(conn, by, "resolve", batch_id=batch_id, submission_no=submission_no, details=details, note=note)
    if queued:
        return _set_state(conn, key, "accepted", events)
    state = state_if_unsent(conn, batch_id)
    left = _count_left(conn, batch_id, submission_no)
    if state == "withdrawn" or not (left.callable or left.erased_only):
        withdraw_calls(conn, batch_id, [submission_no], events)
        return _set_state(conn, key, "withdrawn", events)
    if _is_over(conn, batch_id) or left.erased_only:
        refuse_calls(conn, batch_id, [submission_no], events)
        if left.erased_only:
            return _set_state(conn, key, "refused", events, NOBODY_LEFT, "erased")
        error = f"It was not queued, says {by}; its window is over."
        return _set_state(conn, key, "refused", events, error, "window_over")
    # Erased numbers are not sent.
    refuse_calls(conn, batch_id, [submission_no], events, erased_only=True)
    clear_overdue(conn, batch_id, [submission_no])
    return _set_state(conn, key, "pending", events)


def resolve_batch(conn: Connection, batch_id: int, *, queued: bool, note: str, by: str) -> int:
    """Resolve all `unknown` submissions of a batch in the same way; returns how many.

    Those that callbacks prove to be queued are left out if `queued` is False. Raises NotFound; NotInDoubt if there is
    nothing to resolve; InvalidInput without a note.
    """
    lock_batch(conn, batch_id)
    resolved, events = 0, Events()
    for (submission_no,) in conn.execute(
        "select submission_no from submission where batch_id = %s and state = 'unknown' order by 1", (batch_id,)
    ).fetchall():
        with contextlib.suppress(NotInDoubt):
            _resolve(conn, batch_id, submission_no, events, queued=queued, note=note, by=by)
            resolved += 1
    if not resolved:
        raise NotInDoubt(f"Batch {batch_id} has no submission that needs a decision.")
    events.write(conn)
    return resolved


def list_resolutions(conn: Connection, batch_id: int) -> list[Resolution]:
    """The decisions about the submissions of a batch, in the order of the submissions and their tries."""
    with conn.cursor(row_factory=class_row(Resolution)) as cursor:
        return cursor.execute(
            "select submission_no, tries, queued, note, resolved_by, resolved_at, provider_status, error,"
            " late_state, late_at from resolution where batch_id = %s order by submission_no, tries",
            (batch_id,),
        ).fetchall()


def record_late_answer(
    conn: Connection, batch_id: int, submission_no: int, tries: int, answer: Answer, events: Events
) -> SubmissionState | None:
    """Record a late answer to a try that was given up, and return the submission's state if the answer changed it.

    It is stored with the try. It also decides, if no later try has begun: accepted means accepted, and then nothing is
    sent again; refused means refused, if no callback proves the opposite. An answer without proof changes nothing. The
    batch is locked.
    """
    known = (answer.provider_status, answer.calls_queued, answer.error, answer.answer_text)
    key = (batch_id, submission_no, tries)
    resolved = conn.execute(
        "update resolution set late_state = %s, late_at = now(), provider_status = %s, calls_queued = %s,"
        " error = %s, answer = %s where batch_id = %s and submission_no = %s and tries = %s",
        (answer.state, *known, *key),
    ).rowcount
    state: SubmissionState = "refused" if answer.state == "refused" else "accepted"
    if answer.state not in ("accepted", "refused"):
        return None
    if (
        state == "accepted"
        and conn.execute(
            "select from submission where batch_id = %s and submission_no = %s and tries = %s and state = 'withdrawn'",
            key,
        ).rowcount
    ):
        reopen_calls(conn, batch_id, [submission_no], events)
    # Without a decision, only a callback can have accepted it. Then the answer only adds its details.
    changed = conn.execute(
        "update submission s set state = %s, answered_at = now(), provider_status = %s, calls_queued = %s,"
        " error = %s, answer = %s, polls_planned = false, released_at = coalesce(released_at, %s)"
        " where batch_id = %s and submission_no = %s and tries = %s"
        " and (state in ('pending', 'accepted') or state = 'withdrawn' and %s)"
        f" and (%s or state <> 'pending') and (%s or %s and not {PROVEN})",
        (state, *known, get_now(conn), *key, state == "accepted", resolved == 1, state == "accepted", resolved == 1),
    ).rowcount
    return state if changed else None


def _set_state(
    conn: Connection, key: tuple[int, int], state: SubmissionState, events: Events, *reason: str | None
) -> SubmissionState:
    """`reason`: the error and its code, if any."""
    error, error_code = reason or (None, None)
    if state == "pending":
        conn.execute(
            "update submission set state = 'pending', next_try_at = now(), sent_at = null, answered_at = null,"
            " released_at = null, provider_status = null, calls_queued = null, error = null, answer = null"
            " where batch_id = %s and submission_no = %s",
            key,
        )
    else:
        conn.execute(
            "update submission set state = %s, answered_at = coalesce(answered_at, %s), error = %s, error_code = %s"
            " where batch_id = %s and submission_no = %s",
            (state, get_now(conn), error, error_code, *key),
        )
    if state == "refused":
        events.add("submission.refused", *key)
    refresh_state(conn, key[:1], events)
    return state


def _was_called_back(conn: Connection, batch_id: int, submission_no: int) -> bool:
    """Whether a callback contains its token: it waits, could not be read, or gave a call its result at the moment when
    the submission became unknown, so that it is not accepted yet.
    """
    found = conn.execute(
        "select where exists (select from callback c join ("
        f"  select callback_id from waiting where batch_id = %(batch_id)s and callback_id >= {LOW_WATER_MARK}"
        "  union all select callback_id from set_aside where batch_id = %(batch_id)s) seen using (callback_id)"
        " where c.batch_id = %(batch_id)s and c.submission_no = %(submission_no)s)"
        " or exists (select from submission s where s.batch_id = %(batch_id)s"
        f" and s.submission_no = %(submission_no)s and {PROVEN})",
        {"batch_id": batch_id, "submission_no": submission_no},
    )
    return found.rowcount == 1


def _is_over(conn: Connection, batch_id: int) -> bool:
    return conn.execute("select from batch where batch_id = %s and end_at <= now()", (batch_id,)).rowcount == 1


class _Left(NamedTuple):
    """Calls that are neither erased nor withdrawn; and whether there are none because all of them were erased."""

    callable: int
    erased_only: bool


def _count_left(conn: Connection, batch_id: int, submission_no: int) -> _Left:
    row = conn.execute(
        "select count(*) filter (where c.phone_number > 0 and w.row is null), bool_and(c.phone_number < 0)"
        " from call c left join withdrawn w using (batch_id, row) where batch_id = %s and submission_no = %s",
        (batch_id, submission_no),
    ).fetchall()[0]
    return _Left(*row)


def _text(field: str, text: str) -> str:
    text = " ".join(text.replace("\0", " ").encode("utf-8", "replace").decode().split())
    if not text or len(text) > NOTE_CHARACTERS:
        raise InvalidInput(
            "The decision is not valid.",
            [Fault(field, "required", f"Enter how you know, in 1 to {NOTE_CHARACTERS} characters.")],
        )
    return text
