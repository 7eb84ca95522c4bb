"""A snapshot that a dump holds keeps entries of settled callbacks from being vacuumed. Nobody walks over them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from receiver.database.pool import Connection, Pool, connect, open_pool
from receiver.results import lanes
from receiver.results.settler import Settler
from receiver.results.stored import lock_waiting
from tests.factories import journal, make_batch, make_callback, phone_number, result_body, states
from tests.waiting import eventually

SETTLED = 400_000


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    pool = open_pool(database_url, max_size=2, name="settler")
    yield pool
    pool.close()


@pytest.fixture
def snapshot(conn: Connection, database_url: str) -> Iterator[None]:
    """A snapshot that is held while `SETTLED` callbacks come and go."""
    with closing(connect(database_url, name="dump")) as dump:
        dump.execute("set transaction isolation level repeatable read, read only")
        dump.execute("select count(*) from batch")
        conn.execute("select setval(pg_get_serial_sequence('callback', 'callback_id'), %s)", (SETTLED,))
        conn.execute("insert into waiting select g, 1, now() from generate_series(1, %s) g", (SETTLED,))
        conn.commit()
        conn.execute("delete from waiting")
        conn.commit()
        conn.autocommit = True
        conn.execute("vacuum analyze waiting")
        conn.autocommit = False
        yield
        dump.rollback()


def seconds_of(conn: Connection, floor: int) -> float:
    """The least that a look took, of five: a busy machine must not be the reason."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        assert lock_waiting(conn, 500, floor=floor) == []
        times.append(time.monotonic() - began)
        conn.commit()
    return min(times)


@pytest.mark.usefixtures("snapshot")
def test_look_from_the_low_water_mark_does_not_walk_over_what_was_settled(conn: Connection) -> None:
    assert seconds_of(conn, SETTLED) < seconds_of(conn, 0) / 5


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("crowd", [False, True])
def test_settler_looks_through_everything_rarely(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch, crowd: bool
) -> None:
    monkeypatch.setattr(lanes, "STRAGGLER_SECONDS", 0.0)
    if crowd:
        monkeypatch.setattr(lanes, "CROWDED_SHARE", 0.0)
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

    monkeypatch.setattr(lanes, "WHOLE_LOOK_SECONDS", 3600.0)
    for _ in range(5):
        ids = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
        eventually(settled)
    # The first look knows of no mark; that of each further one is below what was settled by the one before.
    assert floors[0] == 0
    assert min(floors[1:]) > SETTLED - 1, floors
