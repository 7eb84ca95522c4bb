from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from receiver.database.locks import own_results
from receiver.database.pool import Connection, DatabaseUnavailable, Pool, open_pool
from receiver.results import lanes
from receiver.results.lanes import GROUP_CALLBACKS
from receiver.results.replay import find_settled, replay
from receiver.results.settler import Settler
from tests.factories import (
    claim_waiting,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    states,
)

APPLIED = ("applied", None)
SET_ASIDE = ("unreadable", "settling_failed")


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    pool = open_pool(database_url, max_size=2, name="settler")
    yield pool
    pool.close()


def fail_on(conn: Connection, status: str, error: str = "raise_exception") -> None:
    """Make the database refuse results with this status."""
    conn.execute(
        "create function fail() returns trigger language plpgsql as"
        f" $$ begin raise exception 'made to fail' using errcode = '{error}'; end $$"
    )
    conn.execute(
        "create trigger fail before insert on result for each row"
        f" when (new.provider_status = '{status}') execute function fail()"
    )
    conn.commit()


def settle_until_nothing_waits(settler: Settler) -> int:
    """A callback that cannot be settled is found by halving its group, step by step."""
    return sum(settler.settle_group() for _ in range(20))


def test_without_waiting_callbacks_nothing_is_settled(pool: Pool) -> None:
    assert Settler(pool).settle_group() == 0


def test_group_is_settled_and_counted(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn)
    ids = journal(conn, *(make_callback(batch_id, result_body(phone_number(0))) for _ in range(GROUP_CALLBACKS + 1)))
    settler = Settler(pool)
    assert [settler.settle_group() for _ in range(3)] == [GROUP_CALLBACKS, 1, 0]
    assert states(conn, ids[:1]) == [APPLIED]
    assert differences(conn) == []


def test_callback_that_cannot_be_settled_does_not_block_the_others(
    conn: Connection, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(5)])
    bodies = [result_body(phone_number(index), "poison" if index == 2 else "completed") for index in range(5)]
    ids = journal(conn, *(make_callback(batch_id, body) for body in [*bodies, b"?"]))
    fail_on(conn, "poison")
    settler = Settler(pool)
    assert settle_until_nothing_waits(settler) == 6
    assert states(conn, ids) == [APPLIED, APPLIED, SET_ASIDE, APPLIED, APPLIED, ("unreadable", "not_recognised")]
    assert differences(conn) == []
    counts = read_batch(conn, batch_id).counts
    assert (counts["final"], counts["pending"]) == (4, 1)
    assert f"callback {ids[2]} cannot be settled" in caplog.text
    assert "made to fail" in caplog.text


def test_replay_settles_it_once_the_fault_is_fixed(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn)
    ids = journal(conn, *(make_callback(batch_id, result_body(phone_number(0), "poison")) for _ in range(2)))
    fail_on(conn, "poison")
    assert settle_until_nothing_waits(Settler(pool)) == 2
    assert states(conn, ids) == [SET_ASIDE, SET_ASIDE]
    conn.execute("drop trigger fail on result")
    conn.commit()
    replay(conn, find_settled(conn, state="unreadable"))
    conn.commit()
    assert states(conn, ids) == [APPLIED, ("duplicate", "same_result")]
    assert differences(conn) == []


@pytest.mark.parametrize("error", ["deadlock_detected", "serialization_failure"])
def test_transaction_rolled_back_for_another_is_repeated_and_its_callbacks_stay_readable(
    conn: Connection, pool: Pool, error: str
) -> None:
    batch_id = make_batch(conn)
    ids = journal(conn, make_callback(batch_id, result_body(phone_number(0), "poison")))
    fail_on(conn, "poison", error)
    settler = Settler(pool)
    assert settler.settle_group() == 0
    assert states(conn, ids) == [("waiting", None)]
    conn.execute("drop trigger fail on result")
    conn.commit()
    assert settler.settle_group() == 1
    assert states(conn, ids) == [APPLIED]


def test_settlement_cut_off_by_the_server_leaves_everything_waiting(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn)
    ids = journal(conn, make_callback(batch_id, result_body(phone_number(0), "poison")))
    fail_on(conn, "poison", "admin_shutdown")
    with pytest.raises(DatabaseUnavailable):
        Settler(pool).settle_group()
    assert states(conn, ids) == [("waiting", None)]


@pytest.mark.parametrize("late_by_more", [False, True])
def test_callback_committed_late_with_a_lower_id_is_found(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch, late_by_more: bool
) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(3)])
    monkeypatch.setattr(lanes, "FULL_SCAN_SECONDS", 3600.0)
    monkeypatch.setattr(lanes, "STRAGGLER_SECONDS", 0.0 if late_by_more else 60.0)
    settler = Settler(pool)
    late, *early = journal(conn, *(make_callback(batch_id, result_body(phone_number(index))) for index in range(3)))
    conn.execute("delete from waiting where callback_id = %s", (late,))
    conn.commit()
    assert settler.settle_group() == 2
    conn.execute("insert into waiting select callback_id, batch_id, received_at from callback where callback_id = %s",
                 (late,))  # fmt: skip
    conn.commit()
    if late_by_more:
        assert settler.settle_group() == 0, "the scan begins at the lowest id that was settled that long ago"
        settler._lanes._common._full_scan_at = 0.0
    assert settler.settle_group() == 1
    assert states(conn, [late, *early]) == [APPLIED] * 3


def test_settler_skips_callbacks_that_another_has_locked(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(3)])
    journal(conn, *(make_callback(batch_id, result_body(phone_number(index))) for index in range(3)))
    assert len(claim_waiting(conn, 2)) == 2
    settler = Settler(pool)
    assert settler.settle_group() == 1
    conn.rollback()
    assert Settler(pool).settle_group() == 2
    assert differences(conn) == []


def test_settling_waits_only_for_a_replay_of_its_batch(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn)
    journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    impatient = open_pool(f"{database_url} options='-c lock_timeout=50ms'", max_size=2, name="settler")
    try:
        own_results(conn, [batch_id + 1])
        assert Settler(impatient).settle_group() == 1, "of another batch"
        journal(conn, make_callback(batch_id, result_body(phone_number(0))))
        own_results(conn, [batch_id])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            Settler(impatient).settle_group()
        conn.rollback()
        assert Settler(impatient).settle_group() == 1
    finally:
        impatient.close()
