"""Groups are limited in size, and chosen so that no batch delays the others."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from receiver.database.pool import Connection, Pool, open_pool
from receiver.results import lanes
from receiver.results.bodies import read_bodies
from receiver.results.settler import Settler
from receiver.results.stored import get_stored
from tests.factories import differences, journal, make_batch, make_callback, phone_number, result_body, states

APPLIED = ("applied", None)
WAITING = ("waiting", None)


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    pool = open_pool(database_url, max_size=2, name="settler")
    yield pool
    pool.close()


def test_batch_with_a_long_queue_delays_others_by_one_group(conn: Connection, pool: Pool) -> None:
    crowded, other = make_batch(conn), make_batch(conn)
    for _ in range(6):
        journal(conn, *(make_callback(crowded, result_body(phone_number(0))) for _ in range(500)))
    settler = Settler(pool)
    assert settler.settle_group() == 500
    for _ in range(3):
        ids = journal(conn, make_callback(other, result_body(phone_number(0))))
        assert settler.settle_group() == 500, "the rest of the group is from the long queue"
        assert states(conn, ids)[0] != WAITING
    while settler.settle_group():
        pass
    assert conn.execute("select from waiting").fetchall() == []
    assert differences(conn) == []


def test_two_busy_batches_take_turns(conn: Connection, pool: Pool) -> None:
    batches = [make_batch(conn) for _ in range(2)]
    for _ in range(3):
        for batch_id in batches:
            journal(conn, *(make_callback(batch_id, result_body(phone_number(0))) for _ in range(500)))

    def waiting() -> list[int]:
        return [
            number
            for batch_id in batches
            for (number,) in conn.execute("select count(*) from waiting where batch_id = %s", (batch_id,))
        ]

    settler = Settler(pool)
    for _ in range(4):
        settler.settle_group()
    first, second = waiting()
    assert first + second == 1000
    assert abs(first - second) <= 500


@pytest.mark.parametrize("compressed", [False, True])
def test_group_with_long_bodies_is_small(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    monkeypatch.setattr(lanes, "GROUP_BYTES", 10_000)
    monkeypatch.setattr("receiver.results.settler.GROUP_BYTES", 10_000)
    batch_id = make_batch(conn)
    body = result_body(phone_number(0), padding="x" * 4_000)
    ids = journal(conn, *(make_callback(batch_id, gzip.compress(body) if compressed else body) for _ in range(7)))
    settler = Settler(pool)
    settled: list[int] = []
    while not settled or settler.behind:
        settled.append(settler.settle_group())
    assert sum(settled) == 7
    assert max(settled) <= 3
    assert WAITING not in states(conn, ids)
    assert differences(conn) == []


def test_reading_stops_at_the_limit_and_reads_at_least_one(conn: Connection) -> None:
    batch_id = make_batch(conn)
    ids = journal(conn, *(make_callback(batch_id, result_body(phone_number(0))) for _ in range(3)))
    stored = get_stored(conn, [(batch_id, callback_id) for callback_id in ids])
    length = len(result_body(phone_number(0)))
    assert [len(read_bodies(stored, most)) for most in (None, 1, length, length + 1)] == [3, 1, 1, 2]


def test_body_that_cannot_be_decompressed_counts_as_the_longest(conn: Connection) -> None:
    batch_id = make_batch(conn)
    bomb = gzip.compress(b" " * (3 << 20))
    (only,) = journal(conn, make_callback(batch_id, bomb))
    (read,) = read_bodies(get_stored(conn, [(batch_id, only)]))
    assert read.unpacked_bytes == 1 << 20


def test_callback_that_release_1_0_0_stored_has_no_size_and_is_settled(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn)
    (only,) = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    conn.execute("update waiting set body_bytes = null")
    conn.commit()
    assert Settler(pool).settle_group() == 1
    assert states(conn, [only]) == [APPLIED]
