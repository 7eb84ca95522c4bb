"""What settlement sets aside: callbacks that were not applied to their call, why, and what a decision needs of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import args_row

from receiver.database.pool import Connection
from receiver.model import CallbackState, Outcome
from receiver.results.journal import ERASED_BODY
from receiver.results.standing import OTHER_RESULT_STANDS, SAME_RESULT, Candidate


class Aside(NamedTuple):
    """A row of `set_aside`. Without a call, `row` and all that follows `polled` are None."""

    batch_id: int
    callback_id: int
    state: CallbackState
    reason: str
    row: int | None
    polled: bool
    result_key: bytes | None = None
    outcome: Outcome | None = None
    last_event_at: datetime | None = None
    received_at: datetime | None = None
    possible_at: datetime | None = None
    """`last_event_at`, unless that time cannot be true."""


class Differing(NamedTuple):
    """A callback that was set aside earlier. `result_key` is None if release 1.0.0 set it aside."""

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

    @property
    def candidate(self) -> Candidate | None:
        if self.result_key is None:
            return None
        return Candidate(
            self.callback_id, self.received_at, self.polled, self.result_key, self.outcome, self.last_event_at
        )


COMPARED = 100
"""A further callback for a call is compared with this many of those set aside, the latest. Final results beyond them
are compared, too, if they are repeated or may win. Steps beyond them, and what release 1.0.0 set aside, are not.
"""


def aside_of(call: tuple[int, int], candidate: Candidate, state: CallbackState, reason: str) -> Aside:
    """The row for a callback that names this call, (batch_id, row)."""
    batch_id, row = call
    return Aside(
        batch_id,
        candidate.callback_id,
        state,
        reason,
        row,
        candidate.polled,
        candidate.result_key,
        candidate.outcome,
        candidate.last_event_at,
        candidate.received_at,
        candidate.possible_at,
    )


_COLUMNS = (
    "s.batch_id, s.row, s.callback_id, s.state, s.reason, s.polled, c.received_at, s.result_key, s.outcome,"
    " s.last_event_at"
)
_JOIN_CALLBACK = "join callback c on c.batch_id = s.batch_id and c.callback_id = s.callback_id"
_CONFLICTING = f"s.reason = '{OTHER_RESULT_STANDS}' and s.result_key is not null"
"""SQL: as in the conditions of the indexes `set_aside_best` and `set_aside_key`."""

_LATEST = f"""select {_COLUMNS} from unnest(%(batch_ids)s::bigint[], %(rows)s::integer[]) as g (batch_id, row)
    cross join lateral (select s.* from set_aside s where s.batch_id = g.batch_id and s.row = g.row
        and s.reason <> '{SAME_RESULT}' order by s.callback_id desc limit %(compared)s) s {_JOIN_CALLBACK}"""

_REPEATED = f"""select {_COLUMNS}
    from unnest(%(batch_ids)s::bigint[], %(rows)s::integer[], %(keys)s::bytea[]) as g (batch_id, row, result_key)
    join set_aside s using (batch_id, row, result_key) {_JOIN_CALLBACK} where {_CONFLICTING}"""

# One without its body could not win: it has no details to show.
_BEST = " union all ".join(
    f"""select {_COLUMNS}
    from unnest(%(batch_ids)s::bigint[], %(rows)s::integer[], %(keys)s::bytea[]) as g (batch_id, row, keys)
    cross join lateral (select s.* from set_aside s where s.batch_id = g.batch_id and s.row = g.row
        and {_CONFLICTING} and s.possible_at is {possible} and position(s.result_key in g.keys) = 0
        and not exists (select from callback c where c.batch_id = s.batch_id and c.callback_id = s.callback_id
            and c.body = %(erased)s)
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
    with conn.cursor(row_factory=args_row(Differing)) as cursor:
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
                    "erased": ERASED_BODY,
                },
            ).fetchall()
    return found


def upsert_set_aside(conn: Connection, aside: Sequence[Aside]) -> None:
    if aside:
        conn.execute(
            "insert into set_aside (batch_id, callback_id, state, reason, row, polled, result_key, outcome,"
            " last_event_at, received_at, possible_at) select * from unnest(%s::bigint[], %s::bigint[], %s::text[],"
            " %s::text[], %s::integer[], %s::boolean[], %s::bytea[], %s::text[], %s::timestamptz[], %s::timestamptz[],"
            " %s::timestamptz[])"
            " on conflict (batch_id, callback_id) do update set state = excluded.state, reason = excluded.reason,"
            " row = excluded.row, result_key = excluded.result_key, outcome = excluded.outcome,"
            " last_event_at = excluded.last_event_at, received_at = excluded.received_at,"
            " possible_at = excluded.possible_at",
            [list(column) for column in zip(*aside, strict=True)],
        )


def delete_set_aside(conn: Connection, keys: Sequence[tuple[int, int]]) -> None:
    if keys:
        conn.execute(
            "delete from set_aside s using unnest(%s::bigint[], %s::bigint[]) as g (batch_id, callback_id)"
            " where s.batch_id = g.batch_id and s.callback_id = g.callback_id",
            [list(column) for column in zip(*keys, strict=True)],
        )
