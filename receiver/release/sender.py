"""Send each submission at most once, even if a process is killed.

A submission becomes `sending`, and this is committed, before its request begins. Only the answer to this request, or
the proof that no byte of it was sent, changes this state. The submission of a killed worker stays `sending`, and
becomes `unknown` when the worker's advisory lock is free.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from receiver.database.locks import lock_batches
from receiver.database.pool import Connection
from receiver.logs import about
from receiver.queueing.batches import PROVEN, accept_proven, refresh_state, refuse_calls
from receiver.queueing.submissions import header_line
from receiver.release.presence import find_gone
from receiver.release.resolution import SENT_SINCE

log = logging.getLogger(__name__)

LINES_AT_ONCE = 2000
"""Rows that are read from the database at a time while a submission is sent."""

GIVE_UP = timedelta(hours=1)
"""How long a batch without an end may wait for its first sending, and a submission's provider be out of reach: later,
nobody expects the calls."""

WAITING_NOTED = timedelta(minutes=1)
"""Interval at which it is recorded that a batch still waits for its kind of provider."""

WINDOW_OVER = (
    "Nothing was sent and nobody is called, because its time window ended before it could be sent. Check that a worker"
    " is running. To call these contacts, queue them again with a later end."
)
HOUR_OVER = (
    "Nothing was sent and nobody is called, because it could not be sent for an hour and calls would be too late."
    " Check that a worker is running. To call these contacts, queue them again."
)

_OVER = f"""(coalesce(b.end_at, greatest({SENT_SINCE}, s.sent_at) + %(give_up)s) <= now()
    and (b.end_at is not null or s.sent_at is not null or not exists (select from submission o
        where o.batch_id = b.batch_id and o.state in ('sending', 'accepted', 'unknown'))))"""
"""SQL: it is too late to send the pending submission `s` of batch `b`. What was tried in vain has an hour from the
first such try; what was not tried has the batch's, and no limit once others of that batch were sent: a large one takes
its time."""

ABANDONED = "The process that sent this ended before the provider's answer was recorded."

DOUBT_AGE = timedelta(minutes=10)
"""How long a submission is checked again after it became unknown: settling takes only seconds."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A submission that this worker sends, and all that its request says."""

    batch_id: int
    submission_no: int
    worker_id: int
    tries: int
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
    give_up_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """A submission that one of our tries has claimed."""

    batch_id: int
    submission_no: int
    tries: int


def claim_submission(
    conn: Connection, worker_id: int, *, simulated: bool = False, signing_key: str | None = None
) -> Outgoing | None:
    """Mark the next due submission `sending` for this worker. The caller commits, before it sends or looks again.

    `simulated`: the worker's provider is a simulator. Only batches that were made for its kind are sent to it.
    `signing_key`: the fingerprint of the key that signs the submission's token.
    Where none is left to send, those for which it is too late are refused, a batch's at a time.
    """
    with conn.cursor(row_factory=class_row(Outgoing)) as cursor:
        # A pending submission's `sent_at` is its first try in vain. While it is sent, `next_try_at` keeps that moment.
        outgoing = cursor.execute(
            f"""
            with due as (
                select s.batch_id, s.submission_no from submission s join batch b using (batch_id)
                where s.state = 'pending' and s.next_try_at <= now() and b.simulated = %(simulated)s and not {_OVER}
                order by s.next_try_at, s.batch_id, s.submission_no limit 1 for update of s skip locked
            ), taken as (
                update submission s set state = 'sending', worker_id = %(worker_id)s, sent_at = now(),
                    next_try_at = coalesce(s.sent_at, now()), tries = s.tries + 1, error = null,
                    signing_key = %(signing_key)s
                from due where s.batch_id = due.batch_id and s.submission_no = due.submission_no
                returning s.*
            )
            select t.batch_id, t.submission_no, t.worker_id, t.tries, t.first_row, t.last_row, t.csv_bytes,
                b.columns, b.application_id, b.deployment_id, b.start_at, b.end_at, b.max_attempts,
                b.reattempt_wait_seconds, b.is_pci,
                coalesce(b.end_at, greatest({SENT_SINCE}, t.next_try_at) + %(give_up)s) as give_up_at
            from taken t join batch b using (batch_id)
            """,
            {"worker_id": worker_id, "give_up": GIVE_UP, "simulated": simulated, "signing_key": signing_key},
            prepare=True,
        ).fetchone()
    if outgoing is None:
        _refuse_late(conn, simulated)
    return outgoing


def adopt_batches(conn: Connection, simulated: bool) -> bool:
    """Decide the kind of undecided batches that this worker could send, and return whether there were any."""
    found = conn.execute(
        "select distinct s.batch_id from submission s join batch b using (batch_id)"
        " where s.state = 'pending' and s.next_try_at <= now() and b.simulated is null",
        prepare=True,
    ).fetchall()
    if not found:
        return False
    batch_ids = [batch_id for (batch_id,) in found]
    lock_batches(conn, batch_ids)
    conn.execute(
        "update batch set simulated = %s where batch_id = any(%s) and simulated is null", (simulated, batch_ids)
    )
    return True


