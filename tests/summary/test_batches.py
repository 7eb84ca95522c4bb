from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp
from receiver.queueing.parameters import BatchParameters
from receiver.summary.batches import BatchFilter, get_batch, list_batches
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    journal,
    make_batch,
    make_callback,
    phone_number,
    present,
    read_batch,
    result_body,
)

EVERYTHING = BatchFilter()


def ids(conn: Connection, wanted: BatchFilter = EVERYTHING, limit: int = 100, before: int | None = None) -> list[int]:
    return [batch.id for batch in list_batches(conn, wanted, limit, before)]


def test_absent_batch_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound) as caught:
        get_batch(conn, 999)
    assert caught.value.code == "not_found"


def test_batch_shows_its_parameters(conn: Connection) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    batch_id = make_batch(
        conn, name="December", application_id=11, deployment_id=12, end_timestamp=end, max_attempts=3,
        reattempt_wait=300, is_pci=True,
    )  # fmt: skip
    batch = read_batch(conn, batch_id)
    assert (batch.name, batch.application_id, batch.deployment_id) == ("December", 11, 12)
    assert batch.parameters == {
        "start_timestamp": None, "end_timestamp": end, "max_attempts": 3, "reattempt_wait": 300, "is_pci": True,
        "calls_per_minute": None, "calling_hours": None, "calling_days": None, "time_zone": None,
    }  # fmt: skip
    assert batch.due_at == end + timedelta(hours=1)
    assert batch.queued_at is not None and batch.created_at <= batch.queued_at


def test_progress_is_the_share_of_final_calls(conn: Connection) -> None:
    numbers = [phone_number(0), phone_number(1), phone_number(2), phone_number(0), "nobody"]
    batch_id = make_batch(conn, numbers, on_duplicate="skip", on_invalid="skip")
    assert read_batch(conn, batch_id).progress == 0.0
    deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(1), "queued"))
    batch = read_batch(conn, batch_id)
    assert present(batch.counts) == {"rows": 5, "skipped": 2, "pending": 2, "final": 1, "completed": 1}
    assert batch.progress == 0.3333
    deliver(conn, batch_id, *(result_body(phone_number(index)) for index in range(3)))
    assert read_batch(conn, batch_id).progress == 1.0


def test_progress_is_1_if_there_is_no_call(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    batch = read_batch(conn, batch_id)
    assert (present(batch.counts), batch.progress, batch.queued_at) == ({"rows": 1, "refused": 1}, 1.0, None)


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        (["accepted", "accepted"], "queued"),
        (["refused", "refused"], "refused"),
        (["unknown", "unknown"], "unknown"),
        (["accepted", "refused"], "partial"),
        (["refused", "unknown"], "partial"),
    ],
)
def test_state_follows_the_submissions(conn: Connection, answers: list[str], state: str) -> None:
    by_name = {"accepted": replace(ACCEPTED, calls_queued=1), "refused": REFUSED, "unknown": UNKNOWN}
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)], submission_rows=1, send=False)
    assert read_batch(conn, batch_id).state == "queueing"
    answer_submissions(conn, lambda outgoing: by_name[answers[outgoing.submission_no - 1]])
    batch = read_batch(conn, batch_id)
    assert (batch.state, [submission.state for submission in sorted(batch.submissions)]) == (state, answers)
    for submission in batch.submissions:
        expected = by_name[submission.state]
        assert (submission.calls, submission.calls_queued) == (1, expected.calls_queued)
        assert (submission.provider_status, submission.error) == (expected.provider_status, expected.error)


def test_calls_without_a_result_are_overdue_once_they_are_past_due(conn: Connection) -> None:
    numbers = [phone_number(index) for index in range(3)]
    on_time, late = make_batch(conn, numbers), make_batch(conn, numbers, past_due=True)
    for batch_id in (on_time, late):
        deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(1), "dialing"))
    assert present(read_batch(conn, on_time).counts) == {"rows": 3, "pending": 2, "final": 1, "completed": 1}
    assert present(read_batch(conn, late).counts) == {"rows": 3, "overdue": 2, "final": 1, "completed": 1}
    deliver(conn, late, *(result_body(number) for number in numbers))
    assert present(read_batch(conn, late).counts) == {"rows": 3, "final": 3, "completed": 3}


