"""Purging: whole batches that are old enough go, a few thousand rows a transaction, while the service works.

First, in one short transaction, the batch itself goes, with its submissions and its counters: from then on
no list and no total knows it, and whatever still comes in for it is `unmatched`. What lay under it follows, by
ranges of its tables' keys. A row of `purge` stands for what is left to do, so a purge that was killed is
gone on with by the next. Its last transaction counts what came in meanwhile, and takes that row away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from receiver.database.locks import own_results
from receiver.database.pool import Connection

PURGE_ROWS = 5_000
"""Most rows of one table that a transaction removes."""

_OLD = "greatest(b.created_at, b.due_at) < now() - %(age)s and b.state <> 'queueing'"
_SIMULATED = "b.simulated"

# Late callbacks of a batch that is gone, or was never known; those that wait are settled first.
_LATE = """not exists (select from batch b where b.batch_id = c.batch_id)
    and not exists (select from purge p where p.batch_id = c.batch_id)
    and exists (select from callback k where k.batch_id = c.batch_id and k.received_at < now() - %(age)s)"""


@dataclass(frozen=True, slots=True)
class Old:
    """What a purge would remove."""

    batches: int
    calls: int
    callbacks: int
    late_callbacks: int
    """Callbacks of batches that were purged before, or never known."""


@dataclass(frozen=True, slots=True)
class Removed:
    """One transaction's worth of a purge: rows removed under a batch; `ended`: none of it is left."""

    batch_id: int
    rows: int
    ended: bool = False


def count_old(conn: Connection, age: timedelta) -> Old:
    """What `purge` would remove at this age, read from counters. What another left half-purged is not in it."""
    row = conn.execute(
        "select count(*), coalesce(sum(c.rows - c.skipped), 0)::bigint,"
        " coalesce(sum(c.applied + c.duplicate + c.conflict + c.unmatched + c.unreadable), 0)::bigint,"
        " (select count(*) from batch_count c join callback k using (batch_id)"
        f"  where {_LATE} and k.received_at < now() - %(age)s)"
        f" from batch b join batch_count c using (batch_id) where {_OLD}",
        {"age": age},
    ).fetchone()
    return Old(*row) if row is not None else Old(0, 0, 0, 0)


def count_simulated(conn: Connection) -> Old:
    """What `purge_simulated` would remove, read from counters."""
    row = conn.execute(
        "select count(*), coalesce(sum(c.rows - c.skipped), 0)::bigint,"
        " coalesce(sum(c.applied + c.duplicate + c.conflict + c.unmatched + c.unreadable), 0)::bigint, 0"
        f" from batch b join batch_count c using (batch_id) where {_SIMULATED}"
    ).fetchone()
    return Old(*row) if row is not None else Old(0, 0, 0, 0)


def purge(conn: Connection, age: timedelta) -> Iterator[Removed]:
    """Remove batches created, and due, longer ago than `age`; and late callbacks received before that.

    Yields after each piece of work, for the caller to commit; a caller who stops leaves the rest for the next.
    """
    for batch_id in _list_begun(conn):
        yield from _remove(conn, batch_id)
    # What somebody holds now is left for the next time.
    while (marked := _mark_batch(conn, f"{_OLD} order by b.batch_id limit 1 for update skip locked", age)) is not None:
        yield Removed(marked, 0)
        yield from _remove(conn, marked)
    for batch_id in _mark_late(conn, age):
        yield from _remove(conn, batch_id)


def purge_simulated(conn: Connection) -> Iterator[Removed]:
    """Remove all batches that were made for the simulator, whether their calls have ended or not. Yields as `purge`."""
    while (marked := _mark_batch(conn, f"{_SIMULATED} order by b.batch_id limit 1 for update")) is not None:
        yield Removed(marked, 0)
        yield from _remove(conn, marked)


def take_turn(conn: Connection) -> bool:
    """Whether a worker should purge now: once a day among all of them, and at once where a purge was cut off."""
    begun = bool(_list_begun(conn))
    due = conn.execute(
        "update upkeep set next_at = now() + interval '1 day' where task = 'purge' and next_at <= now()"
    ).rowcount
    return begun or due == 1


def _list_begun(conn: Connection) -> list[int]:
    return [batch_id for (batch_id,) in conn.execute("select batch_id from purge order by batch_id")]


def _mark_batch(conn: Connection, chosen: str, age: timedelta | None = None) -> int | None:
    """Take the batch that `chosen` (SQL after `where`) finds out of the lists and totals; None where it finds none."""
    # Alone, as a replay is: a settlement under way has seen the batch, and would write under it.
    own_results(conn)
    row = conn.execute(f"select b.batch_id from batch b where {chosen}", {"age": age}).fetchone()
    if row is None:
        return None
    batch_id: int = row[0]
    conn.execute(
        "insert into purge (batch_id, last_callback_id) select %(batch_id)s, coalesce((select callback_id"
        " from callback where batch_id = %(batch_id)s order by callback_id desc limit 1), 0)",
        {"batch_id": batch_id},
    )
    conn.execute("delete from batch where batch_id = %s", (batch_id,))
    conn.execute("delete from batch_count where batch_id = %s", (batch_id,))
    conn.execute("delete from result_count where batch_id = %s", (batch_id,))
    return batch_id


