"""The rows of a queued batch, in blocks of which each fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from receiver.database.pool import Connection
from receiver.errors import NotFound

BLOCK_ROWS, BLOCK_BYTES = 5_000, 1 << 20
"""The size of a block: this many rows, or about this many bytes of the user's own columns, whichever is less."""

OF_BLOCK = "batch_id = %(batch_id)s and row > %(after_row)s and row <= %(last_row)s"
"""SQL: a condition for each table. With the condition on `call` only, each block would read all results."""


@dataclass(frozen=True, slots=True)
class StoredRows:
    batch_id: int
    columns: list[str]
    first_batch_id: int
    """The first batch of its lineage."""
    simulated: bool | None
    last_row: int
    skipped: int
    block_rows: int

    def blocks(self) -> Iterator[dict[str, int]]:
        """The values for `OF_BLOCK`, for one block after the other."""
        for after_row in range(0, self.last_row, self.block_rows):
            yield {"batch_id": self.batch_id, "after_row": after_row, "last_row": after_row + self.block_rows}


def read_block(conn: Connection, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a query that joins tables by `row` within `OF_BLOCK`, each table read once."""
    with conn.transaction(), conn.cursor(binary=True) as cursor:
        # If statistics do not know the batch, Postgres expects one row in each table, and would read the whole block of
        # one for each row of another.
        # The joins that are left have such a high cost that some versions would compile the query for each block (jit).
        cursor.execute("select set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)")
        # Not prepared: a plan for all blocks might read the whole batch.
        found = cursor.execute(query, values, prepare=False).fetchall()
        cursor.execute("set local enable_nestloop = on")
    return found


def get_stored_rows(conn: Connection, batch_id: int) -> StoredRows:
    """Raises NotFound."""
    row = conn.execute(
        "select b.columns, coalesce(b.first_batch_id, b.batch_id), b.simulated, c.rows, c.skipped,"
        " (select max(s.csv_bytes / s.calls) from submission s where s.batch_id = b.batch_id)"
        " from batch b join batch_count c using (batch_id) where b.batch_id = %s",
        (batch_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    columns, first_batch_id, simulated, last_row, skipped, line_bytes = row
    block_rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(line_bytes, 1)))
    return StoredRows(batch_id, columns, first_batch_id, simulated, last_row, skipped, block_rows)
