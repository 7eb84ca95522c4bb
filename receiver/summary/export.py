"""Exports: a batch's calls with their results, and its skipped rows, block by block.

Each block is a separate query, so that a slow reader holds neither a connection nor a snapshot, and an aborted export
leaves nothing behind. Only one block is in memory. Each row is consistent, but different blocks may show different
moments.

Postgres builds the lines of the CSV and returns each block as one value. This is faster than COPY, and faster than
reading a million rows with psycopg.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from receiver.database.pool import Connection, DatabaseUnavailable
from receiver.database.replica import Reader
from receiver.errors import NotFound
from receiver.model import ERASED
from receiver.queueing.exported import PREFIX, RESULT_COLUMNS, SKIPPED_COLUMNS
from receiver.summary.batches import sql_time
from receiver.summary.call_json import call_json
from receiver.summary.calls import Call, CallFilter, list_calls
from receiver.text.csv_line import csv_line, read_csv_line
from receiver.text.formulas import defuse, defuse_csv

BLOCK_ROWS, BLOCK_BYTES = 5_000, 1 << 20
"""The size of a block: this many rows, or about this many bytes of the user's own columns, whichever is less."""

CALLS_AT_ONCE = 500
"""The size of a block of calls that Python writes, small so that other threads run in between."""

BLOCKS_AT_ONCE = 3
"""Blocks that one process reads at the same time. The other connections of the pool are for short requests."""

BLOCK_RETRY_SECONDS = 30.0
"""How long a block is retried while Postgres is unavailable, because it may be restarted during a download."""

END = "\r\n"


@dataclass(frozen=True, slots=True)
class _Source:
    batch_id: int
    columns: list[str]
    last_row: int
    block_rows: int


def export_calls_csv(reader: Reader, batch_id: int) -> Iterator[bytes]:
    """The user's own columns and then `RESULT_COLUMNS`, as CSV in UTF-8 without a byte order mark, formulas defused.

    Raises NotFound at once; later only if the batch is purged during the export, so that a part never looks complete.
    """
    source = reader.read(_get_source, batch_id)

    def blocks() -> Iterator[bytes]:
        yield _header(source.columns, RESULT_COLUMNS)
        for values in _blocks(source):
            ((lines,),) = _read(reader, batch_id, partial(_get_rows, query=_CALLS, values=values))
            if lines is not None:
                yield defuse_csv(lines)

    return blocks()


def export_skipped_csv(reader: Reader, batch_id: int) -> Iterator[bytes]:
    """The skipped rows: the user's own columns, then `SKIPPED_COLUMNS`, then cells beyond the header.

    `destination` is first, so that the file can be corrected and queued. Raises NotFound as `export_calls_csv`.
    """
    source = reader.read(_get_source, batch_id)
    width = len(source.columns) + 1

    def blocks() -> Iterator[bytes]:
        yield _header(source.columns, SKIPPED_COLUMNS)
        for values in _blocks(source):
            lines = []
            skipped = _read(reader, batch_id, partial(_get_rows, query=_SKIPPED, values=values))
            for line, row, code, message in skipped:
                cells = read_csv_line(line)
                whole = (*cells[:width], str(row), code, message, *cells[width:])
                lines.append(csv_line([defuse(cell) for cell in whole]) + END)
            if lines:
                yield "".join(lines).encode()

    return blocks()


def export_calls_ndjson(reader: Reader, batch_id: int) -> Iterator[bytes]:
    """All calls, one JSON line each, with the same members as in the API. Raises NotFound at once."""
    calls = export_calls(reader, batch_id)
    return ("".join(f"{call_json(call)}\n" for call in block).encode() for block in calls)


def export_calls(reader: Reader, batch_id: int) -> Iterator[list[Call]]:
    """All calls of a batch, block by block. Raises NotFound at once."""
    reader.read(_get_source, batch_id)

    def blocks() -> Iterator[list[Call]]:
        after_row = 0
        while calls := _read(reader, batch_id, partial(_list_calls, batch_id=batch_id, after_row=after_row)):
            yield calls
            after_row = calls[-1].row

    return blocks()


def _list_calls(conn: Connection, batch_id: int, after_row: int) -> list[Call]:
    return list_calls(conn, batch_id, CallFilter(), CALLS_AT_ONCE, after_row).calls


def _blocks(source: _Source) -> Iterator[dict[str, int]]:
    """The values of the queries below, for one block after the other."""
    for after_row in range(0, source.last_row, source.block_rows):
        yield {"batch_id": source.batch_id, "after_row": after_row, "last_row": after_row + source.block_rows}


