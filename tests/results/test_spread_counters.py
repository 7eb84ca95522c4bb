"""The counters of a busy batch are spread: its workers do not wait for each other, and they are exact at its end."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from receiver.changes.counters import own_counters
from receiver.database import locks
from receiver.database.pool import Connection, connect
from receiver.release.deployment_cancel import request_cancel
from receiver.results import counters
from receiver.results.replay import find_settled, replay
from receiver.summary.series import SummaryFilter, get_summary
from tests.changes.owed import Owed
from tests.factories import (
    claim_waiting,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle,
)
from tests.results.test_settling_together import at_once, settle_waiting
from tests.waiting import eventually, waits_for_lock

CALLS = 40


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters are spread above 8 remaining calls: so that up to 4 workers settle groups of 2, or 2 groups of 4."""
    monkeypatch.setattr(counters, "BUSY_RESULTS", 2)
    monkeypatch.setattr(counters, "SPREAD_ABOVE", 8)


@pytest.fixture
def batch_id(conn: Connection) -> int:
    """A batch with a waiting result for each call."""
    made = make_batch(conn, [phone_number(index) for index in range(CALLS)])
    journal(conn, *(make_callback(made, result_body(phone_number(index))) for index in range(CALLS)))
    return made


def settle_next(conn: Connection, callbacks: int) -> None:
    settle(conn, claim_waiting(conn, callbacks))


def cancel_all(conn: Connection) -> None:
    request_cancel(conn, 7, 3, by="Ana")


def replay_all(conn: Connection) -> None:
    replay(conn, find_settled(conn))


def parts(conn: Connection) -> int:
    found = conn.execute("select from batch_count_part").rowcount
    conn.commit()
    return found


def test_two_settlements_of_one_batch_do_not_wait_for_each_other(
    conn: Connection, database_url: str, batch_id: int
) -> None:
    owed = Owed(conn)
    with closing(connect(f"{database_url} options='-c lock_timeout=10s'", name="another")) as other:
        # Other rows by chance, unless both choose the same one.
        random.seed(1)
        settle_next(conn, 4)
        random.seed(2)
        settle_next(other, 4)
        other.commit()
    conn.commit()
    assert parts(conn) == 4  # two each: the quarter hour of the results, and the rest
    assert read_batch(conn, batch_id).counts["final"] == 8
    assert read_batch(conn, batch_id).first_result_at is not None
    assert get_summary(conn, SummaryFilter()).totals["final"] == 8
    assert differences(conn) == []
    conn.commit()
    for _ in range(8):
        settle_next(conn, 4)
        conn.commit()
    assert parts(conn) == 0
    assert read_batch(conn, batch_id).counts["final"] == CALLS
    assert ("batch.ended", batch_id, None) in owed.check()
    assert differences(conn) == []


def test_who_needs_exact_counters_waits_for_settlements_and_completes_them(
    conn: Connection, database_url: str, batch_id: int
) -> None:
    settle_next(conn, 4)
    with closing(connect(f"{database_url} options='-c lock_timeout=100ms'", name="another")) as other:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            own_counters(other, [batch_id])
        other.rollback()
        conn.commit()
        assert parts(conn) == 2
        own_counters(other, [batch_id])
        assert other.execute("select completed, applied from batch_count").fetchall() == [(4, 4)]
        other.commit()
    assert parts(conn) == 0
    assert differences(conn) == []


def test_batch_ends_once_however_many_workers_settle_it(conn: Connection, database_url: str, batch_id: int) -> None:
    owed = Owed(conn)
    at_once(*[settle_waiting(database_url, 2)] * 4)
    assert [event for event, *_ in owed.check() if event == "batch.ended"] == ["batch.ended"]
    assert differences(conn) == []


def test_replay_of_a_batch_with_spread_counters_keeps_every_count(conn: Connection, batch_id: int) -> None:
    settle_next(conn, 10)
    conn.commit()
    assert parts(conn) == 2
    replay(conn, find_settled(conn))
    conn.commit()
    assert read_batch(conn, batch_id).counts["final"] == 10
    assert differences(conn) == []


def test_nothing_is_spread_while_a_worker_of_an_old_release_lives(conn: Connection, batch_id: int) -> None:
    conn.execute("insert into worker (host, pid) values ('old', 1)")
    settle_next(conn, 4)
    conn.commit()
    assert parts(conn) == 0


def test_settlement_that_finds_the_batch_near_its_end_gives_way(
    conn: Connection, batch_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others settled most of it before it got the lock."""
    settle_next(conn, 28)
    conn.commit()
    monkeypatch.setattr(counters.Deltas, "_find_spread", lambda *_: batch_id)
    with pytest.raises(psycopg.errors.SerializationFailure):
        settle_next(conn, 4)
    conn.rollback()


def test_settlement_that_waited_for_others_at_the_same_counters_notices_the_end(
    conn: Connection, database_url: str, batch_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many workers wait there, each sees what those before it have settled."""
    monkeypatch.setattr(counters, "SLOTS", 1)
    owed = Owed(conn)
    settle_next(conn, 20)
    conn.commit()
    settle_next(conn, 10)
    with closing(connect(database_url, name="another")) as other, ThreadPoolExecutor(1) as starter:
        waiting = starter.submit(settle_next, other, 10)
        eventually(lambda: waits_for_lock(conn, "another"))
        conn.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            waiting.result(60)
        other.rollback()
        settle_next(other, 10)
        other.commit()
    assert ("batch.ended", batch_id, None) in owed.check()
    assert differences(conn) == []


@pytest.mark.parametrize("change", [cancel_all, replay_all])
def test_counters_of_several_batches_are_locked_in_order(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[Connection], object]
) -> None:
    """There are few locks here: the first batch has the last one, the second the first one."""
    made = [make_batch(conn, [phone_number(0), phone_number(1)], submission_rows=1, send=False) for _ in range(2)]
    for batch_id in made:
        deliver(conn, batch_id, result_body(phone_number(0)))
    monkeypatch.setattr(locks, "STRIPES", made[1])
    held = (
        "select objid from pg_locks where classid = %s and granted and pid <> pg_backend_pid()"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    own_counters(conn, [made[1]])
    with closing(connect(database_url, name="changing")) as other, ThreadPoolExecutor(1) as starter:
        changing = starter.submit(change, other)
        eventually(lambda: changing.done() or waits_for_lock(conn, "changing"))
        found = conn.execute(held, (locks.COUNTERS_LOCK,)).fetchall()
        conn.commit()  # before it can fail: the other waits for this
        changing.result(60)
        other.rollback()
    assert found == []
