"""Exports: a batch's calls with their results, and its skipped rows, block by block.

Each block is a separate query, so that a slow reader holds neither a connection nor a snapshot, and an aborted export
leaves nothing behind. Only one block is in memory. Each row is consistent, but different blocks may show different
moments.

Postgres builds the lines of the CSV and returns each block as one value. This is faster than COPY, and faster than
reading a million rows with psycopg.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from receiver.database.pool import Connection, DatabaseUnavailable
from receiver.database.replica import Reader
from receiver.errors import NotFound
from receiver.model import ERASED
from receiver.queueing.exported import FAULT_COLUMNS, PREFIX, RESULT_COLUMNS, SKIPPED_COLUMNS
from receiver.queueing.follow_ups import CALL_STATE
from receiver.queueing.stored_rows import OF_BLOCK, StoredRows, get_stored_rows, read_block
from receiver.queueing.submissions import Plan, SkippedRow, header_line
from receiver.summary.batches import Batch, BatchFilter, list_batches, sql_time
from receiver.summary.call_json import LISTED_EVENTS, OwnMembers, events_json, events_of_body
from receiver.summary.calls import CallFilter, get_call
from receiver.summary.lineage import CALL_BY_KEY, CHAINS
from receiver.text.csv_line import csv_line, read_csv_line
from receiver.text.formulas import defuse, defuse_csv

MOST_BODY = 4096
"""A larger packed body is read by itself, so that a block needs little memory. Usual ones have 200 bytes."""

BLOCKS_AT_ONCE = 3
"""Blocks that one process reads at the same time. The other connections of the pool are for short requests."""

BLOCK_RETRY_SECONDS = 30.0
"""How long a block is retried while Postgres is unavailable, because it may be restarted during a download."""

BATCHES_AT_ONCE = 100
"""Batches that one query reads."""

END = "\r\n"

_json = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))


EVERY_CALL = CallFilter()

BATCH_COLUMNS = ("batch_id", "batch_name", "external_id", "labels", "destination", "variables")
"""The columns before `RESULT_COLUMNS` in a file of several batches."""


def export_calls_csv(
    reader: Reader, batch_id: int, wanted: CallFilter = EVERY_CALL, *, own: bool = False, latest: bool = False
) -> Iterator[bytes]:
    """The user's own columns and then `RESULT_COLUMNS`, as CSV in UTF-8 without a byte order mark, formulas defused.

    `own`: only the user's own columns, as they were submitted, not defused. `latest`: each row with the result that it
    reached through its follow-ups; `wanted` applies to this result.
    Raises NotFound at once; later only if the batch is purged during the export, so that a part never looks complete.
    """
    source = reader.read(get_stored_rows, batch_id)

    columns = "c.line" if own else f"c.line, {_RESULTS}"
    query = _LINES.format(columns=columns, calls=_calls(latest), more="", matching=_matching(wanted))

    def blocks() -> Iterator[bytes]:
        yield (header_line(source.columns) + END).encode() if own else _header(source.columns, RESULT_COLUMNS)
        for values in _blocks(source, wanted):
            ((lines,),) = _read(reader, batch_id, partial(read_block, query=query, values=values))
            if lines is not None:
                yield lines if own else defuse_csv(lines)

    return blocks()


def export_all_csv(reader: Reader, batches: BatchFilter, wanted: CallFilter) -> Iterator[bytes]:
    """The calls of all these batches, newest batch first: `BATCH_COLUMNS` and `RESULT_COLUMNS`, formulas defused."""
    columns = f"c.line, concat_ws(',', {_RESULTS})"
    query = _ROWS_OF_CALLS.format(columns=columns, calls=_calls(), more="", matching=_matching(wanted))

    def blocks(each_batch: Iterator[tuple[Batch, StoredRows]]) -> Iterator[bytes]:
        yield (",".join((*BATCH_COLUMNS, *RESULT_COLUMNS)) + END).encode()
        for batch, source in each_batch:
            names = (str(batch.id), batch.name, batch.external_id or "", _json(batch.labels))
            of_batch = csv_line([defuse(name) for name in names])
            for values in _blocks(source, wanted):
                lines: list[bytes] = []
                for line, results in _read(reader, batch.id, partial(read_block, query=query, values=values)):
                    destination, *cells = read_csv_line(line)
                    variables = _json(dict(zip(source.columns, cells, strict=True)))
                    own = csv_line((defuse(destination), defuse(variables)))
                    lines += (f"{of_batch},{own},".encode(), defuse_csv(f"{results}{END}".encode()))
                if lines:
                    yield b"".join(lines)

    return blocks(_each_batch(reader, batches))


def export_all_ndjson(reader: Reader, batches: BatchFilter, wanted: CallFilter) -> Iterator[bytes]:
    """The calls of all these batches, newest batch first, as `export_calls_ndjson`, and with the batch's names."""
    return chain.from_iterable(
        _ndjson(
            reader,
            source,
            wanted,
            more=f',"batch_name":{_json(batch.name)},"external_id":{_json(batch.external_id)},"labels":{_json(batch.labels)}',
        )
        for batch, source in _each_batch(reader, batches)
    )


