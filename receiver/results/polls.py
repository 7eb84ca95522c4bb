"""Calls whose results are fetched from the provider. The table `poll` has a row for each, with the time of its next
request.

When a batch's results are overdue, each of its overdue calls whose id is known gets a row. All workers share one rate
of requests: each request moves a time in a row of `upkeep` forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg.rows import class_row

from receiver.database.arrays import columns
from receiver.database.pool import Connection
from receiver.results.reading.call_ids import read_call_ids

LEASE = timedelta(minutes=5)
"""A request is repeated after this time, because its worker has probably died."""

FIRST_WAIT, LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=12)
MOST_TRIES = 15
"""With waits that double from the first to the longest, the tries cover three and a half days."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A call whose result is requested now. `tries` includes this time."""

    batch_id: int
    row: int
    submission_no: int
    call_id: str
    tries: int


@dataclass(frozen=True, slots=True)
class Planned:
    batch_id: int
    submission_no: int
    calls: int


def plan_polls(conn: Connection, *, simulated: bool = False) -> Planned | None:
    """Plan the polls of the next submission whose results are overdue; None if there is none left.

    `simulated`: the provider is a simulator. Each kind of provider is asked only about its own calls.
    """
    found = conn.execute(
        "select s.batch_id, s.submission_no, b.default_region from submission s join batch b using (batch_id)"
        " where s.answer is not null and not s.polls_planned and s.overdue_at is not null"
        " and coalesce(b.simulated, false) = %s order by s.batch_id, s.submission_no limit %s",
        (simulated, _DUE_AT_ONCE),
    ).fetchall()
    for batch_id, submission_no, region in found:
        row = conn.execute(
            "select answer from submission where batch_id = %s and submission_no = %s and not polls_planned"
            " for update skip locked",
            (batch_id, submission_no),
        ).fetchone()
        if row is not None:
            return _plan(conn, batch_id, submission_no, row[0], region)
    return None


def _plan(conn: Connection, batch_id: int, submission_no: int, answer: str, region: str) -> Planned:
    """Plan the polls of a submission, which is locked."""
    conn.execute(
        "update submission set polls_planned = true where batch_id = %s and submission_no = %s",
        (batch_id, submission_no),
    )
    ids = read_call_ids(answer)
    if not ids:
        return Planned(batch_id, submission_no, 0)
    # The place of a call is its position among all calls that were sent. Calls that were erased later are counted, but
    # not polled. Calls that were erased before were not sent: they were refused then.
    overdue = conn.execute(
        "select n.row, n.place, n.phone_number, n.line from ("
        "  select c.row, c.phone_number, c.line, row_number() over (order by c.row) as place from call c"
        "  join submission s using (batch_id, submission_no)"
        "  where c.batch_id = %(batch_id)s and c.submission_no = %(submission_no)s"
        "  and c.row between s.first_row and s.last_row and not exists (select from withdrawn w"
        "   where w.batch_id = c.batch_id and w.row = c.row) and (c.phone_number > 0 or not exists (select from"
        "  outstanding r where r.batch_id = c.batch_id and r.refused and r.row = c.row))) n"
        " join outstanding o on o.batch_id = %(batch_id)s and not o.refused and o.row = n.row"
        " where n.phone_number > 0 order by n.row",
        {"batch_id": batch_id, "submission_no": submission_no},
    ).fetchall()
    found = ids.find(((place, number, line) for _, place, number, line in overdue), region)
    asked = [(row, call_id) for (row, *_), call_id in zip(overdue, found, strict=True) if call_id is not None]
    conn.execute(
        "insert into poll (batch_id, submission_no, row, call_id)"
        " select %s, %s, * from unnest(%s::integer[], %s::text[]) on conflict (batch_id, row) do update"
        " set call_id = excluded.call_id, tries = 0, next_try_at = now(), provider_status = null, error = null"
        " where poll.call_id <> excluded.call_id",
        (batch_id, submission_no, *columns(asked, list, list)),
    )
    return Planned(batch_id, submission_no, len(asked))


