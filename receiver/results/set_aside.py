"""What settlement sets aside: callbacks that were not applied to their call, why, and what a decision needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import args_row

from receiver.database.pool import Connection
from receiver.model import CallbackState, Outcome
from receiver.results.standing import SAME_RESULT, Candidate


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
"""Most callbacks of a call, the latest of them, that a further one is compared with beside the result that stands."""


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
    )


def list_differing(conn: Connection, calls: Sequence[tuple[int, int]]) -> list[Differing]:
    """What was set aside for these calls, (batch_id, row), and has a result of its own.

    A result that is repeated ten thousand times is one, so that the last repetition costs what the second did; and of
    more than `COMPARED` that all differ, which no honest sender has, the others stay as they are.
    """
    with conn.cursor(row_factory=args_row(Differing)) as cursor:
        return cursor.execute(
            "select s.batch_id, s.row, s.callback_id, s.state, s.reason, s.polled, c.received_at, s.result_key,"
            " s.outcome, s.last_event_at from unnest(%s::bigint[], %s::integer[]) as g (batch_id, row)"
            " cross join lateral (select s.* from set_aside s where s.batch_id = g.batch_id and s.row = g.row"
            f" and s.reason <> '{SAME_RESULT}' order by s.callback_id desc limit %s) s"
            " join callback c on c.batch_id = s.batch_id and c.callback_id = s.callback_id",
            ([batch_id for batch_id, _ in calls], [row for _, row in calls], COMPARED),
        ).fetchall()


def upsert_set_aside(conn: Connection, aside: Sequence[Aside]) -> None:
    if aside:
        conn.execute(
            "insert into set_aside (batch_id, callback_id, state, reason, row, polled, result_key, outcome,"
            " last_event_at) select * from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::integer[],"
            " %s::boolean[], %s::bytea[], %s::text[], %s::timestamptz[])"
            " on conflict (batch_id, callback_id) do update set state = excluded.state, reason = excluded.reason,"
            " row = excluded.row, result_key = excluded.result_key, outcome = excluded.outcome,"
            " last_event_at = excluded.last_event_at",
            [list(column) for column in zip(*aside, strict=True)],
        )


def delete_set_aside(conn: Connection, keys: Sequence[tuple[int, int]]) -> None:
    if keys:
        conn.execute(
            "delete from set_aside s using unnest(%s::bigint[], %s::bigint[]) as g (batch_id, callback_id)"
            " where s.batch_id = g.batch_id and s.callback_id = g.callback_id",
            [list(column) for column in zip(*keys, strict=True)],
        )
