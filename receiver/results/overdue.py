"""Counts the calls of a submission as overdue after its due time, and reports each batch with such calls once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from psycopg.rows import args_row, class_row

from receiver.changes.counters import own_counters
from receiver.changes.events import Events
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
    batch_ids = {each.batch_id for each in listed}
    own_results(conn, batch_ids)
    # Another worker may have marked some meanwhile, and of other batches the results are not locked.
    due = [each for each in _list_due(conn) if each.batch_id in batch_ids]
    if not due:
        return [], len(listed) == MOST_AT_ONCE
    lock_batches(conn, batch_ids)
    own_counters(conn, batch_ids)
    calls_of = _count_calls(conn, _mark(conn, due))
    with conn.cursor(row_factory=class_row(OverdueBatch)) as cursor:
        added = cursor.execute(_ADD, (list(calls_of), list(calls_of.values()))).fetchall()
    first = conn.execute(
        "update batch set overdue_noticed = true where batch_id = any(%s) and not overdue_noticed returning batch_id",
        (list(calls_of),),
    ).fetchall()
    noticed = sorted((each for each in added if (each.batch_id,) in first), key=attrgetter("batch_id"))
    events = Events()
    events.replace("batch.overdue", [(batch.batch_id, None) for batch in noticed])
    events.write(conn)
    return noticed, len(listed) == MOST_AT_ONCE


class _Submission(NamedTuple):
    batch_id: int
    submission_no: int
    first_row: int
    last_row: int


def _list_due(conn: Connection) -> list[_Submission]:
    """The submissions that are due first."""
    with conn.cursor(row_factory=args_row(_Submission)) as cursor:
        return cursor.execute(
            "select batch_id, submission_no, first_row, last_row from submission"
            f" where {_DUE} order by due_at limit %s",
            (MOST_AT_ONCE,),
            prepare=True,
        ).fetchall()


def _count_calls(conn: Connection, submissions: Sequence[_Submission]) -> dict[int, int]:
    """The calls of these submissions that have no result, by batch. Batches without such calls are left out."""
    return dict(conn.execute(_OUTSTANDING, _columns(submissions)).fetchall()) if submissions else {}


def _mark(conn: Connection, due: Sequence[_Submission]) -> list[_Submission]:
    """Mark these submissions, except those that are not due any more."""
    with conn.cursor(row_factory=args_row(_Submission)) as cursor:
        return cursor.execute(_MARK, _columns(due)).fetchall()


def _columns(submissions: Sequence[_Submission]) -> list[list[int]]:
    return [list(column) for column in zip(*submissions, strict=True)]


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
