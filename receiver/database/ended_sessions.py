"""Dashboard sessions that were signed out. They are refused until they would have expired anyway."""

from __future__ import annotations

from datetime import datetime

from receiver.database.pool import Connection


def end_session(conn: Connection, session_id: str, expires_at: datetime) -> None:
    """Refuse this session from now on, on all machines. Deletes entries that have expired."""
    conn.execute("delete from ended_session where expires_at < now()")
    conn.execute(
        "insert into ended_session (session_id, expires_at) values (%s, %s) on conflict do nothing",
        (session_id, expires_at),
    )
