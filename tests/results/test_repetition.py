"""One call with very many callbacks: the cost and the state of a further one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from random import Random
from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.model import SubmissionKey
from receiver.results import bodies, not_applied
from receiver.results.decision import OTHER_RESULT_WINS, SAME_RESULT, STEP_SUPERSEDED
from receiver.results.reading.call_details import CallDetails, read_call_details
from tests.factories import (
    NOON,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle_all,
    states,
)

NUMBER = phone_number(0)
APPLIED = ("applied", None)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that settlement reads."""
    found: list[bytes] = []

    def noted(body: bytes, content_type: str, content_encoding: str = "") -> CallDetails:
        found.append(body)
        return read_call_details(body, content_type, content_encoding)

    monkeypatch.setattr(bodies, "read_call_details", noted)
    return found


def forget_decisions(conn: Connection) -> None:
    """Change the tables to what release 1.0.0 would have written."""
    conn.execute(
        "update set_aside set result_key = null, outcome = null, last_event_at = null, received_at = null,"
        " possible_at = null, provider_status = null, attempts = null, max_attempts = null, queued_at = null,"
        " started_at = null, ended_at = null, duration_seconds = null"
    )
    conn.execute("update result set last_event_at = null")
    conn.commit()


def test_no_earlier_body_is_read_for_a_further_callback(conn: Connection, read: list[bytes]) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(NUMBER), *[result_body(NUMBER)] * 300)
    deliver(conn, batch_id, *(result_body(NUMBER, "failed", attempts=number, last_event=1) for number in range(1, 9)))
    read.clear()
    repeated, conflicting, step, later = (
        result_body(NUMBER),
        result_body(NUMBER, "canceled", last_event=2),
        result_body(NUMBER, "dialing"),
        result_body(NUMBER, "failed", last_event=900),
    )
    last = deliver(conn, batch_id, repeated, conflicting, step)
    last += deliver(conn, batch_id, later)
    assert read == [repeated, conflicting, step, later]
    assert states(conn, last) == [
        ("duplicate", SAME_RESULT),
        ("conflict", OTHER_RESULT_WINS),
        ("duplicate", STEP_SUPERSEDED),
        APPLIED,
    ]
    assert read_batch(conn, batch_id).callbacks["duplicate"] == 302
    assert differences(conn) == []


def test_rows_of_an_earlier_release_are_read_again_once(conn: Connection, read: list[bytes]) -> None:
    batch_id = make_batch(conn)
    conflict = result_body(NUMBER, "failed", last_event=1)
    ids = deliver(conn, batch_id, result_body(NUMBER), conflict)
    forget_decisions(conn)
    read.clear()
    ids += deliver(conn, batch_id, conflict)
    assert read == [conflict, result_body(NUMBER), conflict]
    ids += deliver(conn, batch_id, conflict)
    assert len(read) == 4
    duplicate = ("duplicate", SAME_RESULT)
    assert states(conn, ids) == [APPLIED, ("conflict", OTHER_RESULT_WINS), duplicate, duplicate]
    assert differences(conn) == []


def test_time_of_a_result_that_an_earlier_release_replaced_is_read_from_its_body(conn: Connection) -> None:
    batch_id = make_batch(conn)
    early = result_body(NUMBER, "failed", last_event=60)
    late = result_body(NUMBER, "completed", last_event=900)
    ids = deliver(conn, batch_id, early, late)
    assert states(conn, ids) == [("conflict", OTHER_RESULT_WINS), APPLIED]
    # As 1.0.0 does it: it does not know the column, which keeps the time of the other callback.
    conn.execute("update result set callback_id = %s, provider_status = 'failed', outcome = 'failed',"
                 " duration_seconds = null", ids[:1])  # fmt: skip
    assert conn.execute("select last_event_at from result").fetchall() == [(None,)]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_decision_from_stored_details_is_the_same_as_from_bodies(conn: Connection, order: tuple[int, ...]) -> None:
    """One by one, in every order, and one result has no time: the winner is the same as for all together."""
    results = [
        result_body(NUMBER, "failed", last_event=60),
        result_body(NUMBER, "canceled", events=[]),
        result_body(NUMBER, "completed", last_event=900),
        result_body(NUMBER, "nonsense", last_event=500),
    ]
    one_by_one, at_once = make_batch(conn), make_batch(conn)
    found = []
    for batch_id, pieces in ((one_by_one, [[place] for place in order]), (at_once, [list(order)])):
        ids: list[int] = []
        for places in pieces:
            ids += deliver(conn, batch_id, *(results[place] for place in places))
        found.append(states(conn, ids))
    assert found[0] == found[1]
    assert differences(conn) == []


