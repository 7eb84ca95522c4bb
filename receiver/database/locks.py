"""The one order in which every transaction takes its locks, and the code that takes the first two of them.

Two transactions that take the same locks in different orders wait for each other for ever, until Postgres ends one of
them. So every writer follows this order, and skips the steps that it does not need:

1. The results lock, an advisory one. Whoever settles callbacks shares it (`share_results`): settlement, and the result
   of a poll. Whoever deletes results, or changes what they were found by, has it alone (`own_results`): replay, erasure
   and purge; and whoever counts calls as overdue, since settling one counts it off.
2. `batch` rows, in the order of their ids (`lock_batches`). A batch's lock also protects its rows of `submission`, the
   rows of `outstanding` of a submission that was not accepted, `resolution` and what the batch row itself says.
   Acceptance only inserts a batch that nobody else knows yet.
3. The rows of calls, in the order of (batch_id, row): `result` first. Whoever holds a call's `result` may change its
   rows of `set_aside`, `outstanding`, `call` and `callback`.
4. `batch_count` rows, in the order of their ids. A batch's counters also protect its rows of `result_count`.
5. `poll` and `upkeep`.

Rows that are taken with `skip locked` are outside of this order, because nobody waits for them: `waiting`, the batch
that a worker claims from, the submission that it plans polls for, `deployment_cancel` and `purge`.

A transaction that Postgres ends all the same (`GAVE_WAY`) wrote nothing and is done again.
"""

from __future__ import annotations

from collections.abc import Iterable

from receiver.database.pool import Connection

RESULTS_LOCK = 0x7265706C


def share_results(conn: Connection) -> None:
    """Take the results lock together with others that settle. Waits while a replay, an erasure or a purge has it."""
    conn.execute("select pg_advisory_xact_lock_shared(%s)", (RESULTS_LOCK,), prepare=True)


def own_results(conn: Connection) -> None:
    """Take the results lock alone. Waits for the settlements that are under way."""
    conn.execute("select pg_advisory_xact_lock(%s)", (RESULTS_LOCK,))


def lock_batches(conn: Connection, batch_ids: Iterable[int]) -> None:
    """Lock the batches, in order. Whoever changes a submission's state locks its batch first."""
    conn.execute("select from batch where batch_id = any(%s) order by batch_id for update", (sorted(set(batch_ids)),))
