"""Recompute every counter and every state from the rows, and report each difference.

No counter is checked against another counter. It reads one snapshot, so it may run while the service works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Cursor
from psycopg.rows import dict_row

from receiver.changes.counters import COUNTED_STATES, RESULT_COLUMNS
from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import OUTCOMES
from receiver.release.states import BATCH_STATE


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter or state that is wrong. `kept`: the stored value. `counted`: the value according to the rows.

    `batch_id` is None for the counters of the feed and of endpoints.
    """

    batch_id: int | None
    what: str
    kept: object
    counted: object


def verify(conn: Connection, batch_id: int | None = None) -> Iterator[Difference]:
    """Check one batch, or all, also the late callbacks of purged batches. Raises NotFound.

    The connection must not be in a transaction.
    """
    conn.execute("set transaction isolation level repeatable read, read only")
    if batch_id is None:
        # Before the snapshot, which does not show rows that are truncated later.
        conn.execute("lock table feed_entry, owed_event, delivery in access share mode")
    # With outdated statistics, Postgres might assume that a table is empty, and read all of it for each row of another
    # one.
    conn.execute("set local enable_nestloop = off")
    if batch_id is not None:
        if conn.execute("select from batch where batch_id = %s", (batch_id,)).fetchone() is None:
            raise NotFound(f"Batch {batch_id} does not exist.")
        batch_ids = [batch_id]
    else:
        yield from (Difference(None, *difference) for difference in conn.execute(_EVENTS))
        batch_ids = [
            found
            for (found,) in conn.execute(
                "select batch_id from (select batch_id from batch union select batch_id from batch_count"
                " union select distinct batch_id from callback union select distinct batch_id from waiting) known"
                # A batch that is being purged has no counters until the purge ends.
                " where not exists (select from purge where purge.batch_id = known.batch_id) order by 1"
            )
        ]
    for wanted in batch_ids:
        yield from _verify_batch(conn, wanted)


def _verify_batch(conn: Connection, batch_id: int) -> Iterator[Difference]:
    with conn.cursor(row_factory=dict_row) as cursor:
        counted = cursor.execute(_COUNTED, {"batch_id": batch_id}).fetchone() or {}
        kept = cursor.execute("select * from batch_total where batch_id = %s", (batch_id,)).fetchone()
        broken = cursor.execute(_BROKEN, {"batch_id": batch_id}).fetchone() or {}
        broken |= _count_broken_links(cursor, batch_id)
        states = cursor.execute(_STATE, {"batch_id": batch_id}).fetchone()
    if kept is None:
        # A purged batch has no counters until one of its late callbacks is settled.
        kept = {name: None if name.endswith("_at") else 0 for name in counted}
    for name, number in counted.items():
        if name not in ("received", "waiting", *_TIMES) and kept[name] != number:
            yield Difference(batch_id, name, kept[name], number)
    first_named, last_named = counted["first_named_at"], counted["last_named_at"]
    first, last = counted["first_result_at"], counted["last_result_at"]
    for name, exact, low, high in (
        ("first_result_at", first, first_named, first or last_named),
        ("last_result_at", last, last or first_named, last_named),
    ):
        if not (low <= kept[name] <= high if kept[name] and low else kept[name] == exact):
            yield Difference(batch_id, name, kept[name], exact)
    states_sum = counted["waiting"] + sum(kept[state] for state in COUNTED_STATES)
    if counted["received"] != states_sum:
        yield Difference(batch_id, "callbacks.received", states_sum, counted["received"])
    for name, number in broken.items():
        if number:
            yield Difference(batch_id, name, number, 0)
    if states is not None and states["kept"] != states["counted"]:
        yield Difference(batch_id, "state", states["kept"], states["counted"])


def _count_broken_links(cursor: Cursor[dict[str, Any]], batch_id: int) -> dict[str, Any]:
    return cursor.execute(_BROKEN_LINKS, {"batch_id": batch_id}).fetchone() or {}


