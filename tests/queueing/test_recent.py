"""Numbers that were queued recently: shown, skipped or refused, so that nobody is called twice by accident."""

from __future__ import annotations

import io
import threading
from functools import partial
from typing import Any

import pytest

from receiver.database.pool import Connection, connect
from receiver.errors import InvalidInput
from receiver.queueing.acceptance import Limits, accept, preview, preview_follow_up, recent_calls
from receiver.queueing.follow_ups import FollowUp, follow_up_parameters
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.recent import RecentCalls
from receiver.queueing.suppressions import suppress
from receiver.release.control import cancel_batch, pause_batch
from tests.factories import (
    ACCEPTED,
    REFUSED,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    phone_number,
    present,
    read_batch,
    result_body,
)
from tests.waiting import eventually, waits_for_lock

NUMBERS = [phone_number(index) for index in range(6)]
LIMITS = Limits(10_000, 3600)


def recent(conn: Connection, *, hours: int = 24, simulated: bool = False) -> dict[int, list[int]]:
    """By number, the ids of the batches."""
    found = RecentCalls(hours, simulated=simulated).find(conn, NUMBERS)
    conn.rollback()
    return {number: [batch.id for batch in batches] for number, batches in found.items()}


def queue(conn: Connection, numbers: list[int], **parameters: Any) -> int:
    csv = "destination\n" + "".join(f"{number}\n" for number in numbers)
    batch_id = accept(conn, io.BytesIO(csv.encode()), BatchParameters(7, 3, **parameters), LIMITS).batch_id
    conn.commit()
    return batch_id


def age(conn: Connection, batch_id: int, hours: float) -> None:
    conn.execute(
        "update submission set released_at = released_at - make_interval(secs => %s) where batch_id = %s",
        (hours * 3600, batch_id),
    )
    conn.commit()


def test_released_number_is_recent_for_some_hours(conn: Connection) -> None:
    first = make_batch(conn, NUMBERS[:2])
    second = make_batch(conn, NUMBERS[1:3])
    assert recent(conn) == {NUMBERS[0]: [first], NUMBERS[1]: [first, second], NUMBERS[2]: [second]}
    age(conn, first, 23.9)
    assert recent(conn)[NUMBERS[0]] == [first]
    age(conn, first, 0.2)
    assert recent(conn) == {NUMBERS[1]: [second], NUMBERS[2]: [second]}
    assert recent(conn, hours=25)[NUMBERS[0]] == [first]


def test_number_that_waits_for_release_is_recent_however_long(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:1], send=False)
    pause_batch(conn, batch_id, by="Ana")
    conn.execute("update batch set created_at = now() - interval '90 days'")
    conn.commit()
    assert recent(conn, hours=1) == {NUMBERS[0]: [batch_id]}


def test_number_that_was_not_called_is_not_recent(conn: Connection) -> None:
    canceled = make_batch(conn, NUMBERS[:1], send=False)
    cancel_batch(conn, canceled, by="Ana")
    conn.commit()
    make_batch(conn, NUMBERS[1:2], send=False)
    answer_submissions(conn, lambda _: REFUSED)
    assert recent(conn) == {}


def test_only_the_recent_calls_of_a_batch_count(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:4], submission_rows=1, send=False)
    suppress(conn, NUMBERS[3], by="Ana")
    conn.commit()
    answer_submissions(conn, lambda outgoing: REFUSED if outgoing.submission_no == 2 else ACCEPTED)
    whole = make_batch(conn, [*NUMBERS[:2], NUMBERS[0]])
    conn.execute(
        "update submission set released_at = now() - interval '2 days' where batch_id = %s and submission_no = 3",
        (batch_id,),
    )
    conn.commit()
    assert recent(conn) == {NUMBERS[0]: [batch_id, whole], NUMBERS[1]: [whole]}


def test_withdrawn_call_of_a_recent_submission_does_not_count(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], send=False)
    suppress(conn, NUMBERS[1], by="Ana")
    conn.commit()
    answer_submissions(conn)
    assert recent(conn) == {NUMBERS[0]: [batch_id]}


def test_simulated_batches_count_only_for_simulated_ones(conn: Connection) -> None:
    simulated = make_batch(conn, NUMBERS[:1], simulated=True)
    real = make_batch(conn, NUMBERS[1:2])
    assert recent(conn) == {NUMBERS[1]: [real]}
    assert recent(conn, simulated=True) == {NUMBERS[0]: [simulated], NUMBERS[1]: [real]}


