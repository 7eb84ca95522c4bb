"""Replay: settle stored callbacks again, as though they had just come in.

For when the reader of bodies has learnt a new shape, or a result was filed wrongly. What a
callback had effected is taken back first, and that of every other callback of the same call, since they are
decided together; then all of them are settled, in the same transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from receiver.database.pool import Connection
from receiver.model import CallbackState
from receiver.results.counters import Deltas
from receiver.results.settlement import get_stored, settle

REPLAY_LOCK = 0x7265706C
"""Advisory lock: settlements share it, a replay has it alone (it takes rows away under their feet)."""

REPLAY_CALLBACKS = 1000
"""How many callbacks are settled again in one transaction."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a replay changes (or would change) about one callback. `row` is the call it names."""

    callback_id: int
    batch_id: int
    state_before: CallbackState
    state_after: CallbackState
    reason_after: str | None
    row_before: int | None
    row_after: int | None


def share_with_replay(conn: Connection) -> None:
    """To be called by each transaction that settles: waits while a replay is under way."""
    conn.execute("select pg_advisory_xact_lock_shared(%s)", (REPLAY_LOCK,), prepare=True)


def find_settled(
    conn: Connection, *, ids: Sequence[int] | None = None, state: str | None = None, after: int = 0
) -> list[tuple[int, int]]:
    """(batch_id, callback_id) of the next settled callbacks to be replayed, by id or state, in order of id."""
    if state is not None and state != "applied":
        query = "select batch_id, callback_id from set_aside s where state = %(state)s and callback_id > %(after)s"
    else:
        query = (
            "select batch_id, callback_id from callback c where callback_id > %(after)s and not polled"
            " and not exists (select from waiting w where w.callback_id = c.callback_id)"
        )
        if state == "applied":
            query += (
                " and not exists (select from set_aside s"
                " where s.batch_id = c.batch_id and s.callback_id = c.callback_id)"
            )
    if ids is not None:
        query += " and callback_id = any(%(ids)s)"
    return conn.execute(
        query + " order by callback_id limit %(limit)s",
        {"state": state, "after": after, "ids": list(ids or ()), "limit": REPLAY_CALLBACKS},
    ).fetchall()


def replay(conn: Connection, keys: Sequence[tuple[int, int]]) -> list[Change]:
    """Settle these callbacks, (batch_id, callback_id), again. The caller commits, or rolls back to only look.

    Returns what changed, callback by callback, those of the same calls included.
    """
    conn.execute("select pg_advisory_xact_lock(%s)", (REPLAY_LOCK,))
    by_batch: defaultdict[int, set[int]] = defaultdict(set)
    for batch_id, callback_id in keys:
        by_batch[batch_id].add(callback_id)
    changes: list[Change] = []
    for batch_id, callback_ids in sorted(by_batch.items()):
        together = callback_ids | _of_same_calls(conn, batch_id, sorted(callback_ids))
        before = _standing(conn, batch_id, sorted(together))
        _take_back(conn, batch_id, before)
        settle(conn, get_stored(conn, batch_id, sorted(together)))
        after = _standing(conn, batch_id, sorted(together))
        changes += [
            Change(
                callback_id,
                batch_id,
                old[0],
                after[callback_id][0],
                after[callback_id][1],
                old[2],
                after[callback_id][2],
            )
            for callback_id, old in sorted(before.items())
            if old != after[callback_id]
        ]
    return changes


_State = tuple[CallbackState, str | None, int | None]
"""(state, reason, row)"""


def _of_same_calls(conn: Connection, batch_id: int, callback_ids: list[int]) -> set[int]:
    found = conn.execute(
        "with calls as (select row from result where batch_id = %(batch_id)s and callback_id = any(%(ids)s)"
        " union select row from set_aside where batch_id = %(batch_id)s and callback_id = any(%(ids)s)"
        "   and row is not null)"
        " select callback_id from calls join result using (row) where batch_id = %(batch_id)s"
        " union select callback_id from calls join set_aside using (row) where batch_id = %(batch_id)s",
        {"batch_id": batch_id, "ids": callback_ids},
    )
    return {callback_id for (callback_id,) in found}


def _standing(conn: Connection, batch_id: int, callback_ids: list[int]) -> dict[int, _State]:
    states: dict[int, _State] = {}
    for callback_id, row in conn.execute(
        "select callback_id, row from result where batch_id = %s and callback_id = any(%s)",
        (batch_id, callback_ids),
    ):
        states[callback_id] = ("applied", None, row)
    for callback_id, state, reason, row in conn.execute(
        "select callback_id, state, reason, row from set_aside where batch_id = %s and callback_id = any(%s)",
        (batch_id, callback_ids),
    ):
        states[callback_id] = (state, reason, row)
    return states


def _take_back(conn: Connection, batch_id: int, states: dict[int, _State]) -> None:
    """Undo what these callbacks effected: results, what was set aside, and their counts."""
    deltas = Deltas()
    for state, _, _ in states.values():
        deltas.add(batch_id, state, -1)
    ids = list(states)
    conn.execute("delete from set_aside where batch_id = %s and callback_id = any(%s)", (batch_id, ids))
    reopened: list[int] = []
    for row, received_at, outcome, attempts, duration_seconds in conn.execute(
        "delete from result where batch_id = %s and callback_id = any(%s)"
        " returning row, received_at, outcome, attempts, duration_seconds",
        (batch_id, ids),
    ):
        deltas.add_result(batch_id, received_at, outcome, attempts, duration_seconds, -1)
        if outcome is not None:
            reopened.append(row)
    refused = conn.execute(
        "insert into outstanding (batch_id, refused, row)"
        " select call.batch_id, s.state = 'refused', call.row"
        " from call join submission s using (batch_id, submission_no)"
        " where call.batch_id = %s and call.row = any(%s) returning refused",
        (batch_id, reopened),
    ).fetchall()
    deltas.add(batch_id, "refused", sum(1 for (is_refused,) in refused if is_refused))
    deltas.write(conn)
