"""The locks on a batch's counters, and the rows over which the counters of a busy batch are spread.

A batch's counters are one row of `batch_count`. Two workers that settle one large batch would wait for each other's
commit there. So a settlement may add to one of `SLOTS` rows of `batch_count_part` instead, and share the batch's lock.
Everything else owns the lock: then no part is being written, and the parts are added to `batch_count` first. So the
owner's counters are exact, and only an owner sees a batch's last calls end (`receiver.results.counters`).
"""

from __future__ import annotations

from collections.abc import Collection

from receiver.database.locks import lock_counters
from receiver.database.pool import Connection
from receiver.model import OUTCOMES

COUNTED_STATES = ("applied", "duplicate", "conflict", "unmatched", "unreadable")
"""Callback states with a counter. Waiting callbacks are counted in the table `waiting`."""

RESULT_COLUMNS = (*OUTCOMES, "attempts", "duration_seconds")
"""The counters that are also kept by the time of the results."""

PART_COLUMNS = ("refused", "withdrawn", "overdue", "polled", *COUNTED_STATES, *RESULT_COLUMNS)

SLOTS = 16


def own_counters(conn: Connection, batch_ids: Collection[int]) -> None:
    """Lock the counters of these batches until the transaction ends, and complete them: their parts are added."""
    lock_counters(conn, batch_ids)
    add_parts(conn, batch_ids)


def add_parts(conn: Connection, batch_ids: Collection[int]) -> None:
    """Add the parts of these batches to their counters. The caller has locked them."""
    conn.execute(_ADD_PARTS, (list(batch_ids),), prepare=True)


def added(names: tuple[str, ...], to_add: str) -> str:
    """SQL: sets these counters of `c` to their sums with those of `to_add`."""
    return ", ".join(f"{name} = c.{name} + {to_add}.{name}" for name in names)


def _sums(names: tuple[str, ...]) -> str:
    return ", ".join(f"sum({name}) as {name}" for name in names)


_ADD_PARTS = f"""
with parts as (
    delete from batch_count_part where batch_id = any(%s) returning *
), quarters as (
    select batch_id, at, {_sums(RESULT_COLUMNS)} from parts where at > '-infinity' group by batch_id, at
), changed as (
    update result_count c set {added(RESULT_COLUMNS, "p")} from quarters p
    where c.batch_id = p.batch_id and c.at = p.at returning c.batch_id, c.at
), inserted as (
    insert into result_count (batch_id, at, {", ".join(RESULT_COLUMNS)})
    select q.batch_id, q.at, {", ".join(f"q.{name}" for name in RESULT_COLUMNS)}
    from quarters q left join changed c on c.batch_id = q.batch_id and c.at = q.at where c.at is null
)
update batch_count c set {added(PART_COLUMNS, "p")},
    first_result_at = least(c.first_result_at, p.first), last_result_at = greatest(c.last_result_at, p.last)
from (select batch_id, min(first_result_at) as first, max(last_result_at) as last, {_sums(PART_COLUMNS)}
    from parts group by batch_id) p
where c.batch_id = p.batch_id
"""
