"""Show which workers are alive. Each holds an advisory lock while its connection is open. If it is free, it is gone."""

from __future__ import annotations

from receiver.database.pool import Connection

WORKER_LOCK = 0x72657375
"""The first half of the advisory lock of a worker. The second half is the worker's id."""

WORKER_SECONDS = 30
"""A worker that was not seen for this long counts as dead."""

# A worker that has just ended was seen recently, too, but does not hold its lock (Postgres manual: 53.13, pg_locks).
_WORKERS = f"""
select count(*) from worker w join pg_locks l on l.objid::bigint = w.worker_id
where w.seen_at > now() - make_interval(secs => {WORKER_SECONDS}) and l.granted and l.locktype = 'advisory'
    and l.classid::bigint = {WORKER_LOCK} and l.objsubid = 2
    and l.database = (select oid from pg_database where datname = current_database())
"""


def register_worker(conn: Connection, host: str, pid: int, signing_key: str | None = None) -> int:
    """Register a worker and return its id. The connection holds the worker's lock, so it must stay open.

    `signing_key`: the fingerprint of the key with which the worker signs. It is recorded as used.
    """
    worker_id: int = conn.execute(
        "with used as (insert into signing_key (fingerprint) select %(signing_key)s::text"
        " where %(signing_key)s::text is not null on conflict do nothing)"
        " insert into worker (host, pid, counts_overdue) values (%(host)s, %(pid)s, true) returning worker_id",
        {"host": host, "pid": pid, "signing_key": signing_key},
    ).fetchall()[0][0]
    hold_worker_lock(conn, worker_id)
    return worker_id


def hold_worker_lock(conn: Connection, worker_id: int) -> bool:
    """Take the lock that shows that the worker is alive. False: its previous, lost session still has it."""
    return bool(conn.execute("select pg_try_advisory_lock(%s, %s)", (WORKER_LOCK, worker_id)).fetchall()[0][0])


def see_worker(conn: Connection, worker_id: int) -> None:
    """Record that the worker is alive, and delete workers that have been gone for a long time."""
    conn.execute("update worker set seen_at = now() where worker_id = %s", (worker_id,))
    conn.execute("delete from worker where seen_at < now() - interval '1 day'")


def count_workers(conn: Connection) -> int:
    """How many workers are alive: they hold their lock, and were seen within WORKER_SECONDS."""
    row = conn.execute(_WORKERS).fetchone()
    return 0 if row is None else int(row[0])


def find_gone(conn: Connection, worker_id: int) -> set[int]:
    """Other workers whose lock is free although they have a request in progress: they are dead, or just lost their
    connection. Until this transaction ends, none of them can take its lock again.
    """
    others = conn.execute(
        "select worker_id from submission where state = 'sending' and worker_id <> %(own)s"
        " union select worker_id from deployment_cancel where state = 'asking' and worker_id <> %(own)s",
        {"own": worker_id},
    ).fetchall()
    return {other for (other,) in others if _is_gone(conn, other)}


def _is_gone(conn: Connection, worker_id: int) -> bool:
    return bool(conn.execute("select pg_try_advisory_xact_lock(%s, %s)", (WORKER_LOCK, worker_id)).fetchall()[0][0])
