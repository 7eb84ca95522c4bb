"""Counts the calls of a submission as overdue after its due time, and reports each batch with such calls once."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from receiver.changes.counters import own_counters
from receiver.changes.events import Events
from receiver.database.arrays import columns
from receiver.database.locks import OLD_WORKERS, lock_batches, own_results
from receiver.database.pool import Connection

MOST_AT_ONCE = 500

_DUE = "overdue_at is null and due_at <= now() and state in ('accepted', 'unknown')"


@dataclass(frozen=True, slots=True)
class OverdueBatch:
    """A batch whose calls are overdue for the first time. `calls`: all calls that were sent to the provider."""

    batch_id: int
    overdue: int
    calls: int


def mark_overdue(conn: Connection) -> tuple[list[OverdueBatch], bool]:
    """Mark submissions that are due, up to `MOST_AT_ONCE`, and count their calls without a result as overdue. Returns
    the batches that had none before, which the caller reports, and whether more submissions may be due.

    Settling a call reads the mark of its submission. So while calls of a batch are counted, nothing of this batch is
    settled.
    """
    # 1.0.0 settles overdue calls without counting them. While one of its workers lives, none are marked.
    if conn.execute(OLD_WORKERS).fetchone() is not None:
        return [], False
    listed = _list_due(conn)
    batch_ids = {batch_id for batch_id, *_ in listed}
    own_results(conn, batch_ids)
    # Another worker may have marked some meanwhile, and of other batches the results are not locked.
    due = [each for each in _list_due(conn) if each[0] in batch_ids]
    if not due:
        return [], len(listed) == MOST_AT_ONCE
    lock_batches(conn, batch_ids)
    own_counters(conn, batch_ids)
    marked = conn.execute(_MARK, columns(due, *[list] * 4)).fetchall()
    calls_of = conn.execute(_OUTSTANDING, columns(marked, *[list] * 4)).fetchall()
    added = [OverdueBatch(*row) for row in conn.execute(_ADD, columns(calls_of, list, list))]
    first = conn.execute(
        "update batch set overdue_noticed = true where batch_id = any(%s) and not overdue_noticed returning batch_id",
        ([batch_id for batch_id, _ in calls_of],),
    ).fetchall()
    noticed = sorted((each for each in added if (each.batch_id,) in first), key=attrgetter("batch_id"))
    events = Events()
    events.replace("batch.overdue", [(batch.batch_id, None) for batch in noticed])
    events.write(conn)
    return noticed, len(listed) == MOST_AT_ONCE


def _list_due(conn: Connection) -> list[tuple[int, int, int, int]]:
    """(batch_id, submission_no, first_row, last_row) of the submissions that are due first."""
    return conn.execute(
        f"select batch_id, submission_no, first_row, last_row from submission where {_DUE} order by due_at limit %s",
        (MOST_AT_ONCE,),
        prepare=True,
    ).fetchall()


_GIVEN = """unnest(%s::bigint[], %s::integer[], %s::integer[], %s::integer[])
    as g (batch_id, submission_no, first_row, last_row)"""

# By the narrower of the two tables.
_OUTSTANDING = f"""
select g.batch_id, count(*)::integer from {_GIVEN}
join outstanding o on o.batch_id = g.batch_id and not o.refused and o.row between g.first_row and g.last_row
join call c on c.batch_id = o.batch_id and c.row = o.row and c.submission_no = g.submission_no
group by g.batch_id
"""

_MARK = f"""
update submission s set overdue_at = now() from {_GIVEN}
where s.batch_id = g.batch_id and s.submission_no = g.submission_no and {_DUE}
returning s.batch_id, s.submission_no, s.first_row, s.last_row
"""

_ADD = """
update batch_count c set overdue = c.overdue + g.calls,
    acknowledged_overdue = least(c.acknowledged_overdue, c.overdue)
from unnest(%s::bigint[], %s::integer[]) as g (batch_id, calls)
where c.batch_id = g.batch_id
returning c.batch_id, c.overdue, c.rows - c.skipped - c.refused - c.withdrawn as calls
"""
