"""What an answer makes of its submission, and that it is taken by its own request only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from receiver.database.pool import Connection
from receiver.queueing.batches import get_now
from receiver.release.answer import Answer
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.recording import Known, next_state
from tests.factories import differences, read_batch
from tests.queueing.queueing import (
    ACCEPTED,
    NOT_SENT,
    REFUSED,
    UNKNOWN,
    batch_state,
    claim,
    contacts_csv,
    from_now,
    queue,
    record,
    submission_states,
)


def refused_rows(conn: Connection) -> list[int]:
    rows = [row for (row,) in conn.execute("select row from outstanding where refused order by row")]
    conn.rollback()
    return rows


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATE = "Nothing was sent. It can be resolved as not queued. "
SENT = Outgoing(1, 1, 1, 1, 3, 0, 1, 3, 60, [], 7, 3, None, None, None, None, False)


@pytest.mark.parametrize(
    ("answer", "tries", "in_doubt", "proven", "state"),
    [
        (ACCEPTED, 1, False, False, "accepted"),
        (ACCEPTED, 1, True, False, "accepted"),
        (REFUSED, 1, False, False, "refused"),
        (REFUSED, 1, False, True, "refused"),  # the provider said no to this very request
        (REFUSED, 2, False, True, "accepted"),  # the results prove the try before
        (UNKNOWN, 1, False, False, "unknown"),
        (UNKNOWN, 1, False, True, "accepted"),
        (NOT_SENT, 1, False, False, "pending"),
        (NOT_SENT, 1, True, False, "unknown"),
        (NOT_SENT, 2, True, True, "accepted"),
    ],
)
def test_next_state_follows_from_the_answer_and_what_is_known(
    answer: Answer, tries: int, in_doubt: bool, proven: bool, state: str
) -> None:
    decided = next_state(replace(SENT, tries=tries), answer, Known(NOW, False, in_doubt, proven))
    assert decided.state == state
    if state == "accepted":
        assert decided.error is None
    elif answer is NOT_SENT and in_doubt:
        assert decided.error == f"{LATE}{NOT_SENT.error}"
    else:
        assert decided.error == answer.error


def test_what_was_not_sent_is_withdrawn_with_its_batch() -> None:
    known = Known(NOW, canceled=True, in_doubt=False, proven=False)
    assert next_state(SENT, NOT_SENT, known).state == "withdrawn"
    assert next_state(SENT, NOT_SENT, replace(known, in_doubt=True)).state == "unknown"


def test_accepted_answer_is_kept_whole(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(3))
    assert record(conn, claim(conn), ACCEPTED) == "accepted"
    row = conn.execute("select state, provider_status, calls_queued, error, answer from submission").fetchone()
    assert row == ("accepted", 200, 3, None, '{"calls_queued": 3}')
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.counts["pending"], batch.counts["refused"]) == ("queued", 3, 0)
    assert batch.queued_at is not None


def test_refusal_leaves_nobody_to_call(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(4), 2)
    first, second = claim(conn), claim(conn)
    assert record(conn, second, REFUSED) == "refused"
    assert refused_rows(conn) == [3, 4]
    assert record(conn, first, REFUSED) == "refused"
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.counts["refused"], batch.counts["pending"], batch.queued_at) == ("refused", 4, 0, None)
    assert [(each.provider_status, each.error) for each in batch.submissions] == [(400, "destination missing")] * 2
    assert differences(conn) == []


def test_unknown_answer_leaves_its_calls_pending(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2))
    assert record(conn, claim(conn), UNKNOWN) == "unknown"
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.counts["pending"]) == ("unknown", 2)
    assert claim_submission(conn, 1) is None


@pytest.mark.parametrize(("tries", "seconds"), [(1, 2), (2, 4), (3, 8), (6, 64), (7, 120), (40, 120)])
def test_what_was_not_sent_is_tried_again_after_a_growing_pause(conn: Connection, tries: int, seconds: int) -> None:
    batch_id = queue(conn, contacts_csv(1))
    conn.execute("update submission set tries = %s", (tries - 1,))
    outgoing, began = claim(conn), get_now(conn)
    assert record(conn, outgoing, NOT_SENT) == "pending"
    row = conn.execute("select next_try_at from submission").fetchone()
    assert row is not None and began <= row[0] - timedelta(seconds=seconds) <= get_now(conn)
    assert batch_state(conn, batch_id) == "queueing"
    assert conn.execute("select error, answered_at from submission").fetchone() == (NOT_SENT.error, None)


def test_next_try_is_a_try_like_the_first(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(1))
    record(conn, claim(conn), NOT_SENT)
    conn.execute("update submission set next_try_at = now()")
    again = claim(conn, 2)
    assert (again.tries, again.worker_id) == (2, 2)
    assert record(conn, again, ACCEPTED) == "accepted"
    assert batch_state(conn, batch_id) == "queued"


def test_provider_out_of_reach_until_the_window_ends_is_a_refusal(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2), end_timestamp=from_now(seconds=60))
    assert record(conn, claim(conn), NOT_SENT) == "pending"
    conn.execute("update batch set end_at = now() - interval '1 second'")
    conn.commit()
    assert claim_submission(conn, 1) is None
    conn.commit()
    assert refused_rows(conn) == [1, 2]
    assert batch_state(conn, batch_id) == "refused"
    assert differences(conn) == []


def test_answer_recorded_twice_counts_once(conn: Connection) -> None:
    queue(conn, contacts_csv(2))
    outgoing = claim(conn)
    assert record(conn, outgoing, REFUSED) == "refused"
    assert record(conn, outgoing, REFUSED) is None
    assert differences(conn) == []


@pytest.mark.parametrize("worker_id, tries", [(2, 1), (1, 2)])
def test_answer_to_another_request_is_not_taken(conn: Connection, worker_id: int, tries: int) -> None:
    batch_id = queue(conn, contacts_csv(1))
    outgoing = claim(conn)
    assert record(conn, replace(outgoing, worker_id=worker_id, tries=tries), ACCEPTED) is None
    assert submission_states(conn, batch_id) == ["sending"]


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([ACCEPTED, ACCEPTED], "queued"),
        ([REFUSED, REFUSED], "refused"),
        ([UNKNOWN, UNKNOWN], "unknown"),
        ([ACCEPTED, REFUSED], "partial"),
        ([ACCEPTED, UNKNOWN], "partial"),
        ([REFUSED, UNKNOWN], "partial"),
        ([ACCEPTED, NOT_SENT], "queueing"),
        ([ACCEPTED, None], "queueing"),
        ([REFUSED, None], "queueing"),
    ],
)
def test_state_of_a_batch_follows_from_its_submissions(
    conn: Connection, answers: list[Answer | None], state: str
) -> None:
    batch_id = queue(conn, contacts_csv(2), 1)
    for outgoing, answer in [(claim(conn), answer) for answer in answers]:
        if answer is not None:
            record(conn, outgoing, answer)
    batch = read_batch(conn, batch_id)
    assert batch.state == state
    assert (batch.queued_at is not None) == (state != "queueing" and ACCEPTED in answers)
    assert differences(conn) == []
