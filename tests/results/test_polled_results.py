"""A fetched body is settled like a callback, but not counted as one."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from receiver.database.pool import Connection
from receiver.results.replay import find_settled, replay
from receiver.results.stored import get_stored
from receiver.summary.callbacks import list_callbacks, list_callbacks_of_call
from receiver.summary.calls import get_call
from tests.factories import (
    NOON,
    deliver,
    differences,
    highest_id,
    journal,
    make_batch,
    make_callback,
    phone_number,
    present,
    read_batch,
    result_body,
    settle,
    states,
)

NUMBERS = [phone_number(index) for index in range(4)]
NUMBER = NUMBERS[0]


def fetch(conn: Connection, batch_id: int, body: bytes, received_at: datetime = NOON) -> int:
    """Store and settle a body as `recovery` does; returns its id."""
    conn.execute(
        "insert into callback (batch_id, submission_no, received_at, polled, content_type, body)"
        " values (%s, 1, %s, true, 'application/json', %s)",
        (batch_id, received_at, body),
    )
    callback_id = highest_id(conn)
    settle(conn, get_stored(conn, [(batch_id, callback_id)]))
    conn.commit()
    return callback_id


def source(conn: Connection, batch_id: int, row: int = 1) -> tuple[str, str | None, str | None]:
    call = get_call(conn, batch_id, row)
    conn.commit()
    return call.state, call.outcome, call.result_source


def test_fetched_result_is_final_and_not_counted_as_a_callback(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    fetch(conn, batch_id, result_body(NUMBER))
    batch = read_batch(conn, batch_id)
    assert present(batch.counts) == {"rows": 4, "overdue": 3, "final": 1, "completed": 1}
    assert present(batch.callbacks) == {}
    assert (batch.attempts, batch.duration_seconds, batch.last_result_at) == (1, 30, NOON)
    assert source(conn, batch_id) == ("final", "completed", "poll")
    assert list_callbacks(conn, 10) == list_callbacks_of_call(conn, batch_id, 1) == []
    assert differences(conn) == []


def test_fetched_step_leaves_the_call_overdue(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    fetch(conn, batch_id, result_body(NUMBER, "dialing"))
    fetch(conn, batch_id, result_body(NUMBER, "dialing"))
    assert present(read_batch(conn, batch_id).counts) == {"rows": 4, "overdue": 4}
    assert source(conn, batch_id) == ("overdue", None, None), "a step is no result"
    fetch(conn, batch_id, result_body(NUMBER))
    assert source(conn, batch_id) == ("final", "completed", "poll")
    assert present(read_batch(conn, batch_id).callbacks) == {}
    assert differences(conn) == []


@pytest.mark.parametrize(
    ("late", "state", "stands"),
    [
        (result_body(NUMBER), "duplicate", ("final", "completed", "poll")),
        (result_body(NUMBER, "failed", last_event=50), "conflict", ("final", "completed", "poll")),
        (result_body(NUMBER, "failed", last_event=90), "applied", ("final", "failed", "callback")),
        (result_body(NUMBER, "dialing"), "duplicate", ("final", "completed", "poll")),
    ],
)
def test_late_callback_is_decided_by_the_usual_rules(
    conn: Connection, late: bytes, state: str, stands: tuple[str, str, str]
) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    fetch(conn, batch_id, result_body(NUMBER), NOON - timedelta(hours=1))
    ids = deliver(conn, batch_id, late)
    assert states(conn, ids)[0][0] == state
    assert present(read_batch(conn, batch_id).callbacks) == {"received": 1, state: 1}
    assert source(conn, batch_id) == stands
    assert differences(conn) == []


def test_fetched_body_after_a_callback_is_not_counted(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    deliver(conn, batch_id, result_body(NUMBER))
    before = read_batch(conn, batch_id)
    later = NOON + timedelta(days=1)
    fetch(conn, batch_id, result_body(NUMBER), later)
    fetch(conn, batch_id, result_body(NUMBER, "failed", last_event=50), later)
    fetch(conn, batch_id, result_body(phone_number(99)), later)
    fetch(conn, batch_id, b"{}", later)
    after = read_batch(conn, batch_id)
    assert (after.counts, after.callbacks) == (before.counts, before.callbacks)
    assert differences(conn) == []
    fetch(conn, batch_id, result_body(NUMBER, "failed", last_event=90), later)
    assert present(read_batch(conn, batch_id).callbacks) == {"received": 1, "conflict": 1}
    assert source(conn, batch_id) == ("final", "failed", "poll")
    assert differences(conn) == []


def test_fetched_and_delivered_results_in_one_group_are_decided_together(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    (delivered,) = journal(conn, make_callback(batch_id, result_body(NUMBER)))
    conn.execute(
        "insert into callback (batch_id, submission_no, received_at, polled, content_type, body)"
        " values (%s, 1, %s, true, '', %s)",
        (batch_id, NOON - timedelta(hours=1), result_body(NUMBER)),
    )
    conn.execute("delete from waiting")
    settle(conn, get_stored(conn, [(batch_id, delivered), (batch_id, highest_id(conn))]))
    conn.commit()
    assert states(conn, [delivered]) == [("duplicate", "same_result")]
    assert present(read_batch(conn, batch_id).callbacks) == {"received": 1, "duplicate": 1}
    assert differences(conn) == []


def test_replay_includes_fetched_bodies_and_keeps_every_count(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    fetched = fetch(conn, batch_id, result_body(NUMBER), NOON - timedelta(hours=1))
    fetch(conn, batch_id, result_body(phone_number(99)))
    (delivered,) = deliver(conn, batch_id, result_body(NUMBER, "failed", last_event=50))
    before = read_batch(conn, batch_id)
    assert find_settled(conn, state="unmatched") == find_settled(conn, ids=[fetched]) == []
    assert replay(conn, [(batch_id, delivered)]) == []
    conn.commit()
    assert read_batch(conn, batch_id) == before
    assert differences(conn) == []


def test_verify_reports_a_fetched_result_that_is_not_counted_as_one(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, past_due=True)
    fetch(conn, batch_id, result_body(NUMBER))
    conn.execute("update batch_count set polled = 0")
    assert [found["what"] for found in differences(conn)] == ["polled"]


def test_loss_is_the_share_of_due_results_that_were_not_delivered(conn: Connection) -> None:
    due, coming = make_batch(conn, NUMBERS, past_due=True), make_batch(conn, NUMBERS)
    deliver(conn, due, result_body(NUMBER), result_body(NUMBERS[1], "failed"))
    fetch(conn, due, result_body(NUMBERS[2]))
    assert (read_batch(conn, due).loss_rate, read_batch(conn, coming).loss_rate) == (0.5, None)
    deliver(conn, due, result_body(NUMBERS[3]))
    assert read_batch(conn, due).loss_rate == 0.25