def test_result_that_wins_later_is_not_read_again(conn: Connection, read: list[bytes]) -> None:
    batch_id = make_batch(conn)
    first, without_time, latest = (
        result_body(NUMBER, "failed", last_event=60),
        result_body(NUMBER, "canceled", events=[], attempts=2, duration=7, queued_timestamp=""),
        result_body(NUMBER, "completed", last_event=900),
    )
    ids = [callback_id for body in (first, without_time, latest) for callback_id in deliver(conn, batch_id, body)]
    assert states(conn, ids) == [("conflict", OTHER_RESULT_WINS), APPLIED, ("conflict", OTHER_RESULT_WINS)]
    assert read == [first, without_time, latest]
    assert conn.execute("select outcome, attempts, max_attempts, duration_seconds from result").fetchall() == [
        ("canceled", 2, 3, 7)
    ]
    assert differences(conn) == []


def test_repeated_conflict_is_a_duplicate_of_the_first(conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(NUMBER, "failed", last_event=900), *[result_body(NUMBER)] * 3)
    last = deliver(conn, batch_id, result_body(NUMBER))
    assert states(conn, last) == [("duplicate", SAME_RESULT)]
    assert read_batch(conn, batch_id).callbacks["conflict"] == 1
    assert differences(conn) == []


def test_of_very_many_different_results_only_a_few_are_read_again(
    conn: Connection, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(not_applied, "COMPARED", 5)
    batch_id = make_batch(conn)
    for attempts in range(1, 20):
        deliver(conn, batch_id, result_body(NUMBER, "failed", attempts=attempts, last_event=attempts))
    forget_decisions(conn)
    read.clear()
    last = deliver(conn, batch_id, result_body(NUMBER, "completed", last_event=1))
    assert len(read) == 1 + 6
    assert states(conn, last) == [("conflict", OTHER_RESULT_WINS)]
    batch = read_batch(conn, batch_id)
    assert (batch.counts["failed"], batch.callbacks["conflict"], batch.attempts) == (1, 19, 19)
    assert differences(conn) == []


@pytest.mark.parametrize("seed", range(6))
def test_result_does_not_depend_on_the_order_of_many_different_callbacks(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """More results than a callback is compared with, with missing, impossible and equal times."""
    monkeypatch.setattr(not_applied, "COMPARED", 2)
    random = Random(seed)
    day = 24 * 60 * 60
    times: list[dict[str, Any]] = [{"events": []}, *({"last_event": at} for at in (60, 900, day + 5, 10 * day))]
    callbacks = [
        make_callback(
            1,
            result_body(
                NUMBER,
                random.choice(["completed", "failed", "nonsense"]),
                attempts=random.randint(1, 3),
                **random.choice(times),
            ),
            received_at=NOON + timedelta(seconds=seconds),
        )
        for seconds in random.sample(range(60), 30)
    ]
    found: list[object] = []
    for pieces in ([callbacks], [[each] for each in callbacks], [[each] for each in callbacks[::-1]]):
        batch_id = make_batch(conn)
        for piece in pieces:
            journal(conn, *(replace(each, key=SubmissionKey(batch_id, 1)) for each in piece))
            settle_all(conn)
        (result,) = conn.execute(
            "select received_at, outcome, provider_status, attempts, max_attempts, queued_at, started_at, ended_at,"
            " duration_seconds, last_event_at from result where batch_id = %s",
            (batch_id,),
        ).fetchall()
        found.append((result, read_batch(conn, batch_id).callbacks))
    assert found[0] == found[1] == found[2]
    assert differences(conn) == []
