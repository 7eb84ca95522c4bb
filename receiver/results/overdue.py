"""Counts the calls of a submission as overdue after its due time, and reports each batch with such calls once."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from receiver.changes.events import Events
from receiver.database.locks import lock_batches, own_results
from receiver.database.pool import Connection

MOST_AT_ONCE = 500

_DUE = "overdue_at is null and due_at <= now() and state in ('accepted', 'unknown')"

# What is outstanding of submission `s`, by the narrower of the two tables.
_OUTSTANDING = """from outstanding o join call c using (batch_id, row)
    where o.batch_id = s.batch_id and not o.refused and o.row between s.first_row and s.last_row
    and c.submission_no = s.submission_no"""


@dataclass(frozen=True, slots=True)
class OverdueBatch:
    """A batch whose calls are overdue for the first time. `calls`: all calls that were sent to the provider."""

    batch_id: int
    overdue: int
    calls: int


def mark_overdue(conn: Connection) -> tuple[list[OverdueBatch], bool]:
    """Mark submissions that are due, up to `MOST_AT_ONCE`, and count their calls without a result as overdue. Returns
    the batches that had none before, which the caller reports, and whether more submissions may be due.

    Settling a call reads the mark of its submission. So while calls are counted, nothing is settled.
    """
    if conn.execute(_OLD_WORKERS).fetchone() is not None:
        return [], False
    due = _list_due(conn)
    if any(has_calls for *_, has_calls in due):
        own_results(conn)
        due = _list_due(conn)  # another worker may have marked them meanwhile
    if not due:
        return [], False
    lock_batches(conn, [batch_id for batch_id, *_ in due])
    given = {"batches": [batch_id for batch_id, *_ in due], "submissions": [number for _, number, _ in due]}
    with conn.cursor(row_factory=class_row(OverdueBatch)) as cursor:
        noticed = cursor.execute(_MARK, given).fetchall()
    events = Events()
    events.replace("batch.overdue", [(batch.batch_id, None) for batch in noticed])
    events.write(conn)
    return noticed, len(due) == MOST_AT_ONCE


def _list_due(conn: Connection) -> list[tuple[int, int, bool]]:
    """(batch_id, submission_no, whether it has calls without a result) of the submissions that are due first."""
    return conn.execute(
        f"select batch_id, submission_no, exists (select {_OUTSTANDING}) from submission s where {_DUE}"
        " order by due_at limit %s",
        (MOST_AT_ONCE,),
        prepare=True,
    ).fetchall()


# 1.0.0 settles overdue calls without counting them. While one of its workers lives, none are marked.
_OLD_WORKERS = "select from worker where not counts_overdue and seen_at > now() - interval '1 minute' limit 1"

_MARK = f"""
with marked as (
    update submission s set overdue_at = now()
    from unnest(%(batches)s::bigint[], %(submissions)s::integer[]) as g (batch_id, submission_no)
    where s.batch_id = g.batch_id and s.submission_no = g.submission_no and {_DUE}
    returning s.batch_id, s.submission_no, s.first_row, s.last_row
), counted as (
    select s.batch_id, sum(calls)::integer as calls
    from marked s cross join lateral (select count(*) as calls {_OUTSTANDING}) each group by s.batch_id
), added as (
    update batch_count c set overdue = c.overdue + counted.calls,
        acknowledged_overdue = least(c.acknowledged_overdue, c.overdue) from counted
    where c.batch_id = counted.batch_id and counted.calls > 0
    returning c.batch_id, c.overdue, c.rows - c.skipped - c.refused - c.withdrawn as calls
), noticed as (
    update batch b set overdue_noticed = true from added
    where b.batch_id = added.batch_id and not b.overdue_noticed returning b.batch_id
)
select added.* from added join noticed using (batch_id) order by batch_id
"""
