from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import pytest

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CALLBACK_STATES, CallbackState
from receiver.summary.callbacks import Callback, get_callback, list_callbacks, list_callbacks_of_call
from tests.factories import (
    NOON,
    deliver,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    settle_all,
)

NUMBER = phone_number(0)


class Pile(NamedTuple):
    first: int
    second: int
    by_state: dict[CallbackState, list[int]]


@pytest.fixture
def pile(conn: Connection) -> Pile:
    """Two batches with callbacks in each state, the oldest first."""
    first, second = make_batch(conn), make_batch(conn)
    by_state: dict[CallbackState, list[int]] = {state: [] for state in CALLBACK_STATES}
    for batch_id in (first, second):
        bodies: dict[CallbackState, bytes] = {
            "applied": result_body(NUMBER),
            "duplicate": result_body(NUMBER),
            "conflict": result_body(NUMBER, "failed"),
            "unmatched": result_body(phone_number(9)),
            "unreadable": b"?",
        }
        for state, body in bodies.items():
            by_state[state] += deliver(conn, batch_id, body)
    for batch_id in (first, second):
        by_state["waiting"] += journal(conn, make_callback(batch_id, b"\xff"))
    return Pile(first, second, by_state)


def ids(callbacks: Sequence[Callback]) -> list[int]:
    return [callback.id for callback in callbacks]


@pytest.mark.parametrize("state", CALLBACK_STATES)
def test_state_lists_its_callbacks_newest_first(conn: Connection, pile: Pile, state: CallbackState) -> None:
    newest_first = pile.by_state[state][::-1]
    found = list_callbacks(conn, 100, state=state)
    assert ids(found) == newest_first
    assert {callback.state for callback in found} == {state}
    assert [callback.reason is None for callback in found] == [state in ("waiting", "applied")] * 2
    assert ids(list_callbacks(conn, 100, state=state, batch_id=pile.first)) == newest_first[1:]
    assert ids(list_callbacks(conn, 1, state=state)) == newest_first[:1]
    assert ids(list_callbacks(conn, 100, state=state, before=newest_first[0])) == newest_first[1:]
    assert list_callbacks(conn, 100, state=state, batch_id=pile.second, before=newest_first[0]) == []


def test_pages_are_complete_while_callbacks_are_received_and_settled(conn: Connection, pile: Pile) -> None:
    expected = sorted((callback_id for found in pile.by_state.values() for callback_id in found), reverse=True)
    assert ids(list_callbacks(conn, 100)) == expected
    seen: list[int] = []
    while page := list_callbacks(conn, 3, before=seen[-1] if seen else None):
        seen += ids(page)
        settle_all(conn)
        journal(conn, make_callback(pile.first))
    assert seen == expected


def test_callback_that_is_not_applied_shows_the_reason_and_its_call(conn: Connection, pile: Pile) -> None:
    found = {
        state: (callback.reason, callback.row)
        for state in CALLBACK_STATES
        for callback in list_callbacks(conn, 1, state=state)
    }
    assert found == {
        "waiting": (None, None),
        "applied": (None, 1),
        "duplicate": ("same_result", 1),
        "conflict": ("other_result_stands", 1),
        "unmatched": ("number_not_in_submission", None),
        "unreadable": ("not_recognised", None),
    }


def test_callbacks_of_a_call_are_in_the_order_of_their_receipt(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)])
    ids_by_minute = {}
    for minute in (5, 1, 3):
        at = NOON + timedelta(minutes=minute)
        body = result_body(NUMBER, last_event=60 + minute)
        (ids_by_minute[minute],) = journal(conn, make_callback(batch_id, body, received_at=at))
    deliver(conn, batch_id, result_body(phone_number(1)), b"?")
    found = list_callbacks_of_call(conn, batch_id, 1)
    assert [(callback.id, callback.state) for callback in found] == [
        (ids_by_minute[1], "conflict"),
        (ids_by_minute[3], "conflict"),
        (ids_by_minute[5], "applied"),
    ]
    assert list_callbacks_of_call(conn, batch_id, 3) == []


def test_callback_is_shown_byte_for_byte(conn: Connection, pile: Pile) -> None:
    (callback_id, *_) = pile.by_state["waiting"]
    found = get_callback(conn, callback_id)
    assert (found.body, found.content_encoding, found.callback.content_type) == (b"\xff", "", "application/json")
    assert (found.callback.batch_id, found.callback.submission_id) == (pile.first, 1)
    assert found.callback.state == "waiting"


def test_absent_callback_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound):
        get_callback(conn, 999)
