"""Which workers live. Each holds an advisory lock while its connection is open; one whose lock is free is gone."""

from __future__ import annotations

from receiver.database.pool import Connection

WORKER_LOCK = 0x72657375
"""First half of the advisory lock that a living worker holds; the second is its id."""


def register_worker(conn: Connection, host: str, pid: int, signing_key: str | None = None) -> int:
    """A new worker's id. The connection must stay open while it lives: it holds the worker's advisory lock.

    `signing_key`: the fingerprint of the key that it signs with, which is noted as one that was used.
    """
    row = conn.execute(
        "with used as (insert into signing_key (fingerprint) select %(signing_key)s::text"
        " where %(signing_key)s::text is not null on conflict do nothing)"
        " insert into worker (host, pid, counts_overdue) values (%(host)s, %(pid)s, true) returning worker_id",
        {"host": host, "pid": pid, "signing_key": signing_key},
    ).fetchone()
    assert row is not None  # noqa: S101 an insert without conflict clause returns its row
    hold_worker_lock(conn, row[0])
    worker_id: int = row[0]
    return worker_id


def hold_worker_lock(conn: Connection, worker_id: int) -> bool:
    """Take the lock that says the worker lives; False while an earlier session of it, lost to us, still has it."""
    row = conn.execute("select pg_try_advisory_lock(%s, %s)", (WORKER_LOCK, worker_id)).fetchone()
    return row is not None and row[0]


def see_worker(conn: Connection, worker_id: int) -> None:
    """Say that the worker lives; and forget those that are long gone."""
    conn.execute("update worker set seen_at = now() where worker_id = %s", (worker_id,))
    conn.execute("delete from worker where seen_at < now() - interval '1 day'")


def find_gone(conn: Connection, worker_id: int) -> set[int]:
    """Workers, other than this one, whose lock is free though they have a request under way: dead, or cut off a moment
    ago. Until this transaction ends, none of them takes its lock again.
    """
    others = conn.execute(
        "select worker_id from submission where state = 'sending' and worker_id <> %(own)s"
        " union select worker_id from deployment_cancel where state = 'asking' and worker_id <> %(own)s",
        {"own": worker_id},
    ).fetchall()
    return {other for (other,) in others if _is_gone(conn, other)}


def _is_gone(conn: Connection, worker_id: int) -> bool:
    row = conn.execute("select pg_try_advisory_xact_lock(%s, %s)", (WORKER_LOCK, worker_id)).fetchone()
    return row is not None and row[0]
