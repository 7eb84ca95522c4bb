from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.results import replay as replay_module
from receiver.results.replay import Change, find_settled, replay
from tests.factories import (
    NOON,
    REFUSED,
    answer_submissions,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    purge_batch,
    read_batch,
    result_body,
    settle_all,
    states,
)

NUMBER = phone_number(0)
APPLIED = ("applied", None)


def everything(conn: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that settlement stores."""
    tables = ("result", "set_aside", "outstanding", "batch_count", "result_count", "waiting", "submission", "batch")
    kept = {}
    for table in tables:
        rows = conn.execute(f"select * from {table}").fetchall()  # noqa: S608 names of ours
        kept[table] = sorted(rows, key=repr)
    kept["result_count"] = [row for row in kept["result_count"] if any(row[2:])]
    conn.commit()
    return kept


def replay_everything(conn: Connection, **wanted: Any) -> list[Change]:
    """Replay page by page, as the command does; commits."""
    changes, after = [], 0
    while keys := find_settled(conn, after=after, **wanted):
        changes += replay(conn, keys)
        conn.commit()
        after = keys[-1][1]
    conn.commit()
    return changes


def tamper(conn: Connection, callback_id: int, body: bytes) -> None:
    conn.execute("update callback set packing = 0, body = %s where callback_id = %s", (body, callback_id))
    conn.commit()


def mixed_pile(conn: Connection) -> None:
    """Two batches with a callback in every state."""
    for numbers in ([NUMBER, phone_number(1), phone_number(2)], [NUMBER, NUMBER]):
        batch_id = make_batch(conn, numbers)
        for body in (
            result_body(NUMBER, "dialing"),
            result_body(NUMBER),
            result_body(NUMBER),
            result_body(NUMBER, "failed", last_event=90),
            result_body(phone_number(1), "queued"),
            result_body(phone_number(77)),
            b"?",
        ):
            deliver(conn, batch_id, body)
    journal(conn, make_callback(batch_id, result_body(NUMBER), submission_no=2))


def test_replay_of_everything_changes_nothing(conn: Connection) -> None:
    mixed_pile(conn)
    before = everything(conn)
    assert replay_everything(conn) == []
    assert everything(conn) == before
    assert differences(conn) == []


def test_settled_callbacks_are_found_behind_many_that_wait(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "REPLAY_CALLBACKS", 2)
    batch_id = make_batch(conn, [NUMBER])
    (settled,) = deliver(conn, batch_id, result_body(NUMBER))
    late = [make_callback(batch_id, result_body(NUMBER)) for _ in range(5)]
    waiting = journal(conn, *late)
    conn.execute("update waiting set callback_id = -callback_id")
    conn.execute("update callback set callback_id = -callback_id where callback_id = any(%s)", (waiting,))
    conn.commit()
    assert find_settled(conn, after=-10_000_000) == [(batch_id, settled)]
    assert find_settled(conn, after=settled) == []


@pytest.mark.parametrize("page", [1, 2, 5])
def test_size_of_its_transactions_does_not_matter(conn: Connection, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(replay_module, "REPLAY_CALLBACKS", page)
    mixed_pile(conn)
    before = everything(conn)
    assert replay_everything(conn) == []
    assert everything(conn) == before


@pytest.mark.parametrize(
    ("state", "number"), [("applied", 5), ("duplicate", 4), ("conflict", 2), ("unmatched", 3), ("unreadable", 2)]
)
def test_callbacks_are_found_by_state_except_waiting_ones(conn: Connection, state: str, number: int) -> None:
    mixed_pile(conn)
    found = find_settled(conn, state=state)
    assert {name for name, _ in states(conn, [callback_id for _, callback_id in found])} <= {state}
    total = conn.execute(
        "select count(*) from set_aside where state = %s" if state != "applied" else
        "select count(*) from result where %s <> ''", (state,)
    ).fetchone()  # fmt: skip
    assert total == (len(found),)
    assert found


def test_callbacks_are_found_by_id(conn: Connection) -> None:
    mixed_pile(conn)
    every = find_settled(conn)
    waiting = conn.execute("select callback_id from waiting").fetchall()
    ids = [every[0][1], every[-1][1], waiting[0][0], 999_999]
    assert find_settled(conn, ids=ids) == [every[0], every[-1]]
    assert find_settled(conn, ids=ids, after=every[0][1]) == [every[-1]]
    assert find_settled(conn, ids=[]) == []


def test_dry_run_returns_the_changes_and_a_rollback_undoes_them(conn: Connection) -> None:
    batch_id = make_batch(conn)
    (broken,) = deliver(conn, batch_id, b"?")
    tamper(conn, broken, result_body(NUMBER))
    before = everything(conn)
    changes = replay(conn, find_settled(conn))
    conn.rollback()
    assert changes == [Change(broken, batch_id, "unreadable", "applied", None, None, 1)]
    assert everything(conn) == before
    assert replay_everything(conn) == changes
    assert states(conn, [broken]) == [APPLIED]


def test_callback_that_has_become_readable_is_decided_with_others_of_its_call(conn: Connection) -> None:
    batch_id = make_batch(conn)
    first, second = deliver(conn, batch_id, b"?", result_body(NUMBER))
    tamper(conn, first, result_body(NUMBER, "failed", last_event=90))
    changes = replay_everything(conn, ids=[first])
    assert states(conn, [first, second]) == [APPLIED, ("conflict", "other_result_stands")]
    assert [(change.callback_id, change.state_before, change.state_after) for change in changes] == [
        (first, "unreadable", "applied"),
        (second, "applied", "conflict"),
    ]
    assert differences(conn) == []
    assert read_batch(conn, batch_id).counts["failed"] == 1


def test_all_callbacks_of_a_call_are_decided_together(conn: Connection) -> None:
    batch_id = make_batch(conn)
    ids = deliver(
        conn, batch_id, result_body(NUMBER, "failed", last_event=90), result_body(NUMBER), result_body(NUMBER)
    )
    conflict, duplicate = ("conflict", "other_result_stands"), ("duplicate", "same_result")
    assert states(conn, ids) == [APPLIED, conflict, duplicate]
    tamper(conn, ids[0], result_body(NUMBER, "failed", last_event=30))
    changes = replay_everything(conn, ids=ids[2:])
    assert states(conn, ids) == [conflict, APPLIED, duplicate]
    assert [change.callback_id for change in changes] == ids[:2]
    assert differences(conn) == []


def test_result_that_has_become_unreadable_reopens_its_call(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)])
    ids = []
    for minute, number in ((5, phone_number(1)), (1, NUMBER), (9, NUMBER)):
        at = NOON + timedelta(minutes=minute)
        ids += journal(conn, make_callback(batch_id, result_body(number), received_at=at))
    settle_all(conn)
    for callback_id in ids[1:]:
        tamper(conn, callback_id, b"?")
    replay_everything(conn)
    assert states(conn, ids) == [APPLIED] + [("unreadable", "not_recognised")] * 2
    assert differences(conn) == []
    batch = read_batch(conn, batch_id)
    assert (batch.counts["final"], batch.counts["pending"]) == (1, 1)
    assert batch.first_result_at == batch.last_result_at == NOON + timedelta(minutes=5)


def test_result_that_has_become_a_step_reopens_its_call(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    (only,) = deliver(conn, batch_id, result_body(NUMBER))
    assert read_batch(conn, batch_id).counts["final"] == 1
    tamper(conn, only, result_body(NUMBER, "dialing"))
    assert replay_everything(conn) == [Change(only, batch_id, "applied", "applied", None, 1, 1)]
    assert replay_everything(conn) == []
    batch = read_batch(conn, batch_id)
    assert (batch.counts["final"], batch.counts["refused"]) == (0, 1)
    assert (batch.first_result_at, batch.last_result_at) == (None, None)
    assert differences(conn) == []


def test_result_times_do_not_count_steps_when_a_result_is_lost(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)])
    bodies = {
        1: result_body(NUMBER, "dialing"),
        3: result_body(NUMBER),
        5: result_body(phone_number(1), "failed"),
        9: result_body(NUMBER, "dialing"),
    }
    ids = []
    for minute, body in bodies.items():
        ids += journal(conn, make_callback(batch_id, body, received_at=NOON + timedelta(minutes=minute)))
        settle_all(conn)
    assert [state for state, _ in states(conn, ids)] == ["duplicate", "applied", "applied", "duplicate"]
    tamper(conn, ids[2], result_body(phone_number(1), "connected"))
    assert [change.difference for change in replay_everything(conn)] == ["with another result"]
    batch = read_batch(conn, batch_id)
    assert batch.first_result_at == batch.last_result_at == NOON + timedelta(minutes=3)
    assert differences(conn) == []


def test_callback_that_names_another_number_moves_to_its_call(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)])
    (only,) = deliver(conn, batch_id, result_body(NUMBER))
    tamper(conn, only, result_body(phone_number(1)))
    assert replay_everything(conn) == [Change(only, batch_id, "applied", "applied", None, 1, 2)]
    assert conn.execute("select row from result").fetchall() == [(2,)]
    assert conn.execute("select row from outstanding").fetchall() == [(1,)]
    assert differences(conn) == []


def test_callbacks_of_a_purged_batch_can_be_replayed(conn: Connection) -> None:
    batch_id = make_batch(conn)
    purge_batch(conn, batch_id)
    ids = deliver(conn, batch_id, result_body(NUMBER), b"?")
    assert replay_everything(conn) == []
    assert [state for state, _ in states(conn, ids)] == ["unmatched", "unreadable"]
    assert differences(conn) == []
