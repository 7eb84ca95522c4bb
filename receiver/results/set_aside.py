"""What settlement sets aside: callbacks that did not become their call's result, and why."""

from __future__ import annotations

from collections.abc import Sequence

from receiver.database.pool import Connection
from receiver.model import CallbackState
from receiver.results.standing import SAME_RESULT

Aside = tuple[int, int, CallbackState, str, int | None, bool]
"""(batch_id, callback_id, state, reason, row, polled)"""

COMPARED = 100
"""Most callbacks of a call, the latest of them, that a further one is compared with beside the result that stands."""


def list_differing(conn: Connection, calls: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, CallbackState]]:
    """(batch_id, row, callback_id, state) of what was set aside for these calls, (batch_id, row), and says something
    of its own. A result that is repeated ten thousand times is one, so that the last repetition costs what the second
    did; and of more than `COMPARED` that all differ, which no honest sender has, the others stay as they are.
    """
    return _list(conn, calls, f"s.reason <> '{SAME_RESULT}'")


def list_repeated(conn: Connection, calls: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, CallbackState]]:
    """As `list_differing`, those that repeat what another says: asked for where that one cannot be read any more."""
    return _list(conn, calls, f"s.reason = '{SAME_RESULT}'")


def _list(
    conn: Connection, calls: Sequence[tuple[int, int]], condition: str
) -> list[tuple[int, int, int, CallbackState]]:
    return conn.execute(
        "select s.batch_id, s.row, s.callback_id, s.state from unnest(%s::bigint[], %s::integer[]) as g (batch_id, row)"
        " cross join lateral (select s.* from set_aside s where s.batch_id = g.batch_id and s.row = g.row"
        f" and {condition} order by s.callback_id desc limit %s) s",
        ([batch_id for batch_id, _ in calls], [row for _, row in calls], COMPARED),
    ).fetchall()


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
