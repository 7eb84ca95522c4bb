"""The lock order of all writers, and the functions that take the first two locks.

Two transactions that take the same locks in different orders deadlock, and Postgres aborts one of them. So every
writer follows this order, and skips the steps that it does not need:

1. The results lock, an advisory lock. Settlement and the result of a poll take it shared (`share_results`). Replay,
   erasure, purge and the count of overdue calls take it exclusively (`own_results`). The first three delete results, or
   change the columns by which results are found. The count must not change during a settlement, which corrects it.
2. `batch` rows, in the order of their ids (`lock_batches`). A batch's lock also protects its rows of `submission`, the
   rows of `outstanding` of a submission that was not accepted, `resolution` and the batch row itself. Accepting a new
   batch takes no lock: no other transaction can see it yet. If it must not repeat recent numbers, it first takes
   an advisory lock (`own_recent`). So if a list is queued twice at the same time, the second batch sees the first.
   A follow-up copies rows, so it takes another advisory lock shared (`share_copies`). An erasure waits for that lock.
   At its end, it also locks the batch that it follows, so that no purge removes that before the links are stored
   (`keep_batch`).
3. The rows of calls, in the order of (batch_id, row): `result` first. The lock on a call's `result` also protects its
   rows of `set_aside`, `outstanding`, `call` and `callback`.
4. `batch_count` rows, in the order of their ids. A batch's counters also protect its rows of `result_count`.
5. `suppression` rows, in the order of the numbers.
6. `poll` and `upkeep`.
7. One `endpoint` row, which also protects its rows of `owed_event` and `delivery` from all but new ones.
8. `endpoint_count` rows, in the order of their keys: `Events.write`, just before the commit.

Rows that are claimed with `skip locked` are outside this order, because nobody waits for them: `waiting`, the
batch that a worker claims from, the submission that it plans polls for, `deployment_cancel` and `purge`.

If Postgres still aborts a transaction (`GAVE_WAY`), it wrote nothing and is retried.
"""

from __future__ import annotations

from collections.abc import Iterable

from receiver.database.pool import Connection

RESULTS_LOCK = 0x7265706C
RECENT_LOCK = 0x72656365
COPY_LOCK = 0x636F7079


def share_results(conn: Connection) -> None:
    """Take the results lock shared, to settle. Waits while a replay, an erasure or a purge holds it."""
    conn.execute("select pg_advisory_xact_lock_shared(%s)", (RESULTS_LOCK,), prepare=True)


def own_results(conn: Connection) -> None:
    """Take the results lock exclusively. Waits for settlements that are in progress."""
    conn.execute("select pg_advisory_xact_lock(%s)", (RESULTS_LOCK,))


def own_recent(conn: Connection) -> None:
    """Let only one batch at a time check for recent numbers, until the end of the transaction."""
    conn.execute("select pg_advisory_xact_lock(%s)", (RECENT_LOCK,))


def share_copies(conn: Connection) -> None:
    """Take the lock of transactions that copy rows, before they read any."""
    conn.execute("select pg_advisory_xact_lock_shared(%s)", (COPY_LOCK,))


def wait_for_copies(conn: Connection) -> None:
    """Wait until the copies that were begun are committed. Those that begin later read what is committed now. End the
    transaction at once, because they wait for it."""
    conn.execute("select pg_advisory_xact_lock(%s)", (COPY_LOCK,))


def lock_batches(conn: Connection, batch_ids: Iterable[int]) -> None:
    """Lock the batches, in order. Every change of a submission's state locks its batch first."""
    conn.execute("select from batch where batch_id = any(%s) order by batch_id for update", (sorted(set(batch_ids)),))


def keep_batch(conn: Connection, batch_id: int) -> bool:
    """Let no purge remove the batch until the end of the transaction. False: it is removed already."""
    return conn.execute("select from batch where batch_id = %s for key share", (batch_id,)).rowcount == 1
