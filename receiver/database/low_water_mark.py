"""The low-water mark: a callback id below which nothing waits, now or later.

Entries of settled callbacks stay in the indexes of `waiting` until they are vacuumed, which a long snapshot (a dump,
`verify`) prevents. Whoever reads `waiting` begins at the mark, and so does not walk over them.

An id is given before its callback is committed, so the mark cannot simply follow what is settled. It is raised in two
steps. The first notes the highest callback that is committed, and then takes a transaction id. The journal takes its
transaction id before any callback id, so whoever was given a lower callback id has a lower transaction id, too. The
second step waits until all transactions with lower ids have ended. From then on nothing new can appear below the noted
callback, and the oldest callback that still waits is the new mark. Readers take it in the same statement as `waiting`,
so that both are from one snapshot, on a read replica as well.
"""

from __future__ import annotations

from typing import NamedTuple

from receiver.database.pool import Connection, Pool, connection

LOW_WATER_MARK = "(select coalesce(max(callback_id), 0) from low_water_mark)"
"""SQL: nothing waits below this callback id."""

MARK_CALLBACKS = 1_000
"""The mark is raised when there are so many newer callbacks: to walk over fewer takes a millisecond."""

MARK_SECONDS = 1.0


class Candidate(NamedTuple):
    """A callback id below which nothing new appears once all transactions before `transaction_id` have ended."""

    callback_id: int
    transaction_id: int


class MarkRaiser:
    """Raises the mark, step by step. Any number of workers may do so: the highest mark counts."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._candidate: Candidate | None = None

    def step(self) -> float:
        """The next step; returns the seconds until the one after it."""
        candidate, self._candidate = self._candidate, None  # after an outage, it may be another server's
        with connection(self._pool) as conn:
            if candidate is None:
                self._candidate = find_candidate(conn)
            elif not raise_mark(conn, candidate):
                self._candidate = candidate
        return MARK_SECONDS


def find_candidate(conn: Connection) -> Candidate | None:
    """The first step, as the first statement of a transaction; None while the mark is high enough."""
    row = conn.execute(
        "select newest, pg_current_xact_id()::text::bigint from (select"
        f" (select callback_id from callback order by callback_id desc limit 1) as newest, {LOW_WATER_MARK} as mark)"
        " known where newest >= mark + %s",
        (MARK_CALLBACKS,),
    ).fetchone()
    return None if row is None else Candidate(*row)


def raise_mark(conn: Connection, candidate: Candidate) -> bool:
    """The second step; False while a transaction that could write below the candidate is still open."""
    row = conn.execute(
        "select least(%(callback_id)s, (select callback_id from waiting"
        f"  where callback_id >= {LOW_WATER_MARK} order by callback_id limit 1))"
        " where pg_snapshot_xmin(pg_current_snapshot())::text::bigint > %(transaction_id)s",
        candidate._asdict(),
    ).fetchone()
    if row is None:
        return False
    conn.execute("insert into low_water_mark values (%s) on conflict do nothing", row)
    conn.execute("delete from low_water_mark where callback_id < %s", row)
    return True
