"""A person says what became of a submission whose answer was lost; late answers and callbacks know better."""

from __future__ import annotations

from datetime import timedelta

import pytest

from receiver.database.pool import Connection
from receiver.errors import InvalidInput, NotFound
from receiver.release.answer import Answer
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.resolution import NotInDoubt, list_resolutions, resolve_submission
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    make_overdue,
    phone_number,
    present,
    read_batch,
    result_body,
)

NUMBERS = [phone_number(index) for index in range(3)]
WITH_IDS = Answer("accepted", 200, calls_queued=3, answer_text='{"calls_queued": 3, "call_ids": ["a", "b", "c"]}')


def in_doubt(conn: Connection) -> tuple[int, Outgoing]:
    """A batch whose one submission is unknown, and the try that it is about."""
    batch_id = make_batch(conn, NUMBERS, send=False)
    (outgoing,) = answer_submissions(conn, lambda _: UNKNOWN)
    return batch_id, outgoing


def resolve(conn: Connection, batch_id: int, *, queued: bool) -> str:
    state = resolve_submission(conn, batch_id, 1, queued=queued, note="asked the provider", by="Ana")
    conn.commit()
    return state


def answer_late(conn: Connection, outgoing: Outgoing, answer: Answer) -> str | None:
    state = record_answer(conn, outgoing, answer)
    conn.commit()
    return state


def submission(conn: Connection, batch_id: int) -> tuple[str, int, str | None]:
    """(state, tries, answer)"""
    row = conn.execute("select state, tries, answer from submission where batch_id = %s", (batch_id,)).fetchone()
    conn.commit()
    assert row is not None
    return row


