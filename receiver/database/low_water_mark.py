"""The low-water mark: no callback with a lower id waits, now or later.

Entries of settled callbacks stay in the indexes of `waiting` until they are vacuumed, and a long snapshot (a dump,
`verify`) prevents this. Queries of `waiting` begin at the mark, and so skip these entries.

A callback gets its id before it is committed, so the mark cannot simply follow the settled callbacks. It is raised in
two steps. The first step reads the highest committed callback id, and then gets a transaction id. The journal gets its
transaction id before any callback id. So a transaction with a lower callback id also has a lower transaction id. The
second step waits until all transactions with lower ids have ended. From then on no new callback can appear below that
callback id, and the oldest callback that still waits is the new mark. Queries read the mark and `waiting` in one
statement, so that both are from the same snapshot, also on a read replica.
"""

from __future__ import annotations

from typing import NamedTuple

from receiver.database.pool import Connection, Pool, connection

LOW_WATER_MARK = "(select coalesce(max(callback_id), 0) from low_water_mark)"
"""SQL: nothing waits below this callback id."""

NEWEST = "coalesce((select callback_id from callback order by callback_id desc limit 1), 0)"
"""SQL: the newest callback id that is committed; 0: there is none."""

MARK_CALLBACKS = 1_000
"""The mark is raised when there are this many newer callbacks. Reading over fewer takes only a millisecond."""

MARK_SECONDS = 1.0


class Candidate(NamedTuple):
    """No new callback appears below `callback_id` after all transactions before `transaction_id` have ended."""

    callback_id: int
    transaction_id: int


class MarkRaiser:
    """Raises the mark, step by step. Any number of workers may do so: the highest mark is used."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._candidate: Candidate | None = None

    def step(self) -> float:
        """Do the next step, and return the pause before the following one, in seconds."""
        candidate, self._candidate = self._candidate, None  # not used after an error: it may be another server
        with connection(self._pool) as conn:
            if candidate is None:
                self._candidate = find_candidate(conn)
            elif not raise_mark(conn, candidate):
                self._candidate = candidate
        return MARK_SECONDS


def find_candidate(conn: Connection) -> Candidate | None:
    """The first step. It must be the first statement of a transaction. None: the mark is high enough."""
    row = conn.execute(
        "select newest, pg_current_xact_id()::text::bigint from (select"
        f" {NEWEST} as newest, {LOW_WATER_MARK} as mark)"
        " known where newest >= mark + %s",
        (MARK_CALLBACKS,),
    ).fetchone()
    return None if row is None else Candidate(*row)


def raise_mark(conn: Connection, candidate: Candidate) -> bool:
    """The second step. False: a transaction that could write below the candidate is still open."""
    row = conn.execute(
        # Not above the newest callback here: after a failover that lost callbacks, their ids are given out again.
        f"select least(%(callback_id)s, {NEWEST}, (select callback_id from waiting"
        f"  where callback_id >= {LOW_WATER_MARK} order by callback_id limit 1))"
        " where pg_snapshot_xmin(pg_current_snapshot())::text::bigint > %(transaction_id)s",
        candidate._asdict(),
    ).fetchone()
    if row is None:
        return False
    conn.execute("insert into low_water_mark values (%s) on conflict do nothing", row)
    conn.execute("delete from low_water_mark where callback_id < %s", row)
    return True
