"""Reports batches whose calls became overdue, each once. Nothing else is written when `due_at` passes."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from receiver.database.pool import Connection

MOST_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class OverdueBatch:
    """A batch past its due time, with calls without a result."""

    batch_id: int
    overdue: int
    calls: int
    """The calls that the provider should make: overdue and final ones."""


def notice_overdue(conn: Connection) -> list[OverdueBatch]:
    """Batches with overdue calls that were not reported yet. Among all workers, each batch is returned once."""
    with conn.cursor(row_factory=class_row(OverdueBatch)) as cursor:
        return cursor.execute(
            """
            with noticed as (
                update batch set overdue_noticed = true where batch_id in (select batch_id from batch
                    where not overdue_noticed and due_at < now() order by due_at limit %s for update skip locked)
                returning batch_id
            ), counted as (
                select batch_id, rows - skipped - refused as calls, completed + failed + canceled + rejected + other
                    as final from noticed join batch_count using (batch_id)
            )
            select batch_id, calls - final as overdue, calls from counted where calls > final order by batch_id
            """,
            (MOST_AT_ONCE,),
        ).fetchall()