def test_queued_after_all_is_accepted_and_its_results_settle(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    assert resolve(conn, batch_id, queued=True) == "accepted"
    assert read_batch(conn, batch_id).state == "queued"
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    assert read_batch(conn, batch_id).counts["completed"] == 1
    assert differences(conn) == []


def test_not_queued_is_sent_again_as_another_try(conn: Connection) -> None:
    batch_id, first = in_doubt(conn)
    assert resolve(conn, batch_id, queued=False) == "pending"
    assert read_batch(conn, batch_id).state == "queueing"
    (second,) = answer_submissions(conn)
    assert (second.submission_no, second.tries) == (1, first.tries + 1)
    assert read_batch(conn, batch_id).state == "queued"
    assert answer_submissions(conn) == []


def test_note_name_and_the_doubt_itself_are_kept(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    resolve(conn, batch_id, queued=False)
    (kept,) = list_resolutions(conn, batch_id)
    assert (kept.queued, kept.note, kept.resolved_by) == (False, "asked the provider", "Ana")
    assert (kept.submission_no, kept.tries, kept.error, kept.late_state) == (1, 1, UNKNOWN.error, None)


@pytest.mark.parametrize("queued", [True, False])
def test_what_is_not_in_doubt_is_not_resolved(conn: Connection, queued: bool) -> None:
    batch_id = make_batch(conn, NUMBERS)
    with pytest.raises(NotInDoubt, match="accepted"):
        resolve(conn, batch_id, queued=queued)
    conn.rollback()
    with pytest.raises(NotFound):
        resolve_submission(conn, batch_id, 2, queued=queued, note="a", by="b")
    conn.rollback()
    with pytest.raises(NotFound):
        resolve_submission(conn, batch_id + 1, 1, queued=queued, note="a", by="b")


def test_a_decision_needs_a_reason(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    with pytest.raises(InvalidInput):
        resolve_submission(conn, batch_id, 1, queued=True, note=" \0 ", by="Ana")
    assert submission(conn, batch_id)[0] == "unknown"


def test_a_callback_that_proved_it_leaves_nothing_to_resolve(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    with pytest.raises(NotInDoubt, match="accepted"):
        resolve(conn, batch_id, queued=False)


def test_it_is_not_sent_again_where_a_result_stands_already(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    # As it stands where the doubt is written down while the result is being settled.
    conn.execute("update submission set state = 'unknown'")
    conn.commit()
    with pytest.raises(NotInDoubt, match="dial people twice"):
        resolve(conn, batch_id, queued=False)
    conn.rollback()
    assert resolve(conn, batch_id, queued=True) == "accepted"


@pytest.mark.parametrize("answer", [REFUSED, UNKNOWN, Answer("not_sent", error="no connection")])
def test_a_second_try_in_vain_is_accepted_where_callbacks_proved_the_first(conn: Connection, answer: Answer) -> None:
    batch_id, _ = in_doubt(conn)
    resolve(conn, batch_id, queued=False)
    second = claim_submission(conn, register_worker(conn, "test", 2))
    conn.commit()
    assert second is not None
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    assert answer_late(conn, second, answer) == "accepted"
    assert present(read_batch(conn, batch_id).counts) == {"rows": 3, "pending": 2, "final": 1, "completed": 1}
    assert read_batch(conn, batch_id).submissions[0].error is None
    assert differences(conn) == []


@pytest.mark.parametrize("settled", [True, False])
def test_it_is_not_sent_again_while_a_callback_holds_its_token(conn: Connection, settled: bool) -> None:
    batch_id, _ = in_doubt(conn)
    if settled:
        deliver(conn, batch_id, b"not a result")
    else:
        journal(conn, make_callback(batch_id, result_body(NUMBERS[0])))
    with pytest.raises(NotInDoubt, match="dial people twice"):
        resolve(conn, batch_id, queued=False)
    conn.rollback()
    assert submission(conn, batch_id)[0] == "unknown"


def test_a_callback_for_the_first_try_stops_the_second(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    resolve(conn, batch_id, queued=False)
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    assert submission(conn, batch_id)[0] == "accepted"
    assert answer_submissions(conn) == []


def test_a_late_acceptance_stops_the_second_try_and_keeps_its_answer(conn: Connection) -> None:
    batch_id, first = in_doubt(conn)
    resolve(conn, batch_id, queued=False)
    assert answer_late(conn, first, WITH_IDS) == "accepted"
    assert submission(conn, batch_id) == ("accepted", 1, WITH_IDS.answer_text)
    assert answer_submissions(conn) == []
    assert list_resolutions(conn, batch_id)[0].late_state == "accepted"
    assert read_batch(conn, batch_id).state == "queued"


def test_a_late_answer_does_not_overwrite_a_newer_try(conn: Connection) -> None:
    batch_id, first = in_doubt(conn)
    resolve(conn, batch_id, queued=False)
    second = claim_submission(conn, register_worker(conn, "test", 2))
    conn.commit()
    assert second is not None
    assert answer_late(conn, first, WITH_IDS) is None
    assert submission(conn, batch_id) == ("sending", 2, None)
    (kept,) = list_resolutions(conn, batch_id)
    assert (kept.late_state, kept.provider_status) == ("accepted", 200)
    # By another worker than the first, and by the same one: the number of the try decides.
    assert answer_late(conn, second, REFUSED) == "refused"
    assert answer_late(conn, first, WITH_IDS) is None
    assert submission(conn, batch_id)[0] == "refused"


def test_a_late_answer_adds_its_call_ids_to_what_a_person_accepted(conn: Connection) -> None:
    batch_id, first = in_doubt(conn)
    resolve(conn, batch_id, queued=True)
    assert answer_late(conn, first, WITH_IDS) == "accepted"
    assert submission(conn, batch_id) == ("accepted", 1, WITH_IDS.answer_text)


def test_a_late_refusal_outweighs_a_persons_word_but_no_callback(conn: Connection) -> None:
    trusting, first = in_doubt(conn)
    resolve(conn, trusting, queued=True)
    assert answer_late(conn, first, REFUSED) == "refused"
    assert present(read_batch(conn, trusting).counts) == {"rows": 3, "refused": 3}
    proven, first = in_doubt(conn)
    resolve(conn, proven, queued=True)
    deliver(conn, proven, result_body(NUMBERS[0]))
    assert answer_late(conn, first, REFUSED) is None
    assert submission(conn, proven)[0] == "accepted"
    assert differences(conn) == []


@pytest.mark.parametrize("answer", [UNKNOWN, Answer("not_sent", error="no connection")])
@pytest.mark.parametrize("queued", [True, False])
def test_a_late_answer_that_proves_nothing_changes_nothing(conn: Connection, queued: bool, answer: Answer) -> None:
    batch_id, first = in_doubt(conn)
    state = resolve(conn, batch_id, queued=queued)
    assert answer_late(conn, first, answer) is None
    assert submission(conn, batch_id)[0] == state
    assert list_resolutions(conn, batch_id)[0].late_state == answer.state


def test_a_late_answer_to_what_a_callback_proved_is_kept(conn: Connection) -> None:
    batch_id, first = in_doubt(conn)
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    assert answer_late(conn, first, WITH_IDS) == "accepted"
    assert submission(conn, batch_id) == ("accepted", 1, WITH_IDS.answer_text)
    assert answer_late(conn, first, REFUSED) is None


def test_what_cannot_be_dialed_any_more_is_refused(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    conn.execute("update batch set end_at = now() - interval '1 second' where batch_id = %s", (batch_id,))
    assert resolve(conn, batch_id, queued=False) == "refused"
    assert present(read_batch(conn, batch_id).counts) == {"rows": 3, "refused": 3}
    assert answer_submissions(conn) == []
    assert differences(conn) == []


def test_results_of_what_is_sent_again_are_due_later(conn: Connection) -> None:
    batch_id, _ = in_doubt(conn)
    conn.execute("update batch set created_at = created_at - interval '2 days' where batch_id = %s", (batch_id,))
    make_overdue(conn, batch_id)
    before = read_batch(conn, batch_id)
    assert before.counts["overdue"] == 3
    resolve(conn, batch_id, queued=False)
    assert read_batch(conn, batch_id).counts["pending"] == 3
    assert differences(conn) == []
    # An unreachable provider is tried from now on, not from when the batch was made.
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    assert outgoing is not None
    record_answer(conn, outgoing, UNKNOWN)
    conn.commit()
    after = read_batch(conn, batch_id)
    assert after.due_at - before.due_at > timedelta(hours=24)
    assert (after.counts["pending"], after.counts["overdue"]) == (3, 0)


def test_what_is_sent_again_counts_as_never_tried(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], send=False, submission_rows=1)
    answers = iter([ACCEPTED, UNKNOWN])
    answer_submissions(conn, lambda _: next(answers))
    resolve_submission(conn, batch_id, 2, queued=False, note="not there", by="Ana")
    # The senders were busy for hours with what came before.
    conn.execute("update batch set created_at = created_at - interval '3 hours'")
    conn.execute("update submission set sent_at = sent_at - interval '3 hours'")
    conn.execute("update resolution set resolved_at = resolved_at - interval '2 hours'")
    conn.commit()
    (again,) = answer_submissions(conn)
    assert again.submission_no == 2


def test_only_the_submission_in_doubt_is_resolved(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False, submission_rows=1)
    answers = iter([ACCEPTED, UNKNOWN, REFUSED])
    answer_submissions(conn, lambda _: next(answers))
    assert read_batch(conn, batch_id).state == "partial"
    resolve_submission(conn, batch_id, 2, queued=True, note="seen there", by="Ben")
    conn.commit()
    states = {each.id: each.state for each in read_batch(conn, batch_id).submissions}
    assert states == {1: "accepted", 2: "accepted", 3: "refused"}
    assert differences(conn) == []
