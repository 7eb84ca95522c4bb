"""Writes the table `result`: the callbacks that are applied to their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from receiver.database.arrays import bigints, booleans, columns, integers, smallints
from receiver.database.pool import Connection
from receiver.results.decision import Verdict
from receiver.results.reading.call_details import DETAILS

CallKey = tuple[int, int]
"""(batch_id, row)"""

NO_TIME = "'0001-01-01 00:00:00+00'::timestamptz"
"""SQL: `last_event_at` of a result that has no such time. Null means that release 1.0.0 wrote the row."""

_COLUMNS = {
    "batch_id": "bigint",
    "row": "integer",
    "callback_id": "bigint",
    "received_at": "timestamptz",
    "polled": "boolean",
    **DETAILS,
}
_ARRAYS: Mapping[str, Callable[[Iterable[Any]], object]] = {
    "bigint": bigints,
    "integer": integers,
    "smallint": smallints,
    "boolean": booleans,
}
_NAMES = ", ".join(_COLUMNS)

AREA = """case when c.phone_number between 10000000000 and 19999999999 then (c.phone_number / 10000000)::integer
    when c.phone_number > 0 then left(c.phone_number::text, 3)::integer end"""
"""SQL: `area` of a call `c`. Null: its number is erased."""

_INSERT = f"""
insert into result ({_NAMES}, area)
select {_NAMES.replace("last_event_at", f"coalesce(last_event_at, {NO_TIME})")},
    {AREA}
from unnest({", ".join(f"%b::{type}[]" for type in _COLUMNS.values())}) as g ({_NAMES})
join call c using (batch_id, row)
order by batch_id, row
on conflict (batch_id, row) do {{action}}
returning batch_id, row
"""
_REPLACED = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("batch_id", "row"))


def insert_results(conn: Connection, verdicts: Mapping[CallKey, Verdict]) -> set[CallKey]:
    """Write the results of calls that have none yet, and return these calls.

    The calls must be in ascending order, so that two workers never wait for each other.
    """
    return _write(conn, verdicts, "nothing")


def replace_results(conn: Connection, verdicts: Mapping[CallKey, Verdict]) -> None:
    """Replace the results of calls whose results are locked."""
    _write(conn, verdicts, f"update set {_REPLACED}")


def _write(conn: Connection, verdicts: Mapping[CallKey, Verdict], action: str) -> set[CallKey]:
    if not verdicts:
        return set()
    rows = [
        (*call, winner.callback_id, winner.received_at, winner.polled, *winner.details.stored)
        for call, (winner, _) in verdicts.items()
    ]
    given = columns(rows, *(_ARRAYS.get(type, list) for type in _COLUMNS.values()))
    return set(conn.execute(_INSERT.format(action=action), given, prepare=True).fetchall())