def claim_poll(conn: Connection, rate: float, *, simulated: bool = False) -> Poll | None:
    """Claim the next poll, at most `rate` per second among all workers. The caller commits before the request.

    `simulated`: as for `plan_polls`. For the other kind of provider, the same id is a different call. Polls of calls
    that are not outstanding any more are deleted.
    """
    if conn.execute("select from upkeep where task = 'poll' and next_at <= now()", prepare=True).fetchone() is None:
        return None
    after, most = (datetime.min.replace(tzinfo=UTC), 0, 0), _DUE_AT_ONCE
    while due := conn.execute(_DUE, (*after, most), prepare=True).fetchall():
        keys = [(batch_id, row) for _, batch_id, row in due]
        kinds = {(batch_id, row): kind for batch_id, row, kind in conn.execute(_OUTSTANDING, columns(keys, list, list))}
        if settled := [key for key in keys if key not in kinds]:
            conn.execute(_FORGET, columns(settled, list, list))
        for key in keys:
            if kinds.get(key) == simulated and conn.execute(_LOCK, key, prepare=True).rowcount:
                return _claim(conn, key, rate)
        after, most = due[-1], min(10 * most, _MOST_DUE_AT_ONCE)
    return None


_DUE_AT_ONCE, _MOST_DUE_AT_ONCE = 10, 10_000

_DUE = """select next_try_at, batch_id, row from poll
    where next_try_at <= now() and (next_try_at, batch_id, row) > (%s, %s, %s)
    order by next_try_at, batch_id, row limit %s"""

_LOCK = "select from poll where batch_id = %s and row = %s and next_try_at <= now() for update skip locked"

_OUTSTANDING = """
select batch_id, row, coalesce(b.simulated, false) from unnest(%s::bigint[], %s::integer[]) as g (batch_id, row)
join outstanding o using (batch_id, row) join batch b using (batch_id) where not o.refused
"""

# Another worker may forget the same polls at the same time.
_FORGET = """delete from poll where ctid = any(array(select p.ctid from poll p
    join unnest(%s::bigint[], %s::integer[]) as g (batch_id, row) using (batch_id, row) for update of p skip locked))"""


def _claim(conn: Connection, key: tuple[int, int], rate: float) -> Poll | None:
    """The poll, which is locked, as claimed. None: another worker has claimed one just now."""
    paced = conn.execute(
        "update upkeep set next_at = now() + %s where task = 'poll' and next_at <= now()",
        (timedelta(seconds=1 / rate),),
        prepare=True,
    ).rowcount
    if not paced:
        return None
    with conn.cursor(row_factory=class_row(Poll)) as cursor:
        return cursor.execute(
            "update poll set tries = tries + 1, next_try_at = now() + %s where batch_id = %s and row = %s"
            " returning batch_id, row, submission_no, call_id, tries",
            (LEASE, *key),
            prepare=True,
        ).fetchone()


def end_poll(conn: Connection, poll: Poll) -> None:
    """Delete a poll: the call has its result."""
    conn.execute("delete from poll where batch_id = %s and row = %s", (poll.batch_id, poll.row))


def put_off(conn: Connection, poll: Poll, provider_status: int | None, error: str, *, again: bool = True) -> None:
    """Ask again later, after a wait that doubles each time; with `again` false, never."""
    wait = min(FIRST_WAIT * 2 ** min(poll.tries - 1, 20), LONGEST_WAIT)
    conn.execute(
        "update poll set next_try_at = now() + %s, provider_status = %s, error = %s where batch_id = %s and row = %s",
        (wait if again and poll.tries < MOST_TRIES else None, provider_status, error, poll.batch_id, poll.row),
    )


def pause_polls(conn: Connection, poll: Poll, pause: timedelta, provider_status: int | None, error: str) -> None:
    """Pause all polls. The error does not depend on this call, so the try is not counted."""
    conn.execute("update upkeep set next_at = now() + %s where task = 'poll'", (pause,))
    conn.execute(
        "update poll set tries = tries - 1, next_try_at = now() + %s, provider_status = %s, error = %s"
        " where batch_id = %s and row = %s",
        (pause, provider_status, error, poll.batch_id, poll.row),
    )
