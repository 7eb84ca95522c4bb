"""The lock order of all writers, and the functions that take the locks of batches.

Two transactions that take the same locks in different orders deadlock, and Postgres aborts one of them. So every
writer follows this order, and skips the steps that it does not need:

1. The results lock of batches. Settlement and the result of a poll take it shared (`share_results`). Replay,
   erasure, purge and the count of overdue calls take it exclusively (`own_results`), each of its own batches. The first
   three delete results, or change the columns by which results are found. The count must not change during a
   settlement, which corrects it.
2. `batch` rows, in the order of their ids (`lock_batches`). A batch's lock also protects its rows of `submission`, the
   rows of `outstanding` of a submission that was not accepted, `resolution` and the batch row itself. Accepting a new
   batch takes no lock: no other transaction can see it yet. If it must not repeat recent numbers, it first takes
   an advisory lock (`own_recent`). So if a list is queued twice at the same time, the second batch sees the first.
   A follow-up copies rows and parameters. So it begins with another advisory lock, which follow-ups share
   (`share_copies`). An erasure waits for that lock. Before a follow-up stores its links, it locks the earlier batch
   (`keep_batch`), so that no purge removes that batch until they are committed.
3. The rows of calls, in the order of (batch_id, row): `result` first. The lock on a call's `result` also protects its
   rows of `set_aside`, `outstanding`, `call` and `callback`.
4. The counters of batches (`lock_counters`): `batch_count`, `batch_count_part` and `result_count`. A settlement may
   share those of one busy batch (`receiver.changes.counters`). A transaction that changes several batches in turn first
   locks all of these batches (2), then the counters of all of them. A replay is an exception: it can lock unreleased
   follow-ups and their counters after the counters of its own batches. If it deadlocks, it is retried.
5. `suppression` rows, in the order of the numbers.
6. `poll` and `upkeep`.
7. One `endpoint` row, which also protects its rows of `owed_event` and `delivery` from all but new ones.
8. `endpoint_count` rows, in the order of their keys: `Events.write`, just before the commit. Each transaction adds to
   one of several rows of an endpoint.

Rows that are claimed with `skip locked` are outside this order, because nobody waits for them: `waiting`, the
batch that a worker claims from, the submission that it plans polls for, `deployment_cancel` and `purge`.

If Postgres still aborts a transaction (`GAVE_WAY`), it wrote nothing and is retried.

The locks of 1 and 4 are advisory locks, because on several servers a statement cannot lock rows of several batches.
Batches whose ids are equal modulo `STRIPES` share a lock. So a transaction never has too many locks for Postgres'
memory, and two batches rarely share one. A transaction that changes several batches takes all of their locks of one
kind at once, in order. Later it may take only those that it already has.
"""

from __future__ import annotations

from collections.abc import Iterable

from receiver.database.pool import Connection
from receiver.errors import NotFound

RESULTS_OF_ALL = 0x7265706C
"""The results lock of releases 1.0.0 and 1.1.0."""

RESULTS_LOCK, COUNTERS_LOCK = 0x72657370, 0x72657371
RECENT_LOCK = 0x72656365
COPY_LOCK = 0x636F7079
STRIPES = 256

OLD_WORKERS = "select from worker where not counts_overdue and seen_at > now() - interval '1 minute'"
"""SQL: finds workers of releases 1.0.0 and 1.1.0 that are alive. The column says that a worker is of a later release:
it counts overdue calls, takes the results lock of each batch, and adds parts of counters."""

_SHARE_RESULTS = """
select pg_advisory_xact_lock_shared(%s)
union all select pg_advisory_xact_lock_shared(%s, stripe) from unnest(%s::integer[]) as u (stripe)
"""

# An old worker settles with the lock of all batches.
_OWN_RESULTS = f"""
select case when exists ({OLD_WORKERS}) then pg_advisory_xact_lock(%s) else pg_advisory_xact_lock_shared(%s) end
union all select pg_advisory_xact_lock(%s, stripe) from unnest(%s::integer[]) as u (stripe)
"""

_COUNTERS = """
select case when stripe = any(%s::integer[]) then pg_advisory_xact_lock_shared(%s, stripe)
    else pg_advisory_xact_lock(%s, stripe) end
from unnest(%s::integer[]) as u (stripe)
"""


def share_results(conn: Connection, batch_ids: Iterable[int]) -> None:
    """Take the results lock of these batches shared, to settle. Waits while a replay, an erasure or a purge has it."""
    conn.execute(_SHARE_RESULTS, (RESULTS_OF_ALL, RESULTS_LOCK, _stripes(batch_ids)), prepare=True)


def own_results(conn: Connection, batch_ids: Iterable[int]) -> None:
    """Take the results lock of these batches exclusively. Waits for settlements that are in progress."""
    conn.execute(_OWN_RESULTS, (RESULTS_OF_ALL, RESULTS_OF_ALL, RESULTS_LOCK, _stripes(batch_ids)))


def lock_counters(conn: Connection, batch_ids: Iterable[int], *, share: int | None = None) -> None:
    """Lock the counters of these batches exclusively, and those of the batch `share` shared."""
    owned = _stripes(batch_ids)
    shared = set() if share is None else {share % STRIPES}.difference(owned)
    given = (list(shared), COUNTERS_LOCK, COUNTERS_LOCK, sorted({*owned, *shared}))
    conn.execute(_COUNTERS, given, prepare=True)


def _stripes(batch_ids: Iterable[int]) -> list[int]:
    return sorted({batch_id % STRIPES for batch_id in batch_ids})


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
    for batch_id in sorted(set(batch_ids)):
        conn.execute("select from batch where batch_id = %s for update", (batch_id,))


def lock_batch(conn: Connection, batch_id: int) -> None:
    """Lock one batch. Raises NotFound."""
    if conn.execute("select from batch where batch_id = %s for update", (batch_id,)).rowcount == 0:
        raise NotFound(f"Batch {batch_id} does not exist.")


def keep_batch(conn: Connection, batch_id: int) -> bool:
    """Let no purge remove the batch until the end of the transaction. False: it is removed already."""
    return conn.execute("select from batch where batch_id = %s for key share", (batch_id,)).rowcount == 1