def _each_batch(reader: Reader, batches: BatchFilter) -> Iterator[tuple[Batch, StoredRows]]:
    """All these batches, newest first. Those that are purged meanwhile are left out. Reads the first ones at once."""

    def read(before: int | None = None) -> list[Batch]:
        return reader.read(list_batches, batches, BATCHES_AT_ONCE, before, with_submissions=False)

    def each(found: list[Batch]) -> Iterator[tuple[Batch, StoredRows]]:
        while found:
            for batch in found:
                with suppress(NotFound):
                    yield batch, reader.read(get_stored_rows, batch.id)
            found = read(found[-1].id)

    return each(read())


def export_skipped_csv(reader: Reader, batch_id: int) -> Iterator[bytes]:
    """The skipped rows: the user's own columns, then `SKIPPED_COLUMNS`, then cells beyond the header.

    `destination` is first, so that the file can be corrected and queued. Raises NotFound as `export_calls_csv`.
    """
    source = reader.read(get_stored_rows, batch_id)
    width = len(source.columns) + 1

    def blocks() -> Iterator[bytes]:
        yield _header(source.columns, SKIPPED_COLUMNS)
        for values in _blocks(source):
            skipped = _read(reader, batch_id, partial(read_block, query=_SKIPPED, values=values))
            if skipped:
                yield _with_reasons(skipped, width)

    return blocks()


def export_faulty_csv(plan: Plan) -> Iterator[bytes]:
    """The rows of a file that cannot be queued, as `export_skipped_csv` writes them, with their `FAULT_COLUMNS`."""
    columns = plan.contacts.columns
    yield _header(columns, FAULT_COLUMNS)
    for block in plan.blocks():
        faulty = [each for each in block if isinstance(each, SkippedRow)]
        rows = ((each.line, each.row, each.line_no, each.code, each.message) for each in faulty)
        yield _with_reasons(rows, len(columns) + 1)


def _with_reasons(rows: Iterable[tuple[Any, ...]], width: int) -> bytes:
    """Lines of CSV. `rows`: the user's line, of which `width` cells have a column, and our cells."""
    lines = []
    for line, *ours in rows:
        cells = read_csv_line(line)
        whole = (*cells[:width], *map(str, ours), *cells[width:])
        lines.append(csv_line([defuse(cell) for cell in whole]) + END)
    return "".join(lines).encode()


def export_calls_ndjson(
    reader: Reader, batch_id: int, wanted: CallFilter = EVERY_CALL, *, latest: bool = False
) -> Iterator[bytes]:
    """The calls, one JSON line each, with the same members as in the API. Raises NotFound at once.

    `latest`: as in `export_calls_csv`. `batch_id`, `row`, `follows` and `followed_by` are still those of the batch.
    """
    return _ndjson(reader, reader.read(get_stored_rows, batch_id), wanted, latest=latest)


def _ndjson(
    reader: Reader, source: StoredRows, wanted: CallFilter, *, latest: bool = False, more: str = ""
) -> Iterator[bytes]:
    """`more`: members at the end of each line, as JSON. Postgres writes all but the cells and the events."""
    call = "k" if latest else "c"
    is_large = f"octet_length(j.body) > {MOST_BODY}"
    query = _ROWS_OF_CALLS.format(
        columns=f"case when {is_large} then array[{call}.batch_id, {call}.row] end, {CALL_PARTS},"
        f" case when not {is_large} then j.body end",
        calls=_calls(latest),
        more=_MORE.format(call=call),
        matching=_matching(wanted),
    )
    own = OwnMembers(source.columns)
    for values in _blocks(source, wanted):
        lines = []
        rows = _read(reader, source.batch_id, partial(read_block, query=query, values=values))
        for key, line, start, middle, end, *body in rows:
            if key is not None:
                events = events_json(*reader.read(get_call, *key).read_events(LISTED_EVENTS))
            else:
                events = events_of_body(*body)
            lines.append(f"{start}{own.write(line)}{middle}{events}{end}{more}}}\n")
        if lines:
            yield "".join(lines).encode()


def _blocks(source: StoredRows, wanted: CallFilter = EVERY_CALL) -> Iterator[dict[str, Any]]:
    """The values of the queries below, for one block after the other."""
    of_calls = {"state": wanted.state, "outcome": wanted.outcome, "phone_numbers": list(wanted.phone_numbers or ())}
    return ({**block, **of_calls} for block in source.blocks())


def _matching(wanted: CallFilter) -> str:
    """SQL: whether a call is wanted."""
    conditions = {
        f"{CALL_STATE} = %(state)s": wanted.state,
        "r.outcome = %(outcome)s": wanted.outcome,
        "c.phone_number = any(%(phone_numbers)s)": wanted.phone_numbers,
    }
    return " and ".join(condition for condition, value in conditions.items() if value is not None) or "true"


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

