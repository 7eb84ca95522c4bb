from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CallState
from receiver.phone_numbers.destination import candidates
from receiver.results.overdue import mark_overdue
from receiver.results.reading.call_events import Event
from receiver.summary.calls import CallFilter, get_call, list_calls, list_calls_of_number
from tests.factories import (
    ACCEPTED,
    NOON,
    REFUSED,
    answer_submissions,
    deliver,
    journal,
    make_batch,
    make_callback,
    make_overdue,
    phone_number,
    result_body,
    settle_all,
)

NUMBERS = [phone_number(index) for index in range(8)]


@pytest.fixture(params=[False, True], ids=["on time", "past due"])
def past_due(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


def make_mixed_batch(conn: Connection, *, past_due: bool = False) -> int:
    """Rows: 1 completed, 2 failed, 3 completed, 4 a step, 5 nothing; refused: 6 final after all, 7, 8 a step."""
    batch_id = make_batch(conn, NUMBERS, submission_rows=5, send=False)
    answer_submissions(conn, lambda outgoing: ACCEPTED if outgoing.submission_no == 1 else REFUSED)
    if past_due:
        make_overdue(conn, batch_id)
    for index, status in {
        0: "completed",
        1: "failed",
        2: "completed",
        3: "dialing",
        5: "canceled",
        7: "queued",
    }.items():
        deliver(conn, batch_id, result_body(NUMBERS[index], status), submission_no=1 + index // 5)
    return batch_id


def rows(conn: Connection, batch_id: int, limit: int = 100, after_row: int = 0, **wanted: Any) -> list[int]:
    calls = list_calls(conn, batch_id, CallFilter(**wanted), limit, after_row).calls
    conn.commit()
    return [call.row for call in calls]


def test_each_state_lists_its_calls_and_each_call_shows_its_state(conn: Connection, past_due: bool) -> None:
    batch_id = make_mixed_batch(conn, past_due=past_due)
    open_state: CallState = "overdue" if past_due else "pending"
    other_state: CallState = "pending" if past_due else "overdue"
    expected: dict[CallState, list[int]] = {open_state: [4, 5], other_state: [], "final": [1, 2, 3, 6]}
    expected["refused"] = [7, 8]
    for state, found in expected.items():
        assert rows(conn, batch_id, state=state) == found
        for call in list_calls(conn, batch_id, CallFilter(state=state), 100).calls:
            assert call.state == state
            assert (call.outcome is not None) == (state == "final")
    assert rows(conn, batch_id) == list(range(1, 9))


def test_filters_combine(conn: Connection) -> None:
    batch_id = make_mixed_batch(conn)
    assert rows(conn, batch_id, outcome="completed") == [1, 3]
    assert rows(conn, batch_id, outcome="completed", state="final") == [1, 3]
    assert rows(conn, batch_id, outcome="completed", state="pending") == []
    assert rows(conn, batch_id, outcome="rejected") == []
    several = NUMBERS[1:6]
    assert rows(conn, batch_id, phone_numbers=several) == [2, 3, 4, 5, 6]
    assert rows(conn, batch_id, phone_numbers=several, state="final") == [2, 3, 6]
    assert rows(conn, batch_id, phone_numbers=several, outcome="failed") == [2]
    assert rows(conn, batch_id, phone_numbers=several, state="pending") == [4, 5]
    assert rows(conn, batch_id, phone_numbers=NUMBERS[5:], state="refused") == [7, 8]
    assert rows(conn, batch_id, phone_numbers=several, state="final", limit=1, after_row=2) == [3]
    assert rows(conn, batch_id, phone_numbers=[]) == []


@pytest.mark.parametrize(
    "text", ["6175550002", "+16175550002", "1-617-555-0002", "tel:+16175550002", "(617) 555.0002", "'6175550002'"]
)
def test_number_is_found_in_every_spelling(conn: Connection, text: str) -> None:
    batch_id = make_mixed_batch(conn)
    assert rows(conn, batch_id, phone_numbers=candidates(text, "US")) == [3]


@pytest.mark.parametrize("wanted", [{}, {"state": "final"}, {"state": "pending"}, {"outcome": "failed"}])
@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_pages_are_complete_and_without_repeats(conn: Connection, wanted: dict[str, Any], limit: int) -> None:
    batch_id = make_mixed_batch(conn)
    seen: list[int] = []
    while page := rows(conn, batch_id, limit, seen[-1] if seen else 0, **wanted):
        assert len(page) <= limit
        seen += page
    assert seen == rows(conn, batch_id, **wanted)


def test_pages_list_each_call_once_while_calls_are_settled(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    every: list[int] = []
    pending: list[int] = []
    for index in range(0, 8, 2):
        every += rows(conn, batch_id, 2, every[-1] if every else 0)
        pending += rows(conn, batch_id, 2, pending[-1] if pending else 0, state="pending")
        # A call that was listed becomes final, and one that was not listed yet.
        deliver(conn, batch_id, result_body(NUMBERS[index]), result_body(NUMBERS[7]))
    assert every == list(range(1, 9))
    assert pending == list(range(1, 8)), "all but row 8, which was final before its page was read"


def test_call_shows_its_result(conn: Connection) -> None:
    batch_id = make_batch(conn, ["tel:+16175550000;ani=8009957586"])
    (callback_id,) = journal(conn, make_callback(batch_id, result_body(NUMBERS[0], attempts=2), received_at=NOON))
    settle_all(conn)
    call = get_call(conn, batch_id, 1)
    at = [datetime.fromtimestamp(NOON.timestamp() + seconds, UTC) for seconds in (0, 5, 60)]
    assert (call.phone_number, call.destination) == ("+16175550000", "tel:+16175550000;ani=8009957586")
    assert call.variables == {"name": "Ana"}
    assert (call.state, call.outcome, call.provider_status) == ("final", "completed", "completed")
    assert (call.attempts, call.max_attempts, call.duration_seconds) == (2, 3, 30)
    assert (call.queued_at, call.ended_at) == (at[0], at[2])
    assert call.read_events().first == (Event("queued", at[0]), Event("dialing", at[1]), Event("disconnected", at[2]))
    assert (call.result_received_at, call.result_source) == (NOON, "callback")
    assert callback_id == 1


def test_call_without_a_callback_shows_none(conn: Connection) -> None:
    call = get_call(conn, make_batch(conn), 1)
    assert (call.state, call.outcome, call.read_events().first, call.result_source) == ("pending", None, (), None)
    assert call.result_received_at is None


def test_call_shows_the_last_step_while_it_has_no_result(conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(NUMBERS[0], "queued"), result_body(NUMBERS[0], "dialing", last_event=90))
    call = get_call(conn, batch_id, 1)
    assert (call.state, call.outcome, call.provider_status) == ("pending", None, "dialing")
    assert (call.result_received_at, call.result_source) == (None, None), "a step is not a result"
    assert [event.event for event in call.read_events().first] == ["queued", "dialing", "disconnected"]


def test_absent_calls_and_batches_are_not_found(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBERS[0], "nobody"], on_invalid="skip")
    for batch, row in ((batch_id, 2), (batch_id, 3), (batch_id, 0), (batch_id + 1, 1)):
        with pytest.raises(NotFound):
            get_call(conn, batch, row)
    with pytest.raises(NotFound):
        list_calls(conn, batch_id + 1, CallFilter(), 10)


def test_calls_to_a_number_are_listed_over_all_batches_newest_first(conn: Connection) -> None:
    first = make_batch(conn, [NUMBERS[1], NUMBERS[0]])
    second = make_batch(conn, [NUMBERS[0], NUMBERS[2], NUMBERS[0]])
    make_batch(conn, [NUMBERS[3]])
    fourth = make_batch(conn, [NUMBERS[0]], past_due=True)
    expected = [(fourth, 1), (second, 1), (second, 3), (first, 2)]
    for limit in (1, 2, 3, 100):
        seen: list[tuple[int, int]] = []
        while page := list_calls_of_number(conn, [NUMBERS[0]], limit, seen[-1] if seen else None).calls:
            seen += [(call.batch_id, call.row) for call in page]
        assert seen == expected
    assert [call.state for call in list_calls_of_number(conn, [NUMBERS[0]], 1).calls] == ["overdue"]
    assert list_calls_of_number(conn, [phone_number(99)], 10) == ([], False)
    assert list_calls_of_number(conn, [], 10) == ([], False)


def test_calls_to_any_of_several_readings_of_a_number_are_found(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBERS[0], NUMBERS[1]])
    found = list_calls_of_number(conn, candidates("617 555 0001", "US"), 10).calls
    assert [(call.batch_id, call.row) for call in found] == [(batch_id, 2)]
    assert found[0].queued_at is None and found[0].state == "pending"


def test_calls_are_overdue_from_the_due_time_on(conn: Connection) -> None:
    batch_id = make_batch(conn)
    cases: list[tuple[int, CallState]] = [(-1, "overdue"), (0, "overdue"), (1, "pending")]
    for seconds, state in cases:
        offset = timedelta(seconds=seconds)
        conn.execute("update submission set due_at = now() + %s where batch_id = %s", (offset, batch_id))
        mark_overdue(conn)
        assert get_call(conn, batch_id, 1).state == state
        assert [c.row for c in list_calls(conn, batch_id, CallFilter(state=state), 9).calls] == [1]
        conn.rollback()
