"""The audit trail: who changed what, when, and with which note. Written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg.types.json import Jsonb

from receiver.database.pool import Connection

SYSTEM = "system"
"""The actor of what the service does by itself."""

COMMAND_LINE = "command line"
"""The actor of commands."""

NOTE_CHARACTERS = 2_000


def record_change(
    conn: Connection,
    actor: str,
    action: str,
    *,
    batch_id: int | None = None,
    submission_no: int | None = None,
    details: Mapping[str, object] | None = None,
    note: str | None = None,
) -> None:
    """Record a change. `details`: what else names its subject; of a phone number only `masked`, the last two digits."""
    conn.execute(
        "insert into audit (actor, action, batch_id, submission_no, details, note) values (%s, %s, %s, %s, %s, %s)",
        (actor, action, batch_id, submission_no, Jsonb(dict(details or {})), note),
    )
