"""Sessions of the Postgres server, with an identity that is never reused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from receiver.database.pool import Connection


@dataclass(frozen=True, slots=True)
class Session:
    """A process id alone is reused. Together with its start it identifies a session forever."""

    pid: int
    began_at: datetime


def get_session(conn: Connection) -> Session:
    """The session of this connection."""
    row = conn.execute("select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()").fetchone()
    assert row is not None  # noqa: S101 this session exists
    return Session(*row)


def lives(conn: Connection, session: Session) -> bool:
    """Whether the session is alive. After its client is gone it may still finish a statement or a commit."""
    found = conn.execute(
        "select from pg_stat_activity where pid = %s and backend_start = %s", (session.pid, session.began_at)
    ).fetchone()
    return found is not None