def _mark_late(conn: Connection, age: timedelta) -> list[int]:
    marked = conn.execute(
        # Up to the first that is not old: one that came out of a spool has a later id than younger ones.
        "insert into purge (batch_id, last_callback_id) select c.batch_id, (select coalesce("
        "  min(k.callback_id) filter (where k.received_at >= now() - %(age)s) - 1, max(k.callback_id))"
        "  from callback k where k.batch_id = c.batch_id)"
        f" from batch_count c where {_LATE} order by c.batch_id on conflict do nothing returning batch_id",
        {"age": age},
    )
    return [batch_id for (batch_id,) in marked]


# (table, key within the batch, condition). A step walks a key in its index's order.
_TABLES = (
    ("outstanding", "row", "not refused"),
    ("outstanding", "row", "refused"),
    ("withdrawn", "row", "true"),
    ("poll", "row", "true"),
    ("result", "row", "true"),
    ("skipped", "row", "true"),
    ("call", "row", "true"),
)


def _remove(conn: Connection, batch_id: int) -> Iterator[Removed]:
    after: int | None = 0
    while after is not None:
        if (last := _hold(conn, batch_id)) is None:
            return
        after, rows = _remove_callbacks(conn, batch_id, after, last)
        yield Removed(batch_id, rows)
    for table, key, condition in _TABLES:
        after = 0
        while after is not None:
            if _hold(conn, batch_id) is None:
                return
            after, rows = _remove_range(conn, batch_id, table, key, condition, after)
            yield Removed(batch_id, rows)
    own_results(conn)
    if _hold(conn, batch_id) is not None:
        _end(conn, batch_id)
        yield Removed(batch_id, 0, ended=True)


def _hold(conn: Connection, batch_id: int) -> int | None:
    """The purge's last callback id, its row locked; None where another is at it now, or has ended it."""
    row = conn.execute(
        "select last_callback_id from purge where batch_id = %s for update skip locked", (batch_id,)
    ).fetchone()
    return None if row is None else row[0]


def _remove_range(
    conn: Connection, batch_id: int, table: str, key: str, condition: str, after: int
) -> tuple[int | None, int]:
    """Remove the next rows past key `after`; returns (the key reached, rows removed), None at the end."""
    values = {"batch_id": batch_id, "after": after, "most": PURGE_ROWS}
    row = conn.execute(
        f"select max({key}) from (select {key} from {table} where batch_id = %(batch_id)s and {condition}"
        f" and {key} > %(after)s order by {key} limit %(most)s) next",
        values,
    ).fetchone()
    if row is None or row[0] is None:
        return None, 0
    removed = conn.execute(
        f"delete from {table} where batch_id = %(batch_id)s and {condition} and {key} > %(after)s and {key} <= %(to)s",
        {**values, "to": row[0]},
    ).rowcount
    return row[0], removed


def _remove_callbacks(conn: Connection, batch_id: int, after: int, last: int) -> tuple[int | None, int]:
    """The same for callbacks with what was set aside of them; one that waits is settled first, and stays."""
    values = {"batch_id": batch_id, "after": after, "last": last, "most": PURGE_ROWS}
    row = conn.execute(
        "select max(callback_id) from (select callback_id from callback where batch_id = %(batch_id)s"
        " and callback_id > %(after)s and callback_id <= %(last)s order by callback_id limit %(most)s) next",
        values,
    ).fetchone()
    if row is None or row[0] is None:
        return None, 0
    removed = conn.execute(
        "with gone as (delete from callback c where batch_id = %(batch_id)s and callback_id > %(after)s"
        "  and callback_id <= %(to)s and not exists (select from waiting w where w.callback_id = c.callback_id)"
        "  returning callback_id),"
        " aside as (delete from set_aside s using gone"
        "  where s.batch_id = %(batch_id)s and s.callback_id = gone.callback_id)"
        " select count(*) from gone",
        {**values, "to": row[0]},
    ).fetchone()
    return row[0], removed[0] if removed is not None else 0


def _end(conn: Connection, batch_id: int) -> None:
    """Count what is left, callbacks that came after the batch was gone, and forget the purge. No result changes."""
    conn.execute("delete from callback_budget where batch_id = %s", (batch_id,))
    conn.execute("delete from batch_count where batch_id = %s", (batch_id,))
    conn.execute("delete from result_count where batch_id = %s", (batch_id,))
    conn.execute(
        "insert into batch_count (batch_id, unmatched, unreadable)"
        " select batch_id, count(*) filter (where state = 'unmatched'), count(*) filter (where state = 'unreadable')"
        " from set_aside where batch_id = %s and not polled group by batch_id",
        (batch_id,),
    )
    conn.execute("delete from purge where batch_id = %s", (batch_id,))
