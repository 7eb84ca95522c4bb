"""Sessions of the server, each by a name that no other one has had or will have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from receiver.database.pool import Connection


@dataclass(frozen=True, slots=True)
class Session:
    """`pid` alone is given again; with the moment it began, it names a session for good."""

    pid: int
    began_at: datetime


def get_session(conn: Connection) -> Session:
    """This connection's own."""
    row = conn.execute("select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()").fetchone()
    assert row is not None  # noqa: S101 whoever asks is there
    return Session(*row)


def lives(conn: Connection, session: Session) -> bool:
    """Whether the server still has it: one whose client is gone goes on with its statement, or with its commit."""
    found = conn.execute(
        "select from pg_stat_activity where pid = %s and backend_start = %s", (session.pid, session.began_at)
    ).fetchone()
    return found is not None