def _count_each(column: str, values: Sequence[str]) -> str:
    """SQL: for each of these values of a column, how many rows have it."""
    return ", ".join(f"count(*) filter (where {column} = '{value}') as {value}" for value in values)


# The times of the first and the last final callback. Release 1.0.0 did not store whether a duplicate is final, and also
# counted steps. So the exact time may be unknown: it is between the time of a callback that is certainly final and the
# time of any callback that names a call.
_TIMES = ("first_result_at", "last_result_at", "first_named_at", "last_named_at")

_COUNTED = f"""
with ended as (
    select {_count_each("outcome", OUTCOMES)},
        count(*) filter (where polled and outcome is not null) as polled,
        count(*) filter (where not polled) as applied,
        coalesce(sum(attempts) filter (where outcome is not null), 0) as attempts,
        coalesce(sum(duration_seconds) filter (where outcome is not null), 0) as duration_seconds
    from result where batch_id = %(batch_id)s
), aside as (
    select {_count_each("state", COUNTED_STATES[1:])}
    from set_aside where batch_id = %(batch_id)s and not polled
), open_calls as (
    select count(*) filter (where s.state = 'withdrawn') as withdrawn,
        count(*) filter (where s.overdue_at is not null) as overdue
    from outstanding o join call using (batch_id, row) join submission s using (batch_id, submission_no)
    where o.batch_id = %(batch_id)s and not o.refused
), left_out as (select count(*) as skipped from skipped where batch_id = %(batch_id)s
), received as (
    select count(*) filter (where not c.polled) as received,
        min(c.received_at) filter (where settled.is_final) as first_result_at,
        max(c.received_at) filter (where settled.is_final) as last_result_at,
        min(c.received_at) filter (where settled.row is not null) as first_named_at,
        max(c.received_at) filter (where settled.row is not null) as last_named_at
    from callback c left join (
        select callback_id, row, outcome is not null as is_final from result where batch_id = %(batch_id)s
        union all select callback_id, row, state = 'conflict' from set_aside where batch_id = %(batch_id)s
    ) settled using (callback_id)
    where c.batch_id = %(batch_id)s
)
select (select count(*) from call where batch_id = %(batch_id)s) + left_out.skipped as rows, left_out.skipped,
    (select count(*) from outstanding where batch_id = %(batch_id)s and refused) as refused,
    (select count(*) from withdrawn w where w.batch_id = %(batch_id)s) + open_calls.withdrawn as withdrawn,
    open_calls.overdue,
    ended.*, aside.*, received.*,
    (select count(*) from waiting where batch_id = %(batch_id)s) as waiting
from ended, aside, left_out, open_calls, received
"""

