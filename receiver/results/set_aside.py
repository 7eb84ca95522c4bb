"""What settlement sets aside: callbacks that did not become their call's result, and why."""

from __future__ import annotations

from collections.abc import Sequence

from receiver.database.pool import Connection
from receiver.model import CallbackState

Aside = tuple[int, int, CallbackState, str, int | None, bool]
"""(batch_id, callback_id, state, reason, row, polled)"""


def upsert_set_aside(conn: Connection, aside: Sequence[Aside]) -> None:
    if aside:
        conn.execute(
            "insert into set_aside (batch_id, callback_id, state, reason, row, polled)"
            " select * from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::integer[], %s::boolean[])"
            " on conflict (batch_id, callback_id) do update"
            " set state = excluded.state, reason = excluded.reason, row = excluded.row"
            " where (set_aside.state, set_aside.reason) is distinct from (excluded.state, excluded.reason)",
            [list(column) for column in zip(*aside, strict=True)],
        )


def delete_set_aside(conn: Connection, keys: Sequence[tuple[int, int]]) -> None:
    if keys:
        conn.execute(
            "delete from set_aside s using unnest(%s::bigint[], %s::bigint[]) as g (batch_id, callback_id)"
            " where s.batch_id = g.batch_id and s.callback_id = g.callback_id",
            [list(column) for column in zip(*keys, strict=True)],
        )