def test_refused_calls_are_never_overdue(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False, past_due=True)
    answer_submissions(conn, lambda _: REFUSED)
    assert present(read_batch(conn, batch_id).counts) == {"rows": 1, "refused": 1}


def test_waiting_callbacks_are_counted_for_their_own_batch(conn: Connection) -> None:
    first, second = make_batch(conn), make_batch(conn)
    journal(conn, make_callback(first), make_callback(first), make_callback(second))
    assert [batch.callbacks["waiting"] for batch in list_batches(conn, EVERYTHING, 10)] == [1, 2]


def test_list_has_the_submissions_of_each_batch_that_need_attention_first(conn: Connection) -> None:
    answers = {5: REFUSED, 110: REFUSED, 120: UNKNOWN}
    long = make_batch(conn, map(phone_number, range(130)), submission_rows=1, send=False)
    answer_submissions(conn, lambda outgoing: answers.get(outgoing.submission_no, ACCEPTED))
    waits = make_batch(conn, [phone_number(0), phone_number(1)], submission_rows=1, send=False)
    found = {batch.id: batch for batch in list_batches(conn, EVERYTHING, 10)}
    numbers = {batch_id: [submission.id for submission in batch.submissions] for batch_id, batch in found.items()}
    assert numbers == {long: [120, 5, 110, 1, 2, 3, 4, *range(6, 99)], waits: [1, 2]}
    assert {batch_id: batch.submissions_total for batch_id, batch in found.items()} == {long: 130, waits: 2}
    assert (found[waits].phase, found[waits].due_at_estimated) == ("scheduled", True)
    assert list(found.values()) == [get_batch(conn, waits), get_batch(conn, long)]


def test_list_has_the_follow_ups_of_each_batch(conn: Connection) -> None:
    numbers = [phone_number(0), phone_number(1)]
    first, other = make_batch(conn, numbers), make_batch(conn, numbers)
    deliver(conn, first, *(result_body(number, "failed") for number in numbers))
    parameters = BatchParameters(7, 3, max_attempts=1)
    second = accept(conn, FollowUp(first), parameters, Limits(10_000, 3600)).batch_id
    answer_submissions(conn)
    deliver(conn, second, result_body(phone_number(1), "failed"))
    third = accept(conn, FollowUp(second), parameters, Limits(10_000, 3600)).batch_id
    found = {batch.id: batch.follow_ups for batch in list_batches(conn, EVERYTHING, 10)}
    assert found == {first: [second], other: [], second: [third], third: []}


def test_filters_combine(conn: Connection) -> None:
    one = make_batch(conn, name="Winter reminders", application_id=1)
    two = make_batch(conn, name="winter follow-up", application_id=1, deployment_id=9)
    three = make_batch(conn, name="100% spring_sale", application_id=2, send=False)
    assert ids(conn) == [three, two, one]
    assert ids(conn, BatchFilter(state="queued")) == [two, one]
    assert ids(conn, BatchFilter(state="queueing")) == [three]
    assert ids(conn, BatchFilter(application_id=1, name="WINTER")) == [two, one]
    assert ids(conn, BatchFilter(application_id=1, deployment_id=9)) == [two]
    assert ids(conn, BatchFilter(application_id=2, name="winter")) == []
    assert ids(conn, BatchFilter(name="0% spring_s")) == [three]
    for wildcard in ("%", "_", "w%r", "w_nter"):
        assert one not in ids(conn, BatchFilter(name=wildcard))


def test_times_of_creation_include_the_first_and_exclude_the_last_moment(conn: Connection) -> None:
    earlier, later = make_batch(conn), make_batch(conn)
    at = [read_batch(conn, batch_id).created_at for batch_id in (earlier, later)]
    assert ids(conn, BatchFilter(created_from=at[1])) == [later]
    assert ids(conn, BatchFilter(created_to=at[1])) == [earlier]
    assert ids(conn, BatchFilter(created_from=at[0], created_to=at[1])) == [earlier]
    assert ids(conn, BatchFilter(created_from=at[1], created_to=at[0])) == []


def test_pages_are_complete_while_batches_are_queued(conn: Connection) -> None:
    made = [make_batch(conn, application_id=1 + number % 2) for number in range(7)]
    seen: list[int] = []
    while page := ids(conn, BatchFilter(application_id=1), 2, before=seen[-1] if seen else None):
        seen += page
        make_batch(conn, application_id=1)
    assert seen == [made[6], made[4], made[2], made[0]]
