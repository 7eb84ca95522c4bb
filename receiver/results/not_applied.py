"""Callbacks that were not applied to a call (the table `set_aside`): the reason, and what a later decision needs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import Cursor
from psycopg.rows import args_row

from receiver.database.arrays import columns
from receiver.database.pool import Connection
from receiver.model import CallbackState
from receiver.results.decision import OTHER_RESULT_WINS, SAME_RESULT, Candidate
from receiver.results.reading.call_details import DETAILS, stored_details


class NotApplied(NamedTuple):
    """A row of `set_aside`. If no call was found, `row` and `candidate` are None."""

    batch_id: int
    callback_id: int
    state: CallbackState
    reason: str
    polled: bool
    row: int | None = None
    candidate: Candidate | None = None


class Earlier(NamedTuple):
    """A callback that was not applied to its call earlier.

    `known`: what a decision needs of it. None if release 1.0.0 wrote the row: then the body must be read again.
    """

    batch_id: int
    row: int
    callback_id: int
    state: CallbackState
    reason: str
    polled: bool
    known: Candidate | None


COMPARED = 100
"""A new callback is compared with this many of its call's latest callbacks that were not applied. Older final results
are compared only if the new callback repeats them or they may win. Older steps, and older rows of release 1.0.0, are
not compared.
"""


def not_applied_to(call: tuple[int, int], candidate: Candidate, state: CallbackState, reason: str) -> NotApplied:
    """The row for a callback that names this call, (batch_id, row)."""
    batch_id, row = call
    return NotApplied(batch_id, candidate.callback_id, state, reason, candidate.polled, row, candidate)


def _earlier(*columns: Any) -> Earlier:
    """A row of `_COLUMNS`."""
    batch_id, row, callback_id, state, reason, polled, received_at, result_key, *stored = columns
    details, known = stored_details(stored), None
    if result_key is not None and details.provider_status is not None:
        known = Candidate(callback_id, received_at, polled, details)
    return Earlier(batch_id, row, callback_id, state, reason, polled, known)


_COLUMNS = "s.batch_id, s.row, s.callback_id, s.state, s.reason, s.polled, c.received_at, s.result_key, " + ", ".join(
    f"s.{name}" for name in DETAILS
)
_JOIN_CALLBACK = "join callback c on c.batch_id = s.batch_id and c.callback_id = s.callback_id"
_CONFLICTING = f"s.reason = '{OTHER_RESULT_WINS}' and s.result_key is not null"
"""SQL: the condition of the indexes `set_aside_best` and `set_aside_key`."""

_LATEST = f"""select {_COLUMNS} from unnest(%(rows)s::integer[]) as g (row)
    cross join lateral (select s.* from set_aside s where s.batch_id = %(batch_id)s and s.row = g.row
        and s.reason <> '{SAME_RESULT}' order by s.callback_id desc limit %(compared)s) s {_JOIN_CALLBACK}"""

_REPEATED = f"""select {_COLUMNS} from unnest(%(rows)s::integer[], %(keys)s::bytea[]) as g (row, result_key)
    join set_aside s using (row, result_key) {_JOIN_CALLBACK} where s.batch_id = %(batch_id)s and {_CONFLICTING}"""

_BEST = " union all ".join(
    f"""select {_COLUMNS} from unnest(%(rows)s::integer[], %(keys)s::bytea[]) as g (row, keys)
    cross join lateral (select s.* from set_aside s where s.batch_id = %(batch_id)s and s.row = g.row
        and {_CONFLICTING} and s.possible_at is {possible} and position(s.result_key in g.keys) = 0
        order by s.possible_at desc nulls last, (s.outcome = 'other'), (s.last_event_at is not null), s.received_at,
            s.callback_id limit 1) s {_JOIN_CALLBACK}"""
    for possible in ("not null", "null")
)


def list_earlier(conn: Connection, keys_of: Mapping[tuple[int, int], Collection[bytes]]) -> list[Earlier]:
    """The callbacks that were not applied to these calls, (batch_id, row), and matter when callbacks with these result
    keys are decided. A callback may be listed twice.

    Duplicates do not matter, so the ten-thousandth duplicate costs as much as the second. Of more than `COMPARED`
    different final results, these matter: those with one of the keys, the best one with a possible time, and the best
    one without.
    """
    rows_of = defaultdict[int, dict[int, Collection[bytes]]](dict)
    for (batch_id, row), keys in keys_of.items():
        rows_of[batch_id][row] = keys
    with conn.cursor(row_factory=args_row(_earlier)) as cursor:
        return [each for batch_id, rows in rows_of.items() for each in _list_of_batch(cursor, batch_id, rows)]


def _list_of_batch(cursor: Cursor[Earlier], batch_id: int, keys_of: Mapping[int, Collection[bytes]]) -> list[Earlier]:
    given = {"batch_id": batch_id, "compared": COMPARED}
    found = cursor.execute(_LATEST, {**given, "rows": list(keys_of)}).fetchall()
    listed = Counter(each.row for each in found)
    more = [row for row, count in listed.items() if count >= COMPARED]
    if more:
        repeated = [(row, key) for row in more for key in set(keys_of[row])]
        rows, keys = zip(*repeated, strict=True)
        found += cursor.execute(_REPEATED, {**given, "rows": list(rows), "keys": list(keys)}).fetchall()
        best = {**given, "rows": more, "keys": [b"".join(keys_of[row]) for row in more]}
        found += cursor.execute(_BEST, best).fetchall()
    return found


def upsert_set_aside(conn: Connection, rows: Sequence[NotApplied]) -> None:
    if rows:
        conn.execute(_UPSERT, columns(map(_values, rows), *[list] * len(_TYPES)))


_TYPES = {
    "batch_id": "bigint",
    "callback_id": "bigint",
    "state": "text",
    "reason": "text",
    "row": "integer",
    "polled": "boolean",
    "received_at": "timestamptz",
    "result_key": "bytea",
    "possible_at": "timestamptz",
    **DETAILS,
}
"""The columns of `set_aside`, in the order of `_values`."""

_UPSERT = (
    f"insert into set_aside ({', '.join(_TYPES)})"
    f" select * from unnest({', '.join(f'%s::{each}[]' for each in _TYPES.values())})"
    " on conflict (batch_id, callback_id) do update set"
    f" {', '.join(f'{name} = excluded.{name}' for name in _TYPES if name not in ('batch_id', 'callback_id', 'polled'))}"
)


def _values(row: NotApplied) -> tuple[object, ...]:
    of_call: Sequence[object] = [None] * (len(DETAILS) + 3)
    if (found := row.candidate) is not None:
        of_call = (found.received_at, found.details.result_key, found.possible_at, *found.details.stored)
    return row.batch_id, row.callback_id, row.state, row.reason, row.row, row.polled, *of_call


def delete_set_aside(conn: Connection, keys: Sequence[tuple[int, int]]) -> None:
    if keys:
        conn.execute(
            "delete from set_aside s using unnest(%s::bigint[], %s::bigint[]) as g (batch_id, callback_id)"
            " where s.batch_id = g.batch_id and s.callback_id = g.callback_id",
            columns(keys, list, list),
        )
