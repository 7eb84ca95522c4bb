"""Purges whole batches, a few thousand rows per transaction, while the service works.

First, one short transaction deletes the batch, its submissions and its counters. From then on it is in no list and no
total, and callbacks for it are `unmatched`. Then its other rows are deleted, table by table in ranges of keys. A row of
`purge` records that this is unfinished, so that the next purge continues after a kill. The last transaction counts the
callbacks that were received during the purge, and deletes that row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from receiver.changes.audit import record_change
from receiver.changes.events import REMAINING
from receiver.database.locks import lock_batch, own_results
from receiver.database.pool import Connection
from receiver.errors import ReceiverError

PURGE_ROWS = 5_000
"""The most rows of one table that a transaction deletes."""

_OLD = "greatest(b.created_at, b.due_at) < now() - %(age)s and b.state <> 'queueing'"
_SIMULATED = "b.simulated"
_ONE = "b.batch_id = %(batch_id)s"

# Late callbacks of a batch that was purged, or never existed. Those that wait are settled first.
_LATE = """not exists (select from batch b where b.batch_id = c.batch_id)
    and c.batch_id not in (select batch_id from purge)
    and exists (select from callback k where k.batch_id = c.batch_id and k.received_at < now() - %(age)s)"""


class NotEnded(ReceiverError):
    """The batch has unreleased or pending calls."""

    code = "not_ended"


@dataclass(frozen=True, slots=True)
class Old:
    """What a purge would delete."""

    batches: int
    calls: int
    callbacks: int
    late_callbacks: int
    """Callbacks of batches that were purged before, or never existed."""


@dataclass(frozen=True, slots=True)
class Removed:
    """One transaction of a purge: how many rows of a batch it deleted. `ended`: nothing of the batch is left."""

    batch_id: int
    rows: int
    ended: bool = False


def count_old(conn: Connection, age: timedelta) -> Old:
    """What `purge` would delete at this age, from counters. Unfinished purges are not included."""
    late = (
        "select count(*) from batch_count c join callback k using (batch_id)"
        f" where {_LATE} and k.received_at < now() - %(age)s"
    )
    return _count(conn, _OLD, late, age=age)


def count_batch(conn: Connection, batch_id: int) -> Old:
    """What `purge_batch` would delete, from counters. Nothing if the batch does not exist."""
    return _count(conn, _ONE, "select 0", batch_id=batch_id)


def count_simulated(conn: Connection) -> Old:
    """What `purge_simulated` would delete, from counters."""
    return _count(conn, _SIMULATED, "select 0")


def _count(conn: Connection, chosen: str, late_callbacks: str, **values: object) -> Old:
    row = conn.execute(
        "select count(*), coalesce(sum(c.rows - c.skipped), 0)::bigint,"
        " coalesce(sum(c.applied + c.duplicate + c.conflict + c.unmatched + c.unreadable), 0)::bigint,"
        f" ({late_callbacks}) from batch b join batch_total c using (batch_id) where {chosen}",
        values,
    ).fetchall()[0]
    return Old(*row)


def purge(conn: Connection, age: timedelta, *, by: str) -> Iterator[Removed]:
    """Delete batches that were created, and due, longer ago than `age`, and late callbacks received before that.

    `by`: for the audit trail, which gets an entry for each batch.
    Yields after each step, so that the caller commits. A caller that stops leaves the rest to the next purge.
    """
    for batch_id in _list_begun(conn):
        yield from _remove(conn, batch_id)
    yield from _purge_batches(conn, _OLD, by, age)
    for batch_id in _mark_late(conn, age):
        yield from _remove(conn, batch_id)


def purge_simulated(conn: Connection, *, by: str) -> Iterator[Removed]:
    """Delete all batches made for the simulator, even if their calls have not ended. Yields as `purge`."""
    yield from _purge_batches(conn, _SIMULATED, by)


def purge_batch(conn: Connection, batch_id: int, *, by: str, force: bool = False) -> Iterator[Removed]:
    """Delete one batch. Yields as `purge`. Raises NotFound, and NotEnded unless `force`."""
    # No settlement may run at the same time: it may have read the batch, and would write rows for it.
    own_results(conn, [batch_id])
    lock_batch(conn, batch_id)
    (works,) = conn.execute(
        f"select b.state = 'queueing' or {REMAINING} > c.overdue from batch b join batch_total c using (batch_id)"
        " where b.batch_id = %s",
        (batch_id,),
    ).fetchall()[0]
    if works and not force:
        raise NotEnded(f"Batch {batch_id} has unreleased or pending calls.")
    _remove_from_lists(conn, batch_id, by)
    yield Removed(batch_id, 0)
    yield from _remove(conn, batch_id)


def claim_purge(conn: Connection) -> bool:
    """Whether this worker should purge now: once a day among all workers, and at once if a purge is unfinished."""
    begun = bool(_list_begun(conn))
    due = conn.execute(
        "update upkeep set next_at = now() + interval '1 day' where task = 'purge' and next_at <= now()"
    ).rowcount
    return begun or due == 1


def _list_begun(conn: Connection) -> list[int]:
    return [batch_id for (batch_id,) in conn.execute("select batch_id from purge order by batch_id")]


def _purge_batches(conn: Connection, chosen: str, by: str, age: timedelta | None = None) -> Iterator[Removed]:
    """Delete the batches that match `chosen` (SQL). With an age, locked ones are left to the next purge."""
    after = 0
    while True:
        row = conn.execute(
            f"select b.batch_id from batch b where {chosen} and b.batch_id > %(after)s order by b.batch_id limit 1",
            {"age": age, "after": after},
        ).fetchone()
        if row is None:
            return
        after = row[0]
        # No settlement may run at the same time: it may have read the batch, and would write rows for it.
        own_results(conn, [after])
        locked = conn.execute(
            f"select from batch b where b.batch_id = %(batch_id)s and {chosen} for update"
            + (" skip locked" if age is not None else ""),
            {"age": age, "batch_id": after},
        ).rowcount
        if locked:
            _remove_from_lists(conn, after, by)
        yield Removed(after, 0)  # the caller commits: no transaction takes the results lock twice
        if locked:
            yield from _remove(conn, after)


def _remove_from_lists(conn: Connection, batch_id: int, by: str) -> None:
    """Remove a locked batch from lists and totals. What is left of it is deleted later."""
    record_change(conn, by, "purge", batch_id=batch_id)
    conn.execute(
        "insert into purge (batch_id, last_callback_id) select %(batch_id)s, coalesce((select callback_id"
        " from callback where batch_id = %(batch_id)s order by callback_id desc limit 1), 0)",
        {"batch_id": batch_id},
    )
    for table in ("external_id", "idempotency", "draft", "batch"):
        conn.execute(f"delete from {table} where batch_id = %s", (batch_id,))
    _delete_counters(conn, batch_id)


def _delete_counters(conn: Connection, batch_id: int) -> None:
    for table in ("batch_count", "batch_count_part", "result_count"):
        conn.execute(f"delete from {table} where batch_id = %s", (batch_id,))


def _mark_late(conn: Connection, age: timedelta) -> list[int]:
    late = f"select c.batch_id from batch_count c where {_LATE}"
    owned = [batch_id for (batch_id,) in conn.execute(late, {"age": age})]
    # No replay may run at the same time: it would miss callbacks that are deleted.
    own_results(conn, owned)
    found = conn.execute(
        f"{late} and c.batch_id = any(%(owned)s) order by c.batch_id", {"age": age, "owned": owned}
    ).fetchall()
    # Stop at the first callback that is not old. Callbacks from a spool may have higher ids than newer callbacks.
    return [
        batch_id
        for (batch_id,) in found
        if conn.execute(
            "insert into purge (batch_id, last_callback_id) select %(batch_id)s, coalesce("
            " min(callback_id) filter (where received_at >= now() - %(age)s) - 1, max(callback_id))"
            " from callback where batch_id = %(batch_id)s on conflict do nothing",
            {"batch_id": batch_id, "age": age},
        ).rowcount
    ]


# (table, key within the batch, condition). Rows are deleted in the order of the table's index.
_TABLES = (
    ("callback", "callback_id", "callback_id <= %(last)s"),
    ("outstanding", "row", "not refused"),
    ("outstanding", "row", "refused"),
    ("withdrawn", "row", "true"),
    ("follow_up", "row", "true"),
    ("poll", "row", "true"),
    ("result", "row", "true"),
    ("skipped", "row", "true"),
    ("call", "row", "true"),
)

# Waiting callbacks stay: they are settled first.
_DELETE_CALLBACKS = """
with gone as (
    delete from callback where batch_id = %(batch_id)s and callback_id > %(after)s and callback_id <= %(to)s
        and callback_id not in (select callback_id from waiting
            where batch_id = %(batch_id)s and callback_id > %(after)s and callback_id <= %(to)s)
    returning callback_id
), aside as (
    delete from set_aside s using gone where s.batch_id = %(batch_id)s and s.callback_id = gone.callback_id
), seen as (
    delete from acknowledged a using gone where a.batch_id = %(batch_id)s and a.callback_id = gone.callback_id
)
select from gone
"""

# An earlier call is linked with what followed the purged one, so that a chain does not end there.
_DELETE_LINKS = """
with gone as (
    delete from follow_up where batch_id = %(batch_id)s and row > %(after)s and row <= %(to)s returning *
), linked as (
    update follow_up f set next_batch_id = gone.next_batch_id, next_row = gone.next_row from gone
    where f.next_batch_id = %(batch_id)s and f.next_row = gone.row
)
select from gone
"""


def _remove(conn: Connection, batch_id: int) -> Iterator[Removed]:
    for table, key, condition in _TABLES:
        after: int | None = 0
        while after is not None:
            if (last := _lock_purge(conn, batch_id)) is None:
                return
            values = {"batch_id": batch_id, "after": after, "last": last, "most": PURGE_ROWS}
            after, rows = _remove_range(conn, table, key, condition, values)
            yield Removed(batch_id, rows)
    if _lock_purge(conn, batch_id) is not None:
        own_results(conn, [batch_id])
        _end(conn, batch_id)
        yield Removed(batch_id, 0, ended=True)


def _lock_purge(conn: Connection, batch_id: int) -> int | None:
    """Lock a purge; returns its last callback id. None if another process works on it, or has ended it."""
    row = conn.execute(
        "select last_callback_id from purge where batch_id = %s for update skip locked", (batch_id,)
    ).fetchone()
    return None if row is None else row[0]


def _remove_range(
    conn: Connection, table: str, key: str, condition: str, values: dict[str, int]
) -> tuple[int | None, int]:
    """Delete the next rows after the key `after`; returns (the last key, rows deleted), or (None, 0) at the end."""
    last: int | None = conn.execute(
        f"select max({key}) from (select {key} from {table} where batch_id = %(batch_id)s and {condition}"
        f" and {key} > %(after)s order by {key} limit %(most)s) next",
        values,
    ).fetchall()[0][0]
    if last is None:
        return None, 0
    delete = (
        f"delete from {table} where batch_id = %(batch_id)s and {condition} and {key} > %(after)s and {key} <= %(to)s"
    )
    values["to"] = last
    delete = {"callback": _DELETE_CALLBACKS, "follow_up": _DELETE_LINKS}.get(table, delete)
    return last, conn.execute(delete, values).rowcount


def _end(conn: Connection, batch_id: int) -> None:
    """End a purge: count the callbacks that were received after the batch was deleted."""
    conn.execute("delete from callback_budget where batch_id = %s", (batch_id,))
    _delete_counters(conn, batch_id)
    conn.execute(
        "insert into batch_count (batch_id, unmatched, unreadable)"
        " select batch_id, count(*) filter (where state = 'unmatched'), count(*) filter (where state = 'unreadable')"
        " from set_aside where batch_id = %s and not polled group by batch_id",
        (batch_id,),
    )
    conn.execute("delete from purge where batch_id = %s", (batch_id,))
