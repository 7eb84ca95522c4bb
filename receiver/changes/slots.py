"""Old events are removed by emptying partitions, which form a ring of `SLOTS` slots (migration 0042).

A period of two days uses the slot with its number modulo `SLOTS`. Before a period begins, its slot is emptied. It then
has the events of 30 to 34 days ago. If no worker ran in that time, the slot may already be in use: then its new rows
are kept.
"""

from __future__ import annotations

from tempfile import TemporaryFile

from receiver.database.pool import Connection

PERIOD_SECONDS, SLOTS = 172_800, 17
"""As in the function `slot_of`."""

COPIED_BYTES = 1 << 20

_TIMES = {"owed_event": "owed_at", "delivery": "owed_at", "feed_entry": "given_at"}


def rotate(conn: Connection) -> bool:
    """Check once an hour, and empty the slots of the next period and of those that began since the last time.

    False: it is not time yet. Raises LockNotAvailable if a long transaction reads such a slot. Try again later.
    """
    claimed = conn.execute(
        "select floor(extract(epoch from next_at - interval '1 hour') / %(period)s)::bigint,"
        " floor(extract(epoch from now()) / %(period)s)::bigint"
        " from upkeep where task = 'slots' and next_at <= now() for update skip locked",
        {"period": PERIOD_SECONDS},
    ).fetchone()
    if claimed is None:
        return False
    previous, current = claimed
    # Others queue behind a lock that waits, so it must not wait long.
    conn.execute("set local lock_timeout = '200ms'")
    for period in range(max(previous + 2, current + 2 - SLOTS), current + 2):
        _empty(conn, period % SLOTS, period * PERIOD_SECONDS)
    conn.execute("update upkeep set next_at = now() + interval '1 hour' where task = 'slots'")
    return True


def _empty(conn: Connection, slot: int, before: int) -> None:
    """Remove the rows from before this time, and move their counts to the sums. What was still owed is given up."""
    conn.execute(f"lock table {', '.join(f'{table}_{slot}' for table in _TIMES)} in access exclusive mode")
    conn.execute(
        f"update feed set expired_position = greatest(expired_position,"
        f" (select max(position) from feed_entry_{slot} where given_at < to_timestamp({before})))"
    )
    conn.execute(_COUNT.format(slot=slot, before=f"to_timestamp({before})"))
    for table, column in _TIMES.items():
        # There are few new rows, if any. To delete millions of old ones would take too long under the lock.
        newer = f"copy (select * from {table}_{slot} where {column} >= to_timestamp({before})) to stdout"
        with TemporaryFile() as kept:
            with conn.cursor().copy(newer.encode()) as copy:
                for block in copy:
                    kept.write(block)
            conn.execute(f"truncate {table}_{slot}")
            kept.seek(0)
            with conn.cursor().copy(f"copy {table} from stdin".encode()) as copy:
                while block := kept.read(COPIED_BYTES):
                    copy.write(block)


_COUNT = """
with gone as (
    select endpoint_id, count(*) as owed, count(*) filter (where state = 'delivered') as delivered,
        count(*) filter (where state = 'given_up') as given_up
    from (select endpoint_id, 'waiting' as state from owed_event_{slot} where owed_at < {before}
        union all select endpoint_id, state from delivery_{slot} where owed_at < {before}) each
        join endpoint using (endpoint_id)
    group by endpoint_id
)
insert into endpoint_count as c (endpoint_id, slot, owed, delivered, given_up)
select endpoint_id, {slot}, -owed, -delivered, -given_up from gone
union all select endpoint_id, -1, owed, delivered, owed - delivered from gone
on conflict (endpoint_id, slot, part) do update set owed = c.owed + excluded.owed,
    delivered = c.delivered + excluded.delivered, given_up = c.given_up + excluded.given_up
"""
