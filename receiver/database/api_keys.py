"""API keys, and dashboard sessions that were ended. A session is started with a key.

A key is shown once, and only its SHA-256 is stored. A key has 256 random bits, so a fast hash is enough; a slow one
would add 100 ms to each request. Its public prefix finds the row. The digests are then compared in constant time.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import psycopg
from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.errors import Fault, InvalidInput, NotFound, ReceiverError

Scope = Literal["read", "queue", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each scope includes the scopes before it."""

NAME_LENGTH = 100

LAST_USE_PRECISION = timedelta(minutes=1)
"""Precision of a key's last use. A higher precision would need a write for every request."""

_KEY = re.compile(r"rr_([A-Za-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
_PREFIX_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"


class KeyNameTaken(ReceiverError):
    """A key with this name exists."""

    code = "key_name_taken"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret part."""

    key_id: int
    name: str
    scope: Scope
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None

    def allows(self, scope: Scope) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


_IN_USE = "revoked_at is null and (expires_at is null or expires_at > now())"
_COLUMNS = "key_id, name, scope, prefix, created_at, expires_at, last_used_at"


def create_key(conn: Connection, name: str, scope: Scope, expires_at: datetime | None = None) -> str:
    """Create a key and return it. It cannot be shown again. Raises KeyNameTaken, InvalidInput."""
    if not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
        fault = Fault("name", "invalid", f"It must be 1 to {NAME_LENGTH} printable characters.")
        raise InvalidInput("The key cannot have this name.", [fault])
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(8))
    key = f"rr_{prefix}_{secrets.token_urlsafe(32)}"
    made = conn.execute(
        "insert into api_key (name, scope, prefix, digest, expires_at) values (%s, %s, %s, %s, %s)"
        " on conflict (name) where revoked_at is null do nothing",
        (name, scope, prefix, _digest(key), expires_at),
    )
    if made.rowcount == 0:
        raise KeyNameTaken(f"A key named {name!r} exists. Revoke it, or choose another name.")
    return key


def find_key(conn: Connection, key: str) -> ApiKey | None:
    """The key, if it exists and is neither revoked nor expired. Records its use, to the minute."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    found = _read(conn, match[1])
    if found is None or not hmac.compare_digest(found[1], _digest(key)):
        return None
    _record_use(conn, found[0])
    return found[0]


def get_key_of_session(conn: Connection, prefix: str, session_id: str) -> tuple[ApiKey, bytes] | None:
    """The key with this prefix, and its digest, for a dashboard session that was started with it.

    None if the key was revoked or has expired, or if the session was ended. Records the use, to the minute.
    """
    found = _read(conn, prefix, session_id)
    if found is not None:
        _record_use(conn, found[0])
    return found


def end_session(conn: Connection, session_id: str, expires_at: datetime) -> None:
    """Refuse this dashboard session from now on, on all machines. Deletes entries that have expired."""
    conn.execute("delete from ended_session where expires_at < now()")
    conn.execute(
        "insert into ended_session (session_id, expires_at) values (%s, %s) on conflict do nothing",
        (session_id, expires_at),
    )


def _read(conn: Connection, prefix: str, session_id: str | None = None) -> tuple[ApiKey, bytes] | None:
    query, values = f"select {_COLUMNS}, digest from api_key where prefix = %s and {_IN_USE}", [prefix]
    if session_id is not None:
        query += " and not exists (select from ended_session where session_id = %s)"
        values.append(session_id)
    row = conn.execute(query, values, prepare=True).fetchone()
    return None if row is None else (ApiKey(*row[:-1]), row[-1])


def _record_use(conn: Connection, key: ApiKey) -> None:
    if key.last_used_at is None or key.last_used_at < datetime.now(UTC) - LAST_USE_PRECISION:
        # Skipped if another request writes the same row, so that no request waits, and if the database is read-only
        # or its disk is full, so that reading still works.
        with contextlib.suppress(psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.DiskFull), conn.transaction():
            conn.execute(
                "update api_key set last_used_at = now() where key_id ="
                " (select key_id from api_key where prefix = %s for update skip locked)",
                (key.prefix,),
            )


def list_keys(conn: Connection) -> list[ApiKey]:
    """Keys that are not revoked, by name."""
    with conn.cursor(row_factory=class_row(ApiKey)) as cursor:
        return cursor.execute(f"select {_COLUMNS} from api_key where revoked_at is null order by name").fetchall()


def revoke_key(conn: Connection, name: str) -> None:
    """Revoke a key at once. Raises NotFound."""
    update = "update api_key set revoked_at = now() where name = %s and revoked_at is null"
    # Postgres does not accept every text that a path can contain.
    if not name.isprintable() or conn.execute(update, (name,)).rowcount == 0:
        raise NotFound(f"Key {name!r} does not exist.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
