"""Exports: a batch's calls with their results, and its skipped rows, in blocks as they come off Postgres.

A block of rows is one COPY of its own, so that a reader who is slow holds neither a connection nor a
snapshot, and one who goes away leaves nothing behind. Memory holds one block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from receiver.database.pool import Connection, Pool, connection
from receiver.errors import NotFound
from receiver.queueing.contacts import csv_line, read_csv_line
from receiver.summary.calls import Call, CallFilter, list_calls

BLOCK_ROWS = 5_000
CALLS_AT_ONCE = 200

END = "\r\n"

RESULT_COLUMNS = (
    "row",
    "phone_number",
    "state",
    "outcome",
    "provider_status",
    "attempts",
    "max_attempts",
    "queued_at",
    "started_at",
    "ended_at",
    "duration_seconds",
    "result_received_at",
    "result_source",
)
SKIPPED_COLUMNS = ("row", "code", "message")

# Spreadsheets read the full-width forms as the others.
_STARTS = "=@\t\r\n\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(f"[{_STARTS}]|[+-](?![0-9.,]*$)", re.ASCII)
# A line in which some cell may be one. It may be wrong about what stands in quotes, never the other way.
_SUSPECT = re.compile(f'(?:^|,)"?(?:[{_STARTS}]|[+-](?![0-9.]*(?:,|"|$)))', re.ASCII)


def defuse(cell: str) -> str:
    """A cell that a spreadsheet shows instead of running it: a formula gets an apostrophe in front.

    Numbers with a sign, E.164 ones among them, are no formulas.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def export_calls_csv(pool: Pool, batch_id: int) -> Iterator[bytes]:
    """The user's own columns and then `RESULT_COLUMNS`, as CSV in UTF-8. Raises NotFound before the first block."""
    with connection(pool) as conn:
        columns, last_row = _columns(conn, batch_id)
    header = csv_line(_header(columns, RESULT_COLUMNS))
    return _blocks(header, pool, _CALLS, batch_id, last_row, _defused)


def export_skipped_csv(pool: Pool, batch_id: int) -> Iterator[bytes]:
    """The rows left out: the user's own columns, then `SKIPPED_COLUMNS`, then what cells stood beyond the header.

    `destination` comes first, so that the file can be corrected and queued. Raises NotFound.
    """
    with connection(pool) as conn:
        columns, last_row = _columns(conn, batch_id)
    width = len(columns) + 1

    def whole(line: str) -> str:
        # What is appended by the query stands last; a row with too many cells keeps its width before it.
        cells = read_csv_line(line)
        own, appended = cells[: -len(SKIPPED_COLUMNS)], cells[-len(SKIPPED_COLUMNS) :]
        return csv_line([defuse(cell) for cell in (*own[:width], *appended, *own[width:])])

    header = csv_line(_header(columns, SKIPPED_COLUMNS))
    return _blocks(header, pool, _SKIPPED, batch_id, last_row, whole)


def export_calls(pool: Pool, batch_id: int) -> Iterator[list[Call]]:
    """All calls of a batch, a block at a time. Raises NotFound before the first."""
    with connection(pool) as conn:
        _columns(conn, batch_id)
    return _call_blocks(pool, batch_id)


def _call_blocks(pool: Pool, batch_id: int) -> Iterator[list[Call]]:
    after_row = 0
    while True:
        with connection(pool) as conn:
            calls = list_calls(conn, batch_id, CallFilter(), CALLS_AT_ONCE, after_row)
        if not calls:
            return
        yield calls
        after_row = calls[-1].row


def _blocks(
    header: str, pool: Pool, query: str, batch_id: int, last_row: int, finish: Callable[[str], str]
) -> Iterator[bytes]:
    yield (header + END).encode()
    for after_row in range(0, last_row, BLOCK_ROWS):
        with connection(pool) as conn, conn.cursor() as cursor:
            # Binary, because the text form would escape what is CSV already.
            with cursor.copy(
                f"copy ({query}) to stdout (format binary)", (batch_id, after_row, after_row + BLOCK_ROWS)
            ) as copy:
                copy.set_types(["text"])
                lines = [finish(line) for (line,) in copy.rows()]
        if lines:
            yield (END.join(lines) + END).encode()


def _defused(line: str) -> str:
    if _SUSPECT.search(line) is None:
        return line
    return csv_line([defuse(cell) for cell in read_csv_line(line)])


def _header(columns: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Names stay unique: where the user has a column called as ours, ours is prefixed."""
    taken = {"destination", *columns}
    named = []
    for name in ours:
        while name in taken:
            name = f"result_{name}"
        named.append(name)
    return [defuse(name) for name in ("destination", *columns, *named)]


def _columns(conn: Connection, batch_id: int) -> tuple[list[str], int]:
    row = conn.execute(
        "select b.columns, c.rows from batch b join batch_count c using (batch_id) where batch_id = %s", (batch_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"There is no batch {batch_id}.")
    return row[0], row[1]


def _quoted(text: str) -> str:
    """SQL: a text as a CSV cell."""
    return (
        f"case when {text} ~ '[\",\\r\\n]' then '\"' || replace({text}, '\"', '\"\"') || '\"'"
        f" else coalesce({text}, '') end"
    )


def _time(moment: str) -> str:
    """SQL: a time as RFC 3339, to the second, in UTC."""
    return f"coalesce(to_char({moment} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '')"


_STATE = """case when r.outcome is not null then 'final'
    when exists (select from outstanding o where o.batch_id = c.batch_id and o.refused and o.row = c.row) then 'refused'
    when b.due_at < now() then 'overdue' else 'pending' end"""

_CALLS = f"""
select concat_ws(',', c.line, c.row, '+' || c.phone_number, {_STATE}, coalesce(r.outcome, ''),
    {_quoted("r.provider_status")}, coalesce(r.attempts::text, ''), coalesce(r.max_attempts::text, ''),
    {_time("r.queued_at")}, {_time("r.started_at")}, {_time("r.ended_at")}, coalesce(r.duration_seconds::text, ''),
    {_time("r.received_at")},
    case when r.callback_id is null then '' when r.polled then 'poll' else 'callback' end)
from call c join batch b using (batch_id) left join result r using (batch_id, row)
where c.batch_id = %s and c.row > %s and c.row <= %s order by c.row
"""

_SKIPPED = f"""
select concat_ws(',', s.line, s.row, {_quoted("s.code")}, {_quoted("s.message")})
from skipped s where s.batch_id = %s and s.row > %s and s.row <= %s order by s.row
"""
