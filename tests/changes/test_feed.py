"""The feed's positions: in the order of commits, without a gap, whatever the writers do."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from random import Random

import pytest

from receiver.changes.feed import give_positions
from receiver.database.pool import Connection, connect
from receiver.errors import NotFound
from receiver.summary.feed import CursorExpired, Place, list_entries
from tests.factories import deliver, make_batch, phone_number, purge_batch, result_body
from tests.feeding import Keys, change, give_all, read_on, start

WRITERS, CHANGES = 8, 40


def test_change_that_commits_late_appears_after_the_cursor_of_a_reader(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(3)])
    with closing(connect(database_url, name="late")) as late:
        change(late, (batch_id, 1))
        change(conn, (batch_id, 2))
        conn.commit()
        assert give_all(conn) == 1
        seen, place = read_on(conn, start(conn))
        late.commit()
    change(conn, (batch_id, 3))
    conn.commit()
    assert give_all(conn) == 2
    assert (seen, read_on(conn, place)[0]) == ([(batch_id, 2)], [(batch_id, 1), (batch_id, 3)])


def test_feed_has_no_gap_and_no_loss_while_eight_writers_commit_out_of_order(
    conn: Connection, database_url: str
) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(WRITERS * CHANGES)])
    unwritten = threading.Semaphore(0)
    writing = threading.Event()
    writing.set()

    def write(writer: int) -> None:
        random = Random(writer)
        rows = iter(range(writer * CHANGES + 1, (writer + 1) * CHANGES + 1))
        with (
            closing(connect(database_url, name="writer")) as own,
            closing(connect(database_url, name="other")) as other,
        ):
            # The first transaction gets its number first, and commits last.
            for first, second in zip(rows, rows, strict=True):
                change(own, (batch_id, first))
                unwritten.acquire(timeout=random.random() / 100)
                change(other, (batch_id, second))
                for each in (other, own) if random.random() < 0.7 else (own, other):
                    each.commit()
                    unwritten.acquire(timeout=random.random() / 200)

    def move() -> None:
        with closing(connect(database_url, name="worker")) as own:
            while writing.is_set():
                give_positions(own)
                own.commit()

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    movers = [threading.Thread(target=move) for _ in range(2)]
    for thread in (*writers, *movers):
        thread.start()
    seen: Keys = []
    place = start(conn)
    while any(thread.is_alive() for thread in writers):
        found, place = read_on(conn, place, limit=7)
        seen += found
    writing.clear()
    for thread in movers:
        thread.join()
    give_all(conn)
    seen += read_on(conn, place, limit=7)[0]
    assert sorted(seen) == [(batch_id, row) for row in range(1, WRITERS * CHANGES + 1)]
    positions = [position for (position,) in conn.execute("select position from feed_entry order by 1")]
    assert positions == list(range(1, len(seen) + 1))


def test_second_worker_waits_for_nothing_while_the_first_gives_positions(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn)
    change(conn, (batch_id, 1))
    conn.commit()
    assert give_positions(conn) == 1
    with closing(connect(database_url, name="second")) as second:
        assert give_positions(second) == 0
        conn.rollback()  # the first one was killed
        second.rollback()
        assert give_positions(second) == 1
        second.commit()
    assert read_on(conn, start(conn))[0] == [(batch_id, 1)]


def test_entry_of_several_calls_is_read_in_pages(conn: Connection) -> None:
    batches = [make_batch(conn, [phone_number(index) for index in range(5)]) for _ in range(2)]
    calls = [(batch_id, row) for batch_id in batches for row in range(1, 6)]
    change(conn, *calls)
    conn.commit()
    give_all(conn)
    for limit in (1, 2, 3, 5, 100):
        assert read_on(conn, start(conn), limit)[0] == calls


def test_large_change_becomes_several_entries(conn: Connection) -> None:
    change(conn, *((1, row) for row in range(1, 1001)))
    conn.commit()
    assert give_all(conn) == 4
    assert conn.execute("select min(cardinality(rows)), max(cardinality(rows)) from feed_entry").fetchall() == [
        (250, 250)
    ]


def test_entry_shows_the_call_as_it_is_now(conn: Connection) -> None:
    batch_id = make_batch(conn)
    change(conn, (batch_id, 1))
    conn.commit()
    give_all(conn)
    (pending,) = list_entries(conn, start(conn), 10).entries
    deliver(conn, batch_id, result_body(phone_number(0)))
    (final,) = list_entries(conn, start(conn), 10).entries[:1]
    states = [json.loads(entry.call.json())["state"] for entry in (pending, final)]
    assert (states, pending.next) == (["pending", "final"], final.next)


def test_calls_that_are_too_large_for_one_page_are_read_in_several(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.summary.stored_calls.PAGE_BYTES", 20)
    batch_id = make_batch(conn, [phone_number(index) for index in range(9)])
    calls = [(batch_id, row) for row in range(1, 10)]
    change(conn, *calls)
    conn.commit()
    give_all(conn)
    page = list_entries(conn, start(conn), 100)
    assert 0 < len(page.entries) < 9 and page.more
    assert read_on(conn, start(conn))[0] == calls


def test_calls_of_purged_batches_are_left_out(conn: Connection) -> None:
    purged, kept = make_batch(conn, [phone_number(index) for index in range(5)]), make_batch(conn)
    change(conn, *((purged, row) for row in range(1, 6)))
    conn.commit()
    give_all(conn)
    change(conn, (kept, 1))
    conn.commit()
    give_all(conn)
    purge_batch(conn, purged)
    assert read_on(conn, start(conn), 2)[0] == [(kept, 1)]


def test_place_that_is_not_in_the_feed_has_expired(conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(3)])
    for row in range(1, 4):
        change(conn, (batch_id, row))
        conn.commit()
        give_all(conn)
    epoch, first, _ = start(conn)
    conn.execute("update feed set expired_position = 2")
    conn.execute("delete from feed_entry where position <= 2")
    conn.commit()
    for lost in (Place(epoch, first, 0), Place(epoch, 2, 1), Place(epoch, 5, 0), Place(epoch + 1, 3, 0)):
        with pytest.raises(CursorExpired):
            list_entries(conn, lost, 10)
    assert read_on(conn, Place(epoch, 3, 0))[0] == read_on(conn, start(conn))[0] == [(batch_id, 3)]
    assert read_on(conn, start(conn, now=True)) == ([], Place(epoch, 4, 0))
    assert issubclass(CursorExpired, NotFound), "then a reader asks the primary, if a replica is behind"