_STATUS = """case when r.provider_status = r.outcome then r.outcome
    when r.provider_status ~ '[",\\r\\n]' then '"' || replace(r.provider_status, '"', '""') || '"'
    else r.provider_status end"""

# A step is not a result.
_SOURCE = "case when r.outcome is null then null when r.polled then 'poll' else 'callback' end"
_WITHDRAWN_REASON = f"""case when {CALL_STATE} = 'withdrawn' then coalesce(w.reason, 'canceled') end"""
_RECEIVED_AT = "case when r.outcome is not null then r.received_at end"

_RESULTS = f"""c.row, {_NUMBER}, {CALL_STATE}, {_cell("r.outcome")},
    {_cell(_STATUS)}, {_cell("r.attempts")}, {_cell("r.max_attempts")}, {_time("r.queued_at")},
    {_time("r.started_at")}, {_time("r.ended_at")}, {_cell("r.duration_seconds")}, {_time(_RECEIVED_AT)},
    {_cell(_SOURCE)}, {_cell(_WITHDRAWN_REASON)}"""
"""SQL: the values of `RESULT_COLUMNS`."""


def _number(expression: str) -> str:
    """SQL: a number in JSON, or null."""
    return f"coalesce(({expression})::text, 'null')"


def _text(expression: str) -> str:
    """SQL: a text in JSON, or null. Nothing in it needs an escape."""
    return f"coalesce('\"' || ({expression}) || '\"', 'null')"


def _key(batch_id: str, row: str) -> str:
    """SQL: the key of a call in JSON, or null."""
    return f"coalesce('{{\"batch_id\":' || {batch_id} || ',\"row\":' || {row} || '}}', 'null')"


def _members(values: Mapping[str, str]) -> str:
    """SQL: members of a JSON object."""
    return "concat(" + ", ".join(f"',\"{name}\":', {value}" for name, value in values.items()) + ")"


_MIDDLE = {
    "state": _text(CALL_STATE),
    "outcome": _text("r.outcome"),
    "provider_status": _number("to_json(r.provider_status)"),
    "attempts": _number("r.attempts"),
    "max_attempts": _number("r.max_attempts"),
    "queued_at": _text(sql_time("r.queued_at")),
    "started_at": _text(sql_time("r.started_at")),
    "ended_at": _text(sql_time("r.ended_at")),
    "duration_seconds": _number("r.duration_seconds"),
}
_END = {
    "result_received_at": _text(sql_time(_RECEIVED_AT)),
    "result_source": _text(_SOURCE),
    "withdrawn_reason": _text(_WITHDRAWN_REASON),
    "follows": _key("e.batch_id", "e.earlier_row"),
    "followed_by": _key("f.next_batch_id", "f.next_row"),
}

CALL_PARTS = f"""c.line, concat('{{"batch_id":', c.batch_id, ',"row":', c.row, ',"phone_number":"', {_NUMBER}, '",'),
    {_members(_MIDDLE)}, {_members(_END)}, j.packing, nullif(j.content_type, 'application/json'),
    nullif(j.content_encoding, '')"""
"""SQL: the parts of a call's JSON, and what is needed to read its events from body `j`."""

# Each body is read by its key (`offset 0` keeps the subquery): `read_block` would read all callbacks of the batch.
_MORE = f"""left join lateral (select * from callback where batch_id = {{call}}.batch_id and callback_id = r.callback_id
        offset 0) j on true
    left join (select row, next_batch_id, next_row from follow_up where {OF_BLOCK}) f on f.row = c.row
    left join (select next_row, batch_id, row as earlier_row from follow_up where next_batch_id = %(batch_id)s
        and next_row > %(after_row)s and next_row <= %(last_row)s) e on e.next_row = c.row"""

_OF_BLOCK = f"""join submission s using (batch_id, submission_no)
    left join (select * from result where {OF_BLOCK}) r using (row)
    left join (select row from outstanding where {OF_BLOCK} and refused) o using (row)
    left join (select row, reason from withdrawn where {OF_BLOCK}) w using (row)"""

_LATEST = f"""join ({CHAINS.format(first=f"call where {OF_BLOCK}")} select * from latest) k on k.first_row = c.row
    {CALL_BY_KEY}"""


def _calls(latest: bool = False) -> str:
    """SQL: what the state and result of call `c` are read from; `latest`: of call `k`, which its row came to."""
    return _LATEST if latest else _OF_BLOCK


_FROM = f"""
from (select * from call where {OF_BLOCK}) c {{calls}} {{more}}
where {{matching}}
"""

_LINES = f"""
select convert_to(string_agg(concat_ws(',', {{columns}}), E'\\r\\n' order by c.row) || E'\\r\\n', 'UTF8') {_FROM}
"""

_ROWS_OF_CALLS = f"select {{columns}} {_FROM} order by c.row"

_SKIPPED = f"select line, row, code, message from skipped where {OF_BLOCK} order by row"
