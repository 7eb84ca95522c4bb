"""Send each submission at most once, even if a process is killed.

A submission becomes `sending`, and this is committed, before its request begins. Only the answer to this request, or
the proof that no byte of it was sent, changes this state. The submission of a killed worker stays `sending`, and
becomes `unknown` when the worker's advisory lock is free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta

from receiver.changes.counters import own_counters
from receiver.changes.events import Events
from receiver.database.locks import lock_batches
from receiver.database.pool import Connection
from receiver.queueing.submissions import header_line
from receiver.release.calls import count_calls, state_if_unsent, withdraw_calls
from receiver.release.claim import Outgoing
from receiver.release.presence import find_gone
from receiver.release.resolution import SENT_SINCE
from receiver.release.states import PROVEN, accept_proven, refresh_state

LINES_AT_ONCE = 2000
"""Rows that are read from the database at a time while a submission is sent."""

WAITING_NOTED = timedelta(minutes=1)
"""Interval at which it is recorded that a batch still waits for its kind of provider."""

MOST_NOTED = 1_000
"""Batches for which that is recorded in one transaction."""

_UNRELEASED = "exists (select from submission s where s.batch_id = b.batch_id and s.state = 'pending')"

ABANDONED = "The process that sent this ended before the provider's answer was recorded."

DOUBT_AGE = timedelta(minutes=10)
"""How long a submission is checked again after it became unknown: settling takes only seconds."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A submission that one of our tries has claimed."""

    batch_id: int
    submission_no: int
    tries: int


def adopt_batches(conn: Connection, simulated: bool) -> bool:
    """Decide the kind of undecided batches that this worker could send, and return whether there were any."""
    found = conn.execute(
        f"select batch_id from batch b where state = 'queueing' and simulated is null and {_UNRELEASED}", prepare=True
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
    left_out = (
        " and not exists (select from withdrawn w where w.batch_id = call.batch_id and w.row = call.row)"
        if outgoing.withdrawn_calls
        else ""
    )
    # The sums make Postgres use the index of the rows. A batch is sent before Postgres has statistics of it, and so the
    # index of the numbers seems to be as good; but it would read and sort the complete submission for each block.
    # A small submission, whose rows can be far apart, is read at once by the index of the numbers.
    rows, plus = ("row > %s and row <= %s and submission_no + 0 = %s", " + 0")
    if outgoing.calls <= LINES_AT_ONCE:
        rows, plus = ("row + 0 > %s and row + 0 <= %s and submission_no = %s", "")
    after = outgoing.first_row - 1
    while after < outgoing.last_row:
        row = conn.execute(
            "select max(row), string_agg(line, e'\\r\\n' order by row) || e'\\r\\n' from ("
            f" select row, line from call where batch_id = %s and {rows}"
            f" and phone_number{plus} > 0{left_out} order by row limit %s) next",
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
        "select batch_id, submission_no from submission where state = 'sending' and worker_id = any(%s)", (gone,)
    ).fetchall()
    lock_batches(conn, [batch_id for batch_id, _ in left])
    abandoned = conn.execute(
        "update submission set state = 'unknown', answered_at = now(), error = %s"
        " where state = 'sending' and worker_id = any(%s) returning batch_id, submission_no",
        (ABANDONED, gone),
    ).fetchall()
    events = Events()
    events.replace("submission.unknown", abandoned)
    refresh_state(conn, [batch_id for batch_id, _ in abandoned], events)
    events.write(conn)
    return abandoned


def accept_proven_lately(conn: Connection) -> None:
    """Accept unknown submissions that already have a result: their callbacks were settled before the worker died, or at
    the moment when they became unknown. Another callback may never arrive.
    """
    proven = conn.execute(
        "select s.batch_id, s.submission_no from submission s join batch_total c using (batch_id)"
        f" where s.state = 'unknown' and s.answered_at > now() - %s and c.applied > 0 and {PROVEN}",
        (DOUBT_AGE,),
    ).fetchall()
    events = Events()
    reopened = accept_proven(conn, proven, events)
    own_counters(conn, reopened)
    for batch_id, calls in reopened.items():
        count_calls(conn, batch_id, "withdrawn", -calls, events)
    events.write(conn)


def list_taken(conn: Connection, worker_id: int) -> list[Taken]:
    """The submissions that this worker is sending, according to the database."""
    taken = "select batch_id, submission_no, tries from submission where state = 'sending' and worker_id = %s"
    return [Taken(*row) for row in conn.execute(taken, (worker_id,))]


def release_untold(conn: Connection, worker_id: int, untold: Collection[Taken]) -> None:
    """Take back what this worker took without hearing that it had: its connection broke in that commit."""
    batch_ids = {taken.batch_id for taken in untold}
    lock_batches(conn, batch_ids)
    own_counters(conn, batch_ids)
    events = Events()
    for taken in untold:
        state = state_if_unsent(conn, taken.batch_id)
        returned = conn.execute(
            "update submission set state = %s, sent_at = next_try_at, released_at = null"
            " where batch_id = %s and submission_no = %s and tries = %s"
            " and state = 'sending' and worker_id = %s",
            (state, taken.batch_id, taken.submission_no, taken.tries, worker_id),
        ).rowcount
        if returned and state == "withdrawn":
            withdraw_calls(conn, taken.batch_id, [taken.submission_no], events)
            refresh_state(conn, [taken.batch_id], events)
    events.write(conn)


def note_waiting(conn: Connection, simulated: bool) -> None:
    """Record that batches for the other kind of provider still wait. The hour in which a batch without an end must be
    sent begins only when they can be sent.
    """
    unreleased = conn.execute(
        f"select batch_id from batch b where state = 'queueing' and simulated <> %s and {_UNRELEASED}"
        " and coalesce(b.waited_until, b.created_at) < now() - %s order by batch_id limit %s",
        (simulated, WAITING_NOTED, MOST_NOTED),
    ).fetchall()
    batch_ids = [
        batch_id
        for (batch_id,) in unreleased
        if conn.execute(
            f"select from batch b where batch_id = %s and {SENT_SINCE} < now() - %s", (batch_id, WAITING_NOTED)
        ).rowcount
    ]
    if batch_ids:
        lock_batches(conn, batch_ids)
        conn.execute("update batch set waited_until = now() where batch_id = any(%s)", (batch_ids,))
