"""The audit trail: who changed what, when, and with which note. Written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from receiver.database.conditions import all_given
from receiver.database.pool import Connection
from receiver.logs import mask_digits, redact

SYSTEM = "system"
"""The actor of what the service does by itself."""

COMMAND_LINE = "command line"
"""The actor of commands."""

NOTE_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Change:
    """An entry. `details` names what else it is about, by fields that depend on the action."""

    id: int
    at: datetime
    actor: str
    action: str
    batch_id: int | None
    submission_id: int | None
    details: dict[str, Any]
    note: str | None


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Which entries are listed: those that match all that is given. `until` is not included."""

    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch_id: int | None = None


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
    """Record a change. `details`: what else names its subject; of a phone number only `masked`, the last two digits.

    A number in a note, or in another text, loses all digits but its last two. A note can contain one in any format.
    """
    kept = {name: redact(value) if isinstance(value, str) else value for name, value in (details or {}).items()}
    conn.execute(
        "insert into audit (actor, action, batch_id, submission_no, details, note) values (%s, %s, %s, %s, %s, %s)",
        (actor, action, batch_id, submission_no, Jsonb(kept), None if note is None else mask_digits(redact(note))),
    )


def list_changes(conn: Connection, wanted: ChangeFilter, limit: int, before: int | None = None) -> list[Change]:
    """Entries, newest first, those with an id below `before`."""
    where, values = all_given(
        {
            "actor = %s": wanted.actor,
            "action = %s": wanted.action,
            "at >= %s": wanted.since,
            "at < %s": wanted.until,
            "batch_id = %s": wanted.batch_id,
            "audit_id < %s": before,
        }
    )
    with conn.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(
            "select audit_id as id, at, actor, action, batch_id, submission_no as submission_id, details, note"
            f" from audit where {where} order by audit_id desc limit %s",
            [*values, limit],
        ).fetchall()
