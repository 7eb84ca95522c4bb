"""A person has seen what needed attention: callbacks that were not applied, refused submissions, overdue calls."""

from __future__ import annotations

from collections.abc import Collection

from receiver.changes.audit import record_change
from receiver.changes.counters import own_counters
from receiver.database.locks import lock_batch
from receiver.database.pool import Connection
from receiver.model import CallbackState

NEED_ATTENTION: tuple[CallbackState, ...] = ("unreadable", "unmatched", "conflict")

ACKNOWLEDGED_AT_ONCE = 100_000
"""The most callbacks that one transaction acknowledges, which takes a few seconds."""

IS_ACKNOWLEDGED = """exists (select from acknowledged a where a.batch_id = s.batch_id and a.callback_id = s.callback_id
    and a.state = s.state)"""
"""SQL: whether the row `s` of `set_aside` was acknowledged in this state."""


def acknowledge_callbacks(
    conn: Connection,
    *,
    by: str,
    ids: Collection[int] = (),
    state: CallbackState | None = None,
    note: str | None = None,
) -> list[int]:
    """Acknowledge callbacks that need attention: these, or those in a state, at most `ACKNOWLEDGED_AT_ONCE`.

    Returns the ids of those that were not acknowledged before.
    """
    chosen = "s.state = any(%(states)s) and s.callback_id = any(%(ids)s)" if state is None else "s.state = %(state)s"
    found = conn.execute(
        "insert into acknowledged (batch_id, callback_id, state)"
        f" select s.batch_id, s.callback_id, s.state from set_aside s where {chosen} and not s.polled"
        f" and not {IS_ACKNOWLEDGED} order by s.callback_id limit %(most)s"
        " on conflict (batch_id, callback_id) do update set state = excluded.state, acknowledged_at = now()"
        " returning callback_id",
        {"states": list(NEED_ATTENTION), "ids": list(ids), "state": state, "most": ACKNOWLEDGED_AT_ONCE},
    ).fetchall()
    if found:
        record_change(conn, by, "acknowledge", details={"callbacks": len(found), "state": state}, note=note)
    return [callback_id for (callback_id,) in found]


def acknowledge_batch(conn: Connection, batch_id: int, *, by: str, note: str | None = None) -> None:
    """Acknowledge the refused submissions and the overdue calls of a batch. Later ones need attention again. Raises
    NotFound."""
    lock_batch(conn, batch_id)
    own_counters(conn, [batch_id])
    refused = conn.execute(
        "update submission set acknowledged_at = now()"
        " where batch_id = %s and state = 'refused' and acknowledged_at is null",
        (batch_id,),
    ).rowcount
    overdue = conn.execute(
        "select overdue - acknowledged_overdue from batch_count where batch_id = %s for update", (batch_id,)
    ).fetchall()[0]
    conn.execute("update batch_count set acknowledged_overdue = overdue where batch_id = %s", (batch_id,))
    if overdue[0] > 0 or refused:
        details = {"overdue_calls": max(overdue[0], 0), "refused_submissions": refused}
        record_change(conn, by, "acknowledge", batch_id=batch_id, details=details, note=note)
