"""The positions of the feed of results.

Transactions commit in another order than that in which their rows get ids. If a row's id were its position, a reader
could pass a position whose row is committed later, and never see it. So a row waits in `changed_results` until it is
committed, and only then gets a position. One worker at a time does this: positions become visible in their order.
"""

from __future__ import annotations

from receiver.database.pool import Connection

AT_ONCE = 1_000


def give_positions(conn: Connection) -> int:
    """Move the oldest rows of the queue to the feed. Returns how many; 0 if there are none, or another worker is at it.

    The lock on the row of `feed` is held until the commit, so no later position can be visible before these.
    """
    ready = "select from feed where exists (select from changed_results) for update skip locked"
    return conn.execute(_MOVE, (AT_ONCE,), prepare=True).rowcount if conn.execute(ready, prepare=True).rowcount else 0


_MOVE = """
with moved as (
    delete from changed_results
    where change_id in (select change_id from changed_results order by change_id limit %s)
    returning change_id, batch_id, rows
), raised as (
    update feed set last_position = last_position + (select count(*) from moved) returning last_position
)
insert into feed_entry (position, batch_id, rows)
select last_position - count(*) over () + row_number() over (order by change_id), batch_id, rows
from moved cross join raised
"""
