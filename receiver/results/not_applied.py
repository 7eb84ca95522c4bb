"""Callbacks that were not applied to their call (the table `set_aside`): why, and what a decision needs of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.model import CallbackState, Outcome
from receiver.results.decision import OTHER_RESULT_WINS, SAME_RESULT, Candidate
from receiver.results.reading.call_details import CallDetails, stored_details


class NotApplied(NamedTuple):
    """A row of `set_aside`. Without a call, `row` and all that follows `polled` are None."""

    batch_id: int
    callback_id: int
    state: CallbackState
    reason: str
    row: int | None
    polled: bool
    candidate: Candidate | None = None
    details: CallDetails | None = None


@dataclass(frozen=True, slots=True)
class Differing:
    """A callback that was set aside earlier. `result_key` and `provider_status` are None if release 1.0.0 did that."""

    batch_id: int
    row: int
    callback_id: int
    state: CallbackState
    reason: str
    polled: bool
    received_at: datetime
    result_key: bytes | None
    outcome: Outcome | None
    last_event_at: datetime | None
    provider_status: str | None
    attempts: int | None
    max_attempts: int | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_seconds: int | None

    @property
    def known(self) -> tuple[Candidate, CallDetails] | None:
        """What a decision needs, and what a result would show; None if the body must be read for it."""
        if self.result_key is None or self.provider_status is None:
            return None
        candidate = Candidate(
            self.callback_id, self.received_at, self.polled, self.result_key, self.outcome, self.last_event_at
        )
        return candidate, stored_details(self)


COMPARED = 100
"""A further callback for a call is compared with this many of those set aside, the latest. Final results beyond them
are compared, too, if they are repeated or may win. Steps beyond them, and what release 1.0.0 set aside, are not.
"""


def not_applied_to(
    call: tuple[int, int], candidate: Candidate, details: CallDetails, state: CallbackState, reason: str
) -> NotApplied:
    """The row for a callback that names this call, (batch_id, row)."""
    batch_id, row = call
    return NotApplied(batch_id, candidate.callback_id, state, reason, row, candidate.polled, candidate, details)


_COLUMNS = (
    "s.batch_id, s.row, s.callback_id, s.state, s.reason, s.polled, c.received_at, s.result_key, s.outcome,"
    " s.last_event_at, s.provider_status, s.attempts, s.max_attempts, s.queued_at, s.started_at, s.ended_at,"
    " s.duration_seconds"
)
_JOIN_CALLBACK = "join callback c on c.batch_id = s.batch_id and c.callback_id = s.callback_id"
_CONFLICTING = f"s.reason = '{OTHER_RESULT_WINS}' and s.result_key is not null"
"""SQL: as in the conditions of the indexes `set_aside_best` and `set_aside_key`."""

_LATEST = f"""select {_COLUMNS} from unnest(%(batch_ids)s::bigint[], %(rows)s::integer[]) as g (batch_id, row)
    cross join lateral (select s.* from set_aside s where s.batch_id = g.batch_id and s.row = g.row
        and s.reason <> '{SAME_RESULT}' order by s.callback_id desc limit %(compared)s) s {_JOIN_CALLBACK}"""

_REPEATED = f"""select {_COLUMNS}
    from unnest(%(batch_ids)s::bigint[], %(rows)s::integer[], %(keys)s::bytea[]) as g (batch_id, row, result_key)
    join set_aside s using (batch_id, row, result_key) {_JOIN_CALLBACK} where {_CONFLICTING}"""

_BEST = " union all ".join(
    f"""select {_COLUMNS}
    from unnest(%(batch_ids)s::bigint[], %(rows)s::integer[], %(keys)s::bytea[]) as g (batch_id, row, keys)
    cross join lateral (select s.* from set_aside s where s.batch_id = g.batch_id and s.row = g.row
        and {_CONFLICTING} and s.possible_at is {possible} and position(s.result_key in g.keys) = 0
        order by s.possible_at desc nulls last, (s.outcome = 'other'), (s.last_event_at is not null), s.received_at,
            s.callback_id limit 1) s {_JOIN_CALLBACK}"""
    for possible in ("not null", "null")
)


def list_differing(conn: Connection, keys_of: Mapping[tuple[int, int], Collection[bytes]]) -> list[Differing]:
    """What was set aside for these calls, (batch_id, row), and can make a difference when callbacks with these result
    keys are decided. A callback may be listed twice.

    A result that is repeated ten thousand times is one, so that the last repetition costs what the second did. Of more
    than `COMPARED` final results that all differ, three kinds can make a difference: those with one of the keys, and of
    the others the best with a possible time and the best without one.
    """
    with conn.cursor(row_factory=class_row(Differing)) as cursor:
        found = cursor.execute(
            _LATEST,
            {"batch_ids": [call[0] for call in keys_of], "rows": [call[1] for call in keys_of], "compared": COMPARED},
        ).fetchall()
        listed = Counter((each.batch_id, each.row) for each in found)
        more = [call for call, count in listed.items() if count >= COMPARED]
        if more:
            repeated = [(*call, key) for call in more for key in set(keys_of[call])]
            batch_ids, rows, keys = zip(*repeated, strict=True)
            found += cursor.execute(
                _REPEATED, {"batch_ids": list(batch_ids), "rows": list(rows), "keys": list(keys)}
            ).fetchall()
            found += cursor.execute(
                _BEST,
                {
                    "batch_ids": [call[0] for call in more],
                    "rows": [call[1] for call in more],
                    "keys": [b"".join(keys_of[call]) for call in more],
                },
            ).fetchall()
    return found


def upsert_set_aside(conn: Connection, rows: Sequence[NotApplied]) -> None:
    if rows:
        conn.execute(_UPSERT, [list(column) for column in zip(*map(_values, rows), strict=True)])


_TYPES = {
    "batch_id": "bigint",
    "callback_id": "bigint",
    "state": "text",
    "reason": "text",
    "row": "integer",
    "polled": "boolean",
    "result_key": "bytea",
    "outcome": "text",
    "last_event_at": "timestamptz",
    "received_at": "timestamptz",
    "possible_at": "timestamptz",
    "provider_status": "text",
    "attempts": "smallint",
    "max_attempts": "smallint",
    "queued_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "duration_seconds": "integer",
}
"""The columns of `set_aside`, in the order of `_values`."""

_UPSERT = (
    f"insert into set_aside ({', '.join(_TYPES)})"
    f" select * from unnest({', '.join(f'%s::{each}[]' for each in _TYPES.values())})"
    " on conflict (batch_id, callback_id) do update set"
    f" {', '.join(f'{name} = excluded.{name}' for name in _TYPES if name not in ('batch_id', 'callback_id', 'polled'))}"
)


def _values(row: NotApplied) -> tuple[object, ...]:
    of_call: list[object] = [None] * (len(_TYPES) - 6)
    candidate, details = row.candidate, row.details
    if candidate is not None and details is not None:
        of_call = [
            candidate.result_key,
            candidate.outcome,
            candidate.last_event_at,
            candidate.received_at,
            candidate.possible_at,
            details.provider_status,
            details.attempts,
            details.max_attempts,
            details.queued_at,
            details.started_at,
            details.ended_at,
            details.duration_seconds,
        ]
    return row.batch_id, row.callback_id, row.state, row.reason, row.row, row.polled, *of_call


def delete_set_aside(conn: Connection, keys: Sequence[tuple[int, int]]) -> None:
    if keys:
        conn.execute(
            "delete from set_aside s using unnest(%s::bigint[], %s::bigint[]) as g (batch_id, callback_id)"
            " where s.batch_id = g.batch_id and s.callback_id = g.callback_id",
            [list(column) for column in zip(*keys, strict=True)],
        )
