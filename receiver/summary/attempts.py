"""How many attempts calls needed. Read from the results, because there is no counter for it: 0.15 s for a million
calls."""

from __future__ import annotations

from receiver.database.pool import Connection


def count_by_attempts(conn: Connection, batch_id: int) -> dict[int | None, int]:
    """How many final calls needed each number of attempts, in ascending order. None: the result contains no number."""
    return dict(
        conn.execute(
            "select attempts, count(*) from result where batch_id = %s and outcome is not null"
            " group by attempts order by attempts",
            (batch_id,),
        ).fetchall()
    )