def csv_blocks(conn: Connection, outgoing: Outgoing) -> Iterator[bytes]:
    """The CSV that is sent, in blocks, `csv_bytes` long in total. Reads some rows at a time, without a transaction."""
    yield (header_line(outgoing.columns) + "\r\n").encode()
    after = outgoing.first_row - 1
    # Sums, so that no index but that of the rows serves: a batch is sent before Postgres has looked at it, and the one
    # of the numbers, which then seems as good, would read and sort the whole submission for each block.
    while after < outgoing.last_row:
        row = conn.execute(
            "select max(row), string_agg(line, e'\\r\\n' order by row) || e'\\r\\n' from ("
            " select row, line from call where batch_id = %s and row > %s and row <= %s and submission_no + 0 = %s"
            " and phone_number + 0 > 0 order by row limit %s) next",
            (outgoing.batch_id, after, outgoing.last_row, outgoing.submission_no, LINES_AT_ONCE),
            prepare=True,
        ).fetchone()
        if row is None or row[0] is None:
            return
        after = row[0]
        yield row[1].encode()


def abandon_submissions(
    conn: Connection, worker_id: int, *, among: Collection[int] | None = None
) -> list[tuple[int, int]]:
    """Mark the `sending` submissions of dead workers `unknown`, and return (batch_id, submission_no) of each.

    `among`: the workers that were already gone at the last check. One that just lost its connection is not dead.
    """
    gone = [other for other in find_gone(conn, worker_id) if among is None or other in among]
    if not gone:
        return []
    left = conn.execute(
        "select batch_id, submission_no from submission where state = 'sending' and worker_id = any(%s)",
        (gone,),
    ).fetchall()
    lock_batches(conn, [batch_id for batch_id, _ in left])
    abandoned = conn.execute(
        "update submission set state = 'unknown', answered_at = now(), error = %s"
        " where state = 'sending' and worker_id = any(%s) returning batch_id, submission_no",
        (ABANDONED, gone),
    ).fetchall()
    refresh_state(conn, [batch_id for batch_id, _ in abandoned])
    return abandoned


def accept_proven_lately(conn: Connection) -> None:
    """Accept unknown submissions that already have a result: their callbacks were settled before the worker died, or at
    the moment when they became unknown. Another callback may never arrive.
    """
    proven = conn.execute(
        "select s.batch_id, s.submission_no from submission s join batch_count c using (batch_id)"
        f" where s.state = 'unknown' and s.answered_at > now() - %s and c.applied > 0 and {PROVEN}",
        (DOUBT_AGE,),
    ).fetchall()
    accept_proven(conn, proven)


def list_taken(conn: Connection, worker_id: int) -> list[Taken]:
    """The submissions that this worker is sending, according to the database."""
    with conn.cursor(row_factory=class_row(Taken)) as cursor:
        return cursor.execute(
            "select batch_id, submission_no, tries from submission where state = 'sending' and worker_id = %s",
            (worker_id,),
        ).fetchall()


def release_untold(conn: Connection, worker_id: int, untold: Collection[Taken]) -> None:
    """Make `pending` again what this worker took without hearing that it had: its connection broke in that commit."""
    lock_batches(conn, [taken.batch_id for taken in untold])
    for taken in untold:
        conn.execute(
            "update submission set state = 'pending', sent_at = next_try_at"
            " where batch_id = %s and submission_no = %s and tries = %s"
            " and state = 'sending' and worker_id = %s",
            (taken.batch_id, taken.submission_no, taken.tries, worker_id),
        )


def note_waiting(conn: Connection, simulated: bool) -> None:
    """Note of batches made for the other kind of provider that they still wait for it: the hour in which a batch
    without an end must be sent, and the time until its results are due, begin when they can be sent.
    """
    waiting = conn.execute(
        "select distinct s.batch_id from submission s join batch b using (batch_id)"
        f" where s.state = 'pending' and b.simulated <> %s and {SENT_SINCE} < now() - %s",
        (simulated, WAITING_NOTED),
    ).fetchall()
    if not waiting:
        return
    batch_ids = [batch_id for (batch_id,) in waiting]
    lock_batches(conn, batch_ids)
    conn.execute(
        f"update batch b set due_at = case when b.end_at is null then b.due_at + (now() - {SENT_SINCE}) else b.due_at"
        f" end, waited_until = now() where b.batch_id = any(%s) and {SENT_SINCE} < now()",
        (batch_ids,),
    )


def _refuse_late(conn: Connection, simulated: bool) -> None:
    late = conn.execute(
        "select s.batch_id from submission s join batch b using (batch_id)"
        " where s.state = 'pending' and s.next_try_at <= now()"
        f" and (b.simulated = %(simulated)s or b.end_at is not null) and {_OVER} limit 1",
        {"give_up": GIVE_UP, "simulated": simulated},
        prepare=True,
    ).fetchone()
    if late is None:
        return
    (batch_id,) = late
    lock_batches(conn, [batch_id])
    refused = conn.execute(
        "update submission s set state = 'refused', answered_at = now(),"
        " error = concat_ws(' ', case when b.end_at is null then %(hour_over)s else %(window_over)s end, s.error)"
        " from batch b where s.batch_id = b.batch_id and b.batch_id = %(batch_id)s and s.state = 'pending'"
        f" and {_OVER} returning s.submission_no",
        {"batch_id": batch_id, "give_up": GIVE_UP, "hour_over": HOUR_OVER, "window_over": WINDOW_OVER},
    ).fetchall()
    for (submission_no,) in refused:
        refuse_calls(conn, batch_id, submission_no)
    refresh_state(conn, [batch_id])
    if refused:
        log.warning(
            "batch %d: %d submissions were not sent and are refused, because it is too late to send them",
            batch_id, len(refused),
            extra=about("refused_late", batch_id=batch_id, submissions=len(refused)),
        )  # fmt: skip
