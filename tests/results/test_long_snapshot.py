"""While a dump holds a snapshot, entries of settled callbacks are not vacuumed. No reader scans them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from receiver.database.low_water_mark import LOW_WATER_MARK, MARK_CALLBACKS, Candidate, MarkRaiser, raise_mark
from receiver.database.pool import Connection, Pool, connect, open_pool
from receiver.intake.journal import Group, write_group
from receiver.release.resolution import _was_called_back
from receiver.results import lanes
from receiver.results.erased_bodies import list_waiting
from receiver.results.settler import Settler
from receiver.results.stored import lock_waiting
from receiver.summary.batches import BatchFilter, get_batch, list_batches
from receiver.summary.callbacks import list_callbacks
from receiver.summary.gauges import get_gauges
from receiver.summary.health import get_health
from tests.factories import (
    UNKNOWN,
    answer_submissions,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    states,
)
from tests.waiting import eventually

SETTLED = 200_000

MOST_BLOCKS = 100
"""The most pages of `waiting` and its indexes that a read may use."""


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    pool = open_pool(database_url, max_size=2, name="settler")
    yield pool
    pool.close()


@pytest.fixture
def batch_id(conn: Connection) -> int:
    """A batch with one unknown submission."""
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    return batch_id


@pytest.fixture
def snapshot(conn: Connection, database_url: str, batch_id: int) -> Iterator[None]:
    """A snapshot that is held while `SETTLED` callbacks of the batch are received and settled."""
    with closing(connect(database_url, name="dump")) as dump:
        dump.execute("set transaction isolation level repeatable read, read only")
        dump.execute("select count(*) from batch")
        conn.execute("select setval(pg_get_serial_sequence('callback', 'callback_id'), %s)", (SETTLED,))
        conn.execute("insert into waiting select g, %s, now() from generate_series(1, %s) g", (batch_id, SETTLED))
        conn.commit()
        conn.execute("delete from waiting")
        conn.commit()
        conn.autocommit = True
        conn.execute("vacuum analyze waiting")
        conn.autocommit = False
        yield
        dump.rollback()


def mark(conn: Connection) -> int:
    row = conn.execute(f"select {LOW_WATER_MARK}").fetchone()
    conn.commit()
    assert row is not None
    return int(row[0])


def raise_to(conn: Connection, pool: Pool, callback_id: int) -> None:
    """Let a worker raise the mark up to this id."""
    raiser = MarkRaiser(pool)

    def raised() -> bool:
        raiser.step()
        return mark(conn) == callback_id

    eventually(raised, otherwise=lambda: mark(conn))


def blocks_of(conn: Connection, read: Callable[[], object]) -> int:
    """How many pages of `waiting` and its indexes the read uses."""
    counted = (
        "select sum(pg_stat_get_xact_blocks_fetched(relid)) from (select 'waiting'::regclass::oid as relid"
        " union all select indexrelid from pg_index where indrelid = 'waiting'::regclass) waiting"
    )
    ((before,),) = conn.execute(counted).fetchall()
    read()
    ((after,),) = conn.execute(counted).fetchall()
    conn.rollback()
    return int(after - before)


READS: dict[str, Callable[[Connection, int], object]] = {
    "what is settled next": lambda conn, _: lock_waiting(conn, 500),
    "what is settled next of a batch": lambda conn, batch_id: lock_waiting(conn, 500, batch_id=batch_id),
    "batch": get_batch,
    "batches": lambda conn, _: list_batches(conn, BatchFilter(), 100),
    "liveness": lambda conn, _: get_health(conn),
    "gauges": lambda conn, _: get_gauges(conn),
    "waiting callbacks": lambda conn, _: list_callbacks(conn, 100, state="waiting"),
    "waiting callbacks of a batch": lambda conn, batch_id: list_callbacks(
        conn, 100, state="waiting", batch_id=batch_id
    ),
    "whether a submission was called back": lambda conn, batch_id: _was_called_back(conn, batch_id, 1),
    "what an erasure looks through": lambda conn, _: list(list_waiting(conn)),
    "what an erasure looks through in a batch": lambda conn, batch_id: list(list_waiting(conn, 0, batch_id)),
}


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_no_reader_scans_settled_entries(
    conn: Connection, pool: Pool, batch_id: int, read: Callable[[Connection, int], object]
) -> None:
    (waiting,) = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    without_mark = blocks_of(conn, lambda: read(conn, batch_id))
    assert without_mark > 5 * MOST_BLOCKS, "else this test shows nothing"
    raise_to(conn, pool, waiting)
    assert blocks_of(conn, lambda: read(conn, batch_id)) < MOST_BLOCKS


def read_waiting(conn: Connection, batch_id: int) -> list[Any]:
    """What each reader returns about waiting callbacks."""
    liveness, gauges = get_health(conn), get_gauges(conn)
    read = [
        len(lock_waiting(conn, 500)),
        len(lock_waiting(conn, 500, batch_id=batch_id)),
        get_batch(conn, batch_id).callbacks["waiting"],
        list_batches(conn, BatchFilter(), 100)[0].callbacks["waiting"],
        gauges.callbacks["waiting"],
        len(list_callbacks(conn, 100, state="waiting")),
        len(list_callbacks(conn, 100, state="waiting", batch_id=batch_id)),
        sum(len(piece) for piece in list_waiting(conn)),
        sum(len(piece) for piece in list_waiting(conn, 0, batch_id)),
        liveness.oldest_waiting_seconds is not None,
        gauges.oldest_waiting_seconds is not None,
        _was_called_back(conn, batch_id, 1),
    ]
    conn.rollback()
    return read


def test_callback_committed_long_after_later_ones_is_found_by_every_reader(
    conn: Connection, pool: Pool, batch_id: int, database_url: str
) -> None:
    callback = make_callback(batch_id, result_body(phone_number(0)))
    with closing(connect(database_url, name="late")) as late:
        write_group(late, Group(uuid4(), 1, (callback,)))  # has its id, and is not committed
        for _ in range(3):
            journal(conn, *[callback] * MARK_CALLBACKS)
        conn.execute("delete from waiting")
        conn.commit()
        raisers = [MarkRaiser(pool), MarkRaiser(pool)]
        for _ in range(3):
            for raiser in raisers:
                raiser.step()
            assert mark(conn) == 0
        late.commit()
    # Only now is the mark raised, and no further than to the late one.
    ((waiting,),) = conn.execute("select callback_id from waiting").fetchall()
    for raiser in raisers:
        eventually(lambda raiser=raiser: bool(raiser.step()) and mark(conn) == waiting)  # type: ignore[misc]
    assert read_waiting(conn, batch_id) == [1] * 9 + [True] * 3


def test_mark_is_below_all_waiting_callbacks_in_any_order_of_commits(
    conn: Connection, pool: Pool, batch_id: int, database_url: str
) -> None:
    """Groups get their ids in one order, are committed in another, and are settled in a third."""
    random = Random(12)
    callback = make_callback(batch_id, result_body(phone_number(0)))
    raisers = [MarkRaiser(pool) for _ in range(3)]
    marks = {0}
    with closing(connect(database_url, name="first")) as first, closing(connect(database_url, name="second")) as second:
        writers = [first, second]
        for _ in range(60):
            writer = random.choice(writers)
            for _ in range(random.randrange(3)):
                write_group(writer, Group(uuid4(), 1, (callback,) * (MARK_CALLBACKS // 2)))
            if random.random() < 0.5:
                random.choice(writers).commit()
            if random.random() < 0.2:
                writer.rollback()
            if random.random() < 0.7:
                conn.execute("delete from waiting where random() < 0.9")
            if random.random() < 0.3:
                conn.execute("delete from waiting")
            conn.commit()
            random.choice(raisers).step()
            marks.add(mark(conn))
            assert conn.execute(f"select from waiting where callback_id < {LOW_WATER_MARK}").fetchall() == []
            conn.commit()
    assert len(marks) > 2, "else this test shows nothing"


def test_mark_that_is_too_high_is_reported(conn: Connection, batch_id: int) -> None:
    (waiting,) = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    assert differences(conn) == []
    conn.execute("insert into low_water_mark values (%s)", (waiting + 1,))
    conn.commit()
    assert [each["what"] for each in differences(conn)] == ["waiting callbacks below the low-water mark"]


def test_mark_is_not_above_the_newest_callback_of_a_server_that_lost_some(conn: Connection, batch_id: int) -> None:
    """After a failover that lost callbacks, their ids are given out again: nothing below the mark would be settled."""
    (newest,) = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    conn.execute("delete from waiting")
    conn.commit()
    eventually(lambda: raise_mark(conn, Candidate(newest + 5, 0)))
    assert mark(conn) == newest


def test_idle_service_writes_no_mark(conn: Connection, pool: Pool, batch_id: int) -> None:
    journal(conn, *[make_callback(batch_id, result_body(phone_number(0)))] * (MARK_CALLBACKS // 2))
    raiser = MarkRaiser(pool)
    for _ in range(5):
        raiser.step()
    assert conn.execute("select from low_water_mark").fetchall() == []


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("crowd", [False, True])
def test_settler_rarely_makes_a_full_scan(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch, crowd: bool
) -> None:
    monkeypatch.setattr(lanes, "STRAGGLER_SECONDS", 0.0)
    if crowd:
        monkeypatch.setattr(lanes, "BUSY_SHARE", 0.0)
    floors: list[int] = []

    def noted(*given: object, floor: int = 0, **others: object) -> object:
        floors.append(floor)
        return lock_waiting(*given, floor=floor, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(lanes, "lock_waiting", noted)
    batch_id = make_batch(conn)
    settler = Settler(pool)

    def settled() -> bool:
        settler.settle_group()
        return states(conn, ids) == [("applied", None)] or states(conn, ids) == [("duplicate", "same_result")]

    monkeypatch.setattr(lanes, "FULL_SCAN_SECONDS", 3600.0)
    for _ in range(5):
        ids = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
        eventually(settled)
    # The first look knows of no floor; that of each further one is below what was settled by the one before.
    assert floors[0] == 0
    assert min(floors[1:]) > SETTLED - 1, floors