def _get_rows(conn: Connection, query: str, values: dict[str, int]) -> list[tuple[Any, ...]]:
    with conn.cursor(binary=True) as cursor:
        # Not prepared: a plan for all blocks might read the whole batch.
        return cursor.execute(query, values, prepare=False).fetchall()


_Row = TypeVar("_Row")


def _read(reader: Reader, batch_id: int, read: Callable[[Connection], list[_Row]]) -> list[_Row]:
    """Read a block, and return the connection before the client receives it. Raises NotFound for a purged batch.

    If no connection is available, or it breaks, the block is read again, so that a download that has begun can end.
    """

    def whole(conn: Connection) -> list[_Row]:
        found = read(conn)
        if conn.execute("select from batch where batch_id = %s", (batch_id,)).fetchone() is None:
            raise NotFound(f"Batch {batch_id} was purged while it was exported.")
        return found

    give_up_at = time.monotonic() + BLOCK_RETRY_SECONDS
    while True:
        try:
            with _slots:
                return reader.read(whole)
        except DatabaseUnavailable:
            if time.monotonic() > give_up_at:
                raise
        time.sleep(1)


_slots = threading.BoundedSemaphore(BLOCKS_AT_ONCE)


def _get_source(conn: Connection, batch_id: int) -> _Source:
    row = conn.execute(
        "select b.columns, c.rows,"
        " (select max(s.csv_bytes / s.calls) from submission s where s.batch_id = b.batch_id)"
        " from batch b join batch_count c using (batch_id) where b.batch_id = %s",
        (batch_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    columns, last_row, line_bytes = row
    return _Source(batch_id, columns, last_row, max(1, min(BLOCK_ROWS, BLOCK_BYTES // line_bytes)))


def _header(columns: Sequence[str], ours: Sequence[str]) -> bytes:
    """The header. Names stay unique: if the user has a column with one of our names, ours gets a prefix."""
    used = {"destination", *columns}
    named = []
    for name in ours:
        while name in used:
            name = PREFIX + name
        named.append(name)
    return (csv_line([defuse(name) for name in ("destination", *columns, *named)]) + END).encode()


def _cell(expression: str) -> str:
    """SQL: an empty cell for null, which `concat_ws` would leave out."""
    return f"coalesce(({expression})::text, '')"


def _time(moment: str) -> str:
    """SQL: a time in the format of `rfc3339`, or an empty cell."""
    return _cell(sql_time(moment))


_NUMBER = f"case when c.phone_number > 0 then '+' || c.phone_number else '{ERASED}' end"

_STATE = """case when r.outcome is not null then 'final' when o.row is not null then 'refused'
    when w.row is not null or s.state = 'withdrawn' then 'withdrawn'
    when s.overdue_at is not null then 'overdue' else 'pending' end"""

_STATUS = """case when r.provider_status = r.outcome then r.outcome
    when r.provider_status ~ '[",\\r\\n]' then '"' || replace(r.provider_status, '"', '""') || '"'
    else r.provider_status end"""

# A step is not a result.
_SOURCE = "case when r.outcome is null then null when r.polled then 'poll' else 'callback' end"
_WITHDRAWN_REASON = f"""case when {_STATE} = 'withdrawn' then coalesce(w.reason, 'canceled') end"""
_RECEIVED_AT = "case when r.outcome is not null then r.received_at end"

_ROWS = "batch_id = %(batch_id)s and row > %(after_row)s and row <= %(last_row)s"
"""SQL: a condition for each table. With the condition on `call` only, each block would read all results."""

_CALLS = f"""
select convert_to(string_agg(concat_ws(',', c.line, c.row, {_NUMBER}, {_STATE}, {_cell("r.outcome")},
        {_cell(_STATUS)}, {_cell("r.attempts")}, {_cell("r.max_attempts")}, {_time("r.queued_at")},
        {_time("r.started_at")}, {_time("r.ended_at")}, {_cell("r.duration_seconds")}, {_time(_RECEIVED_AT)},
        {_cell(_SOURCE)}, {_cell(_WITHDRAWN_REASON)}), E'\\r\\n' order by c.row) || E'\\r\\n', 'UTF8')
from batch b join (select * from call where {_ROWS}) c using (batch_id)
    join submission s using (batch_id, submission_no)
    left join (select * from result where {_ROWS}) r using (row)
    left join (select row from outstanding where {_ROWS} and refused) o using (row)
    left join (select row, reason from withdrawn where {_ROWS}) w using (row)
"""

_SKIPPED = f"select line, row, code, message from skipped where {_ROWS} order by row"