def test_recent_rows_are_skipped_refused_or_allowed(conn: Connection) -> None:
    make_batch(conn, NUMBERS[:2])
    with pytest.raises(InvalidInput) as caught:
        queue(conn, NUMBERS[1:4], on_recent="refuse")
    conn.rollback()
    assert caught.value.code == "invalid_csv"
    assert [(fault.where, fault.code) for fault in caught.value.faults] == [(1, "recent")]
    skipping = queue(conn, NUMBERS[1:4], on_recent="skip")
    assert present(read_batch(conn, skipping).counts) == {"rows": 3, "skipped": 1, "pending": 2}
    assert conn.execute("select row, code from skipped").fetchall() == [(1, "recent")]
    assert present(read_batch(conn, queue(conn, NUMBERS[1:4])).counts) == {"rows": 3, "pending": 3}
    assert differences(conn) == []


def test_preview_counts_recent_rows_by_batch_whatever_happens_to_them(conn: Connection) -> None:
    first = make_batch(conn, NUMBERS[:3], name="May")
    second = make_batch(conn, NUMBERS[2:4])
    csv = "destination\n" + "".join(f"{number}\n" for number in NUMBERS)
    for on_recent in ("allow", "skip"):
        parameters = BatchParameters(7, 3, on_recent=on_recent)
        find = partial(recent_calls(parameters, LIMITS).find, conn)
        seen = preview(io.BytesIO(csv.encode()), parameters, LIMITS, find_recent=find)
        assert (seen.rows, seen.valid, seen.recent["rows"]) == (6, 6, 4)
        assert [(each["id"], each["name"], each["rows"]) for each in seen.recent["batches"]] == [
            (first, "May", 3),
            (second, "", 2),
        ]
        assert seen.errors_total == (4 if on_recent == "skip" else 0)


def test_calls_of_its_own_lineage_are_not_recent_for_a_follow_up(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:3])
    deliver(conn, batch_id, *(result_body(number, "failed") for number in NUMBERS[:3]))
    make_batch(conn, NUMBERS[2:3])
    parameters = follow_up_parameters(conn, batch_id, {"on_recent": "skip"})
    _, chosen = preview_follow_up(conn, FollowUp(batch_id), parameters, LIMITS)
    assert (chosen.chosen, present(chosen.left_out)) == (2, {"recent": 1})
    refused = follow_up_parameters(conn, batch_id, {"on_recent": "refuse"})
    with pytest.raises(InvalidInput) as caught:
        accept(conn, FollowUp(batch_id), refused, LIMITS)
    conn.rollback()
    assert [(fault.where, fault.code) for fault in caught.value.faults] == [(3, "recent")]


def test_list_that_is_queued_twice_at_the_same_time_is_stopped(conn: Connection, database_url: str) -> None:
    refused: list[InvalidInput] = []

    def queue_again() -> None:
        with connect(database_url, name="second upload") as other, pytest.raises(InvalidInput) as raised:
            queue(other, NUMBERS, on_recent="refuse")
        refused.append(raised.value)

    csv = "destination\n" + "".join(f"{number}\n" for number in NUMBERS)
    accept(conn, io.BytesIO(csv.encode()), BatchParameters(7, 3, on_recent="refuse"), LIMITS)
    second = threading.Thread(target=queue_again)
    second.start()
    with connect(database_url, name="watching", autocommit=True) as watching:
        eventually(lambda: waits_for_lock(watching, "second upload"))
    conn.commit()
    second.join(60)
    assert {fault.code for fault in refused[0].faults} == {"recent"}


def test_batch_of_an_unknown_kind_considers_simulated_ones(conn: Connection) -> None:
    """Without a provider in the configuration, the first worker decides whether a batch is simulated."""
    batch_id = make_batch(conn, NUMBERS[:1])
    conn.execute("update batch set simulated = true where batch_id = %s", (batch_id,))
    for simulated, found in ((None, 1), (True, 1), (False, 0)):
        calls = recent_calls(BatchParameters(7, 3), Limits(10_000, 3600, simulated))
        assert len(calls.find(conn, NUMBERS)) == found