# Each of these numbers must be 0.
_BROKEN = f"""
select
    (select count(*) from call c left join result r using (batch_id, row) left join withdrawn w using (batch_id, row)
        left join outstanding o on o.batch_id = c.batch_id and o.row = c.row and o.refused in (false, true)
        where c.batch_id = %(batch_id)s
            and (r.outcome is not null)::integer + (o.row is not null)::integer + (w.row is not null)::integer <> 1
    ) as "calls that are not in exactly one state",
    (select count(*) from withdrawn w left join call c using (batch_id, row)
        where w.batch_id = %(batch_id)s and c.row is null) as "withdrawn without a call",
    (select count(*) from submission s join batch b using (batch_id)
        where batch_id = %(batch_id)s and s.state = 'pending' and b.canceled_at is not null
    ) as "submissions of a canceled batch that wait to be sent",
    (select count(*) from submission where batch_id = %(batch_id)s and overdue_at is not null
        and state in ('pending', 'withdrawn')) as "submissions that are overdue but were not sent",
    (select count(*) from outstanding o left join call c using (batch_id, row)
        where o.batch_id = %(batch_id)s and c.row is null) as "outstanding without a call",
    (select count(*) from result r left join call c using (batch_id, row)
        where r.batch_id = %(batch_id)s and c.row is null) as "results without a call",
    (select count(*) from result r left join callback c using (batch_id, callback_id)
        where r.batch_id = %(batch_id)s and (c.callback_id is null or c.polled <> r.polled)
    ) as "results without their callback",
    (select count(*) from (select callback_id from result where batch_id = %(batch_id)s
        group by callback_id having count(*) > 1) twice) as "callbacks that are the result of two calls",
    (select count(*) from callback c
        left join (select callback_id from result where batch_id = %(batch_id)s) r using (callback_id)
        left join (select callback_id from set_aside where batch_id = %(batch_id)s) s using (callback_id)
        left join (select callback_id from waiting where batch_id = %(batch_id)s) w using (callback_id)
        where c.batch_id = %(batch_id)s
            and num_nonnulls(r.callback_id, s.callback_id, w.callback_id) <> 1
    ) as "callbacks that are not in exactly one state",
    (select count(*) from waiting where batch_id = %(batch_id)s and callback_id < {LOW_WATER_MARK}
    ) as "waiting callbacks below the low-water mark",
    (select count(*) from submission s where batch_id = %(batch_id)s and calls <>
        (select count(*) from call c where c.batch_id = s.batch_id and c.submission_no = s.submission_no)
    ) as "submissions with missing calls",
    (select count(*) from outstanding o join call c using (batch_id, row)
        join submission s using (batch_id, submission_no)
        where o.batch_id = %(batch_id)s and not o.refused and s.state = 'refused'
    ) as "calls of refused submissions that still expect a result",
    (select count(*) from (
        select date_bin('15 minutes', received_at, 'epoch') as at, {_count_each("outcome", OUTCOMES)},
            sum(attempts) as attempts, sum(duration_seconds) as duration_seconds
        from result where batch_id = %(batch_id)s and outcome is not null group by 1
    ) c
    full join (
        select at, {", ".join(f"sum({name}) as {name}" for name in RESULT_COLUMNS)}
        from result_total where batch_id = %(batch_id)s group by at
    ) k using (at)
    where {" or ".join(f"coalesce(c.{name}, 0) <> coalesce(k.{name}, 0)" for name in RESULT_COLUMNS)}
    ) as "quarter hours whose counts differ from their results"
"""

# In another statement: it is about two batches.
_BROKEN_LINKS = """
select count(*) as "follow-ups without a call" from follow_up f left join call c using (batch_id, row)
    left join call n on n.batch_id = f.next_batch_id and n.row = f.next_row
    left join batch b on b.batch_id = f.next_batch_id
where f.batch_id = %(batch_id)s and (c.row is null or (n.row is null and b.batch_id is not null))
"""

_EVENTS = """
with kept as (
    select endpoint_id, slot, sum(owed) as owed, sum(delivered) as delivered, sum(given_up) as given_up
    from endpoint_count group by 1, 2
), counted as (
    select endpoint_id, slot, count(*) as owed, count(*) filter (where state = 'delivered') as delivered,
        count(*) filter (where state = 'given_up') as given_up
    from (select endpoint_id, slot, 'waiting' as state from owed_event
        union all select endpoint_id, slot, state from delivery) each group by 1, 2
    -- Of the removed events only the counts are kept.
    union all select endpoint_id, slot, delivered + given_up, delivered, given_up from kept where slot = -1
)
select format('endpoint %s, slot %s: owed, delivered, given up', endpoint_id, slot),
    concat_ws(', ', k.owed, k.delivered, k.given_up), concat_ws(', ', c.owed, c.delivered, c.given_up)
from endpoint join (kept k full join counted c using (endpoint_id, slot)) using (endpoint_id)
where (coalesce(k.owed, 0), coalesce(k.delivered, 0), coalesce(k.given_up, 0))
    <> (coalesce(c.owed, 0), coalesce(c.delivered, 0), coalesce(c.given_up, 0))
union all select 'entries of the feed', given::text, found::text from (
    select last_position - expired_position as given, (
        select count(distinct position) from feed_entry where position > expired_position
    ) as found
    from feed
) entries where given <> found
"""

_STATE = f"""
select batch.state as kept, {BATCH_STATE} as counted
from batch join submission using (batch_id) where batch.batch_id = %(batch_id)s group by batch.batch_id
"""
