"""Old events are removed by emptying slots: when the service runs, and when it slept for long."""

from __future__ import annotations

from contextlib import closing

import pytest
from psycopg.errors import LockNotAvailable

from receiver.changes.slots import PERIOD_SECONDS, SLOTS, rotate
from receiver.database.pool import Connection, connect
from receiver.summary.feed import CursorExpired, Place, list_entries
from tests.factories import differences, make_batch
from tests.feeding import change, give_all, read_on, start

HALF_DAY = 43_200
STATES = ("waiting", "delivered", "given_up")


def value(conn: Connection, query: str, *values: object) -> int:
    row = conn.execute(query.encode(), values).fetchone()
    assert row is not None
    return int(row[0])


def make_events(conn: Connection, periods: range) -> None:
    """Every half day in these periods, an entry of the feed, and an event in each state, counted for an endpoint."""
    conn.execute(
        "with made as (insert into endpoint (url, events, secret) values ('https://example.com', '{call.result}', 's')"
        " returning endpoint_id), day as (select to_timestamp(g) as at, slot_of(to_timestamp(g)) as slot,"
        " row_number() over (order by g) as n from generate_series(%s::bigint, %s::bigint, %s) g"
        "), waiting as (insert into owed_event (endpoint_id, slot, event, batch_id, subject, owed_at)"
        " select endpoint_id, slot, 'call.result', 0, 1, at from made, day),"
        " ended as (insert into delivery (endpoint_id, event_id, slot, event, batch_id, owed_at, state)"
        " select endpoint_id, n * 2 + (state = 'given_up')::integer, slot, 'call.result', 0, at, state"
        " from made, day, unnest(array['delivered', 'given_up']) state),"
        " counted as (insert into endpoint_count (endpoint_id, slot, owed, delivered, given_up)"
        " select endpoint_id, slot, 3 * count(*), count(*), count(*) from made, day group by 1, 2),"
        " given as (insert into feed_entry (position, slot, batch_id, given_at, rows)"
        " select n, slot, 0, at, '{1}' from day)"
        " update feed set last_position = (select count(*) from day)",
        (periods.start * PERIOD_SECONDS, periods.stop * PERIOD_SECONDS - 1, HALF_DAY),
    )
    conn.commit()


def sum_counts(conn: Connection) -> tuple[int, int, int]:
    """owed, delivered, given_up of all slots."""
    (sums,) = conn.execute("select sum(owed)::int, sum(delivered)::int, sum(given_up)::int from endpoint_count")
    return sums[0], sums[1], sums[2]


@pytest.mark.parametrize("slept_days", [0, 2, 4, 10, 32, 34, 36, 40, 100])
def test_events_are_kept_for_30_days_also_by_a_service_that_slept(conn: Connection, slept_days: int) -> None:
    current = value(conn, "select floor(extract(epoch from now()) / %s)::bigint", PERIOD_SECONDS)
    last = current - slept_days * 86_400 // PERIOD_SECONDS
    # What the ring had when it was rotated last: the slot of the period after that one was empty.
    make_events(conn, range(last + 2 - SLOTS, last + 1))
    conn.execute(
        "update upkeep set next_at = to_timestamp(%s) + interval '1 hour' where task = 'slots'",
        (last * PERIOD_SECONDS - (PERIOD_SECONDS if last == current else 0),),
    )
    # The service is awake again, and had no time yet to remove anything.
    batch_id = make_batch(conn)
    change(conn, (batch_id, 1))
    conn.commit()
    give_all(conn)
    before = sum_counts(conn)

    conn.execute("update upkeep set next_at = least(next_at, now()) where task = 'slots'")
    in_use = f"select pg_relation_filenode('delivery_{current % SLOTS}')"
    file_before = value(conn, in_use)
    assert rotate(conn)
    conn.commit()
    assert (value(conn, in_use) != file_before) == (current - last > 1), "millions of old rows are truncated"

    oldest = (current - 15) * PERIOD_SECONDS
    for table, at in (("owed_event", "owed_at"), ("delivery", "owed_at"), ("feed_entry", "given_at")):
        kept = value(conn, f"select count(*) from {table}")  # noqa: S608 one of ours
        is_old = f"select count(*) from {table} where {at} < to_timestamp(%s)"  # noqa: S608
        assert value(conn, is_old, oldest) == 0
        expected = max(0, last - (current - 15) + 1) * 4
        assert kept == expected * (2 if table == "delivery" else 1) + (table in ("feed_entry", "owed_event"))
        in_next = f"select count(*) from {table}_{(current + 1) % SLOTS}"  # noqa: S608
        assert value(conn, in_next) == 0
    assert oldest <= value(conn, "select extract(epoch from now())::bigint") - 30 * 86_400
    owed, delivered, given_up = sum_counts(conn)
    assert (owed, delivered) == before[:2], "the sums include what was removed"
    assert owed - delivered - given_up == value(conn, "select count(*) from owed_event")
    assert differences(conn) == []

    expired = value(conn, "select expired_position from feed")
    assert expired == value(conn, "select coalesce(min(position), 1) - 1 from feed_entry")
    epoch = start(conn).epoch
    assert read_on(conn, Place(epoch, expired + 1, 0))[0] == [(batch_id, 1)], "entries of other batches have no calls"
    if expired:
        with pytest.raises(CursorExpired):
            list_entries(conn, Place(epoch, expired, 0), 10)

    assert not rotate(conn), "only once an hour"


def test_entries_that_are_still_to_be_removed_are_no_difference(conn: Connection) -> None:
    change(conn, (make_batch(conn), 1))
    conn.commit()
    give_all(conn)
    conn.execute("update feed set expired_position = last_position")
    assert differences(conn) == []


def test_slot_that_is_being_read_is_emptied_later(conn: Connection, database_url: str) -> None:
    current = value(conn, "select floor(extract(epoch from now()) / %s)::bigint", PERIOD_SECONDS)
    make_events(conn, range(current + 1 - SLOTS, current))
    conn.execute(
        "update upkeep set next_at = to_timestamp(%s) + interval '59 minutes' where task = 'slots'",
        ((current - 1) * PERIOD_SECONDS,),
    )
    conn.commit()
    with closing(connect(database_url, name="dump")) as dump:
        dump.execute("select count(*) from delivery")
        with pytest.raises(LockNotAvailable):
            rotate(conn)
        conn.rollback()
        with closing(connect(database_url, name="second")) as second:
            conn.execute("select from upkeep where task = 'slots' for update")
            assert not rotate(second), "another worker is at it"
        conn.rollback()
    assert rotate(conn)
    conn.commit()
    assert value(conn, f"select count(*) from delivery_{(current + 1) % SLOTS}") == 0  # noqa: S608
