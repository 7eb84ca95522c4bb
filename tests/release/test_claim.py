"""A submission is released once all of its gates are open, and not before."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.changes.audit import SYSTEM
from receiver.changes.events import Events
from receiver.database.pool import Connection, connect
from receiver.queueing.suppressions import digest_of, get_key
from receiver.release.answer import Answer
from receiver.release.claim import REASONS, Outgoing, claim_submission, refuse_unsent
from receiver.release.control import (
    NotCutByZone,
    NothingUnreleased,
    cancel_batch,
    change_batch,
    pause_batch,
    resume_batch,
)
from receiver.release.deployment_cancel import (
    OTHER_KIND,
    abandon_cancels,
    claim_cancel,
    get_cancel,
    give_up_cancel,
    list_affected,
    list_asking,
    record_cancel,
    request_cancel,
)
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.resolution import resolve_submission
from receiver.release.sender import csv_blocks
from receiver.results.erasure import erase
from receiver.summary.batches import Batch, BatchFilter, list_batches, list_decided
from receiver.summary.calls import get_call
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    phone_number,
    present,
    read_batch,
    result_body,
)
from tests.queueing.queueing import NOT_SENT

NUMBERS = [phone_number(index) for index in range(6)]
MINUTE = timedelta(minutes=1)


def zone_at(hour: int) -> str:
    """A zone in which it is about this hour of the day now."""
    ahead = (hour - datetime.now(UTC).hour + 11) % 24 - 11
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"


def claim(conn: Connection) -> Outgoing | None:
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    conn.commit()
    return outgoing


def claimed(conn: Connection) -> Outgoing:
    outgoing = claim(conn)
    assert outgoing is not None
    return outgoing


def record(conn: Connection, outgoing: Outgoing, answer: Answer) -> str | None:
    state = record_answer(conn, outgoing, answer)
    conn.commit()
    return state


def let_pass(conn: Connection, seconds: float) -> None:
    """As though so much time had passed since everything that was released."""
    passed = timedelta(seconds=seconds)
    conn.execute("update batch set next_release_at = next_release_at - %s, last_release_at = last_release_at - %s",
                 (passed, passed))  # fmt: skip
    conn.execute("update submission set released_at = released_at - %s", (passed,))
    conn.commit()


def states(batch: Batch) -> list[str]:
    return [each.state for each in sorted(batch.submissions)]


# Pace


def test_paced_batch_is_released_in_small_slices_that_keep_their_distance(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False, calls_per_minute=40)
    assert [each.calls for each in read_batch(conn, batch_id).submissions] == [2, 2, 2]
    assert claimed(conn).submission_no == 1
    assert claim(conn) is None
    let_pass(conn, 3.1)
    assert claimed(conn).submission_no == 2
    assert claim(conn) is None


def test_slice_is_released_at_the_very_moment(conn: Connection) -> None:
    make_batch(conn, NUMBERS, send=False, calls_per_minute=40)
    worker_id = register_worker(conn, "test", 1)
    conn.execute("update batch set next_release_at = now()")  # in one transaction, in which it stays now
    assert claim_submission(conn, worker_id) is not None


def test_no_minute_gets_more_than_the_pace_even_if_the_gate_is_lost(conn: Connection) -> None:
    make_batch(conn, [phone_number(index) for index in range(30)], send=False, calls_per_minute=20)
    released = 0
    for _ in range(30):
        conn.execute("update batch set next_release_at = null")
        conn.commit()
        released += claim(conn) is not None
    assert released == 20
    let_pass(conn, 61)
    assert claim(conn) is not None


def test_a_clock_that_was_put_back_costs_no_more_than_a_slice(conn: Connection) -> None:
    make_batch(conn, NUMBERS, send=False, calls_per_minute=40)
    assert claim(conn) is not None
    let_pass(conn, -3600)
    assert claim(conn) is not None
    assert claim(conn) is None


# Hours


def test_request_names_a_window_within_the_hours(conn: Connection) -> None:
    hours = (9 * 60, 18 * 60)
    make_batch(conn, NUMBERS, send=False, calling_hours=hours, time_zone=zone_at(12))
    before = datetime.now(UTC)
    outgoing = claimed(conn)
    assert outgoing.start_at is not None and outgoing.end_at is not None
    assert before - MINUTE < outgoing.start_at <= datetime.now(UTC)
    assert timedelta(hours=4) < outgoing.end_at - outgoing.start_at < timedelta(hours=7)
    due = read_batch(conn, outgoing.batch_id).due_at
    assert due == outgoing.end_at + timedelta(hours=1)
    assert differences(conn) == []


def test_closed_hours_hold_back_what_has_these_zones_and_nothing_else(conn: Connection) -> None:
    open_zone, closed_zone = zone_at(12), zone_at(3)
    csv = f"destination,zone\n{NUMBERS[0]},{closed_zone}\n{NUMBERS[1]},{open_zone}\n{NUMBERS[2]},{closed_zone}\n"
    batch_id = queue(conn, csv, calling_hours=(8 * 60, 20 * 60), time_zone_column="zone")
    batch = read_batch(conn, batch_id)
    assert [(each.calls, each.time_zone) for each in batch.submissions] == [(2, closed_zone), (1, open_zone)]
    assert batch.phase == "scheduled"
    # Nobody trusts the time at which they were expected to open.
    conn.execute("update submission set next_try_at = now() - interval '1 minute'")
    conn.commit()
    assert claimed(conn).submission_no == 2
    assert claim(conn) is None
    (opens_at,) = conn.execute("select next_try_at - now() from submission where submission_no = 1").fetchone() or ()
    assert timedelta(hours=3) < opens_at < timedelta(hours=6)


def test_numbers_own_zones_are_found_and_kept_with_the_submission(conn: Connection) -> None:
    csv = "destination\n+16175550000\n+12135550123\n+16175550001\n"
    batch_id = queue(conn, csv, calling_hours=(0, 1440))
    found = [(each.calls, each.time_zone) for each in read_batch(conn, batch_id).submissions]
    assert found == [(2, "America/New_York"), (1, "America/Los_Angeles")]


def test_batch_with_gates_is_held_until_its_start_and_one_without_is_not(conn: Connection) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    held = make_batch(conn, NUMBERS, send=False, calls_per_minute=100, start_timestamp=start)
    sent = make_batch(conn, NUMBERS, send=False, start_timestamp=start)
    assert claimed(conn).batch_id == sent
    assert claim(conn) is None
    batch = read_batch(conn, held)
    assert batch.submissions[0].release_at == start.isoformat().replace("+00:00", "Z")
    assert (batch.phase, batch.due_at_estimated) == ("scheduled", True)


# Pause, resume, cancel


def test_nothing_is_released_while_paused_and_resuming_repeats_nobody(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=2, send=False)
    first = claimed(conn)
    assert pause_batch(conn, batch_id, by="Ana") and not pause_batch(conn, batch_id, by="Ana")
    conn.commit()
    assert claim(conn) is None
    # A request in progress is finished.
    assert record(conn, first, ACCEPTED) == "accepted"
    batch = read_batch(conn, batch_id)
    assert (batch.phase, batch.submissions[1].release_at) == ("paused", None)
    assert resume_batch(conn, batch_id, by="Ana") and not resume_batch(conn, batch_id, by="Ana")
    conn.commit()
    assert [each.submission_no for each in answer_submissions(conn)] == [2, 3]
    assert not pause_batch(conn, batch_id, by="Ana")
    conn.commit()
    assert read_batch(conn, batch_id).phase == "calling"
    actions = conn.execute("select action from audit where batch_id = %s order by audit_id", (batch_id,)).fetchall()
    assert [action for (action,) in actions] == ["queue", "pause", "resume"]


def test_a_pause_is_not_held_against_a_batch(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False)
    pause_batch(conn, batch_id, by="Ana")
    conn.execute("update batch set created_at = created_at - interval '2 days', paused_at = now() - interval '1 day'")
    resume_batch(conn, batch_id, by="Ana")
    conn.commit()
    assert claim(conn) is not None


def test_window_of_a_paused_batch_still_ends(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False, end_timestamp=datetime.now(UTC) + MINUTE)
    pause_batch(conn, batch_id, by="Ana")
    conn.execute("update batch set end_at = now() - interval '1 second'")
    conn.commit()
    assert claim(conn) is None
    (only,) = read_batch(conn, batch_id).submissions
    assert (only.state, only.error_code, only.error) == ("refused", "window_over", REASONS["window_over"])
    assert differences(conn) == []


def test_what_a_worker_of_an_earlier_release_is_claiming_is_not_claimed_again(
    conn: Connection, database_url: str
) -> None:
    """That worker locks only the submission, and not the batch."""
    make_batch(conn, NUMBERS, submission_rows=3, send=False)
    conn.execute("set lock_timeout = '2s'")
    conn.commit()
    with connect(database_url, name="worker of 1.0.0") as earlier:
        earlier.execute(
            "update submission set state = 'sending', worker_id = 99, sent_at = now(), tries = 1"
            " where submission_no = 1"
        )
        assert claimed(conn).submission_no == 2
        assert claim(conn) is None
    assert claim(conn) is None
    assert conn.execute("select worker_id from submission where submission_no = 1").fetchone() == (99,)


def test_submission_that_waits_longest_is_claimed_first(conn: Connection) -> None:
    make_batch(conn, NUMBERS, submission_rows=2, send=False)
    conn.execute(
        "update submission set next_try_at = now() - interval '1 minute' * case submission_no when 2 then 9 else 1 end"
    )
    conn.commit()
    assert [claimed(conn).submission_no for _ in range(3)] == [2, 1, 3]


def test_what_is_being_sent_is_not_refused_as_unsent(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=3, send=False)
    claimed(conn)
    refuse_unsent(conn, batch_id, [1, 2], "window_over", Events())
    assert states(read_batch(conn, batch_id)) == ["sending", "refused"]


def test_short_outage_does_not_count_against_what_was_tried_in_it(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=3, send=False)
    assert record(conn, claimed(conn), NOT_SENT) == "pending"
    assert record(conn, claimed(conn), ACCEPTED) == "accepted"
    # More than an hour later, the rest of the batch was released, and it is the turn of what was tried first.
    conn.execute("update batch set created_at = created_at - interval '2 hours'")
    conn.execute(
        "update submission set sent_at = sent_at - interval '2 hours', next_try_at = next_try_at - interval '1 minute'"
    )
    conn.commit()
    assert claimed(conn).submission_no == 1
    assert "refused" not in states(read_batch(conn, batch_id))


def test_window_ends_even_if_workers_always_have_something_to_send(conn: Connection) -> None:
    ended = make_batch(conn, NUMBERS, send=False, end_timestamp=datetime.now(UTC) + MINUTE)
    conn.execute("update batch set end_at = now() - interval '1 second'")
    conn.commit()
    waiting = make_batch(conn, NUMBERS, send=False)
    assert claim(conn) is None and read_batch(conn, ended).state == "refused"
    assert claimed(conn).batch_id == waiting


def test_refusal_of_one_submission_pauses_the_rest(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=2, send=False)
    assert record(conn, claimed(conn), REFUSED) == "refused"
    batch = read_batch(conn, batch_id)
    assert batch.phase == "paused"
    assert claim(conn) is None
    resume_batch(conn, batch_id, by="Ana")
    conn.commit()
    assert len(answer_submissions(conn)) == 2


def test_cancel_withdraws_what_is_unreleased_and_says_what_continues(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=2, send=False)
    record(conn, claimed(conn), ACCEPTED)
    canceled = cancel_batch(conn, batch_id, by="Ana", note="wrong list")
    conn.commit()
    assert (canceled.withdrawn, canceled.at_provider) == (4, 2)
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.phase, states(batch)) == ("queued", "calling", ["accepted", "withdrawn", "withdrawn"])
    assert present(batch.counts) == {"rows": 6, "withdrawn": 4, "pending": 2}
    assert claim(conn) is None
    assert get_call(conn, batch_id, 6).withdrawn_reason == "canceled"
    again = cancel_batch(conn, batch_id, by="Ana")
    assert (again.withdrawn, again.at_provider) == (0, 2)
    assert differences(conn) == []


def test_batch_that_is_canceled_before_its_first_release_is_canceled(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False, calls_per_minute=40)
    cancel_batch(conn, batch_id, by="Ana")
    conn.commit()
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.phase, batch.progress) == ("canceled", "ended", 1.0)
    assert batch.ended_at is not None


@pytest.mark.parametrize("path", ["not sent", "not queued"])
def test_nothing_of_a_canceled_batch_becomes_pending_again(conn: Connection, path: str) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], send=False)
    outgoing = claimed(conn)
    cancel_batch(conn, batch_id, by="Ana")
    conn.commit()
    if path == "not sent":
        assert record(conn, outgoing, NOT_SENT) == "withdrawn"
    else:
        assert record(conn, outgoing, UNKNOWN) == "unknown"
        assert resolve_submission(conn, batch_id, 1, queued=False, note="not there", by="Ana") == "withdrawn"
        conn.commit()
    batch = read_batch(conn, batch_id)
    assert (batch.state, present(batch.counts)) == ("canceled", {"rows": 2, "withdrawn": 2})
    assert differences(conn) == []
    # The provider has it after all.
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    batch = read_batch(conn, batch_id)
    assert (states(batch), present(batch.counts)) == (
        ["accepted"],
        {"rows": 2, "pending": 1, "final": 1, "completed": 1},
    )
    assert differences(conn) == []


# Suppression at release


def suppress(conn: Connection, number: int, *, erased: bool = False) -> None:
    conn.execute(
        "insert into suppression (phone_number, digest, created_by) values (%s, %s, 'Ana')",
        (None if erased else number, digest_of(get_key(conn), number)),
    )
    conn.commit()


@pytest.mark.parametrize("erased", [False, True])
def test_number_that_was_suppressed_meanwhile_is_left_out(conn: Connection, erased: bool) -> None:
    batch_id = make_batch(conn, NUMBERS[:3], send=False)
    suppress(conn, NUMBERS[1], erased=erased)
    outgoing = claimed(conn)
    sent = b"".join(csv_blocks(conn, outgoing))
    assert sent.decode().split() == ["destination,name", f"{NUMBERS[0]},Ana", f"{NUMBERS[2]},Ana"]
    assert len(sent) == outgoing.csv_bytes
    record(conn, outgoing, ACCEPTED)
    call = get_call(conn, batch_id, 2)
    assert (call.state, call.withdrawn_reason) == ("withdrawn", "suppressed")
    assert present(read_batch(conn, batch_id).counts) == {"rows": 3, "withdrawn": 1, "pending": 2}
    assert differences(conn) == []
    # A result all the same: the call counts as final.
    deliver(conn, batch_id, result_body(NUMBERS[1]))
    assert present(read_batch(conn, batch_id).counts) == {"rows": 3, "pending": 2, "final": 1, "completed": 1}
    assert differences(conn) == []


def test_submission_without_a_call_left_is_withdrawn(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], submission_rows=1, send=False)
    suppress(conn, NUMBERS[0])
    assert claimed(conn).submission_no == 2
    batch = read_batch(conn, batch_id)
    assert states(batch) == ["withdrawn", "sending"]
    assert present(batch.counts) == {"rows": 2, "withdrawn": 1, "pending": 1}
    assert differences(conn) == []


def test_suppressed_number_is_skipped_when_it_is_queued(conn: Connection) -> None:
    suppress(conn, NUMBERS[1])
    batch_id = make_batch(conn, NUMBERS[:3], send=False, on_invalid="refuse")
    assert present(read_batch(conn, batch_id).counts) == {"rows": 3, "skipped": 1, "pending": 2}
    assert conn.execute("select row, code from skipped").fetchall() == [(2, "suppressed")]


# Deployment


def test_canceling_a_deployment_holds_it_and_waits_for_what_is_being_sent(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=2, send=False)
    other = make_batch(conn, NUMBERS[:1], send=False, deployment_id=4)
    outgoing = claimed(conn)
    (affected,) = list_affected(conn, 7, 3)
    assert (affected.id, affected.calls_pending, affected.withdrawn) == (batch_id, 2, 4)
    cancel_id, affected_now = request_cancel(conn, 7, 3, by="Ana", note="stop")
    conn.commit()
    assert affected_now == [affected]
    late = make_batch(conn, NUMBERS[:1], send=False)
    assert claimed(conn).batch_id == other
    assert claim(conn) is None
    worker_id = register_worker(conn, "test", 2)
    assert claim_cancel(conn, worker_id) is None
    record(conn, outgoing, ACCEPTED)
    request = claim_cancel(conn, worker_id)
    assert request is not None and request.state == "asking"
    conn.commit()
    assert claim(conn) is None
    record_cancel(conn, request.cancel_id, Answer("accepted", 202))
    conn.commit()
    assert get_cancel(conn, cancel_id).is_over
    assert claimed(conn).batch_id == late
    assert differences(conn) == []


def test_a_cancellation_that_nobody_can_make_is_given_up(conn: Connection) -> None:
    make_batch(conn, NUMBERS, send=False)
    cancel_id, _ = request_cancel(conn, 7, 3, by="Ana")
    assert give_up_cancel(conn, cancel_id).state == "sending"
    assert claim_cancel(conn, register_worker(conn, "test", 1)) is None


@pytest.mark.parametrize("simulated", [True, False])
def test_provider_is_asked_to_cancel_only_calls_of_its_kind(conn: Connection, simulated: bool) -> None:
    make_batch(conn, NUMBERS, simulated=not simulated)
    cancel_id, _ = request_cancel(conn, 7, 3, by="Ana")
    conn.commit()
    worker_id = register_worker(conn, "test", 1)
    assert claim_cancel(conn, worker_id, simulated=simulated) is None
    request = claim_cancel(conn, worker_id, simulated=not simulated)
    assert request is not None and request.cancel_id == cancel_id
    conn.rollback()
    conn.execute("update deployment_cancel set requested_at = now() - interval '6 seconds'")
    assert claim_cancel(conn, worker_id, simulated=simulated) is None
    ended = get_cancel(conn, cancel_id)
    assert (ended.state, ended.error) == ("refused", OTHER_KIND[simulated])


def test_real_calls_decide_which_provider_is_asked(conn: Connection) -> None:
    make_batch(conn, NUMBERS[:2], simulated=True)
    make_batch(conn, NUMBERS, simulated=False)
    make_batch(conn, NUMBERS, simulated=True, send=False)
    expected = [(0, 0), (6, 0), (0, 6)]
    assert [(each.calls_pending, each.withdrawn) for each in list_affected(conn, 7, 3)] == expected
    _, affected = request_cancel(conn, 7, 3, by="Ana")
    assert [(each.calls_pending, each.withdrawn) for each in affected] == expected
    conn.commit()
    worker_id = register_worker(conn, "test", 1)
    assert claim_cancel(conn, worker_id, simulated=True) is None
    assert claim_cancel(conn, worker_id) is not None


def test_what_is_affected_is_found_without_reading_other_deployments(conn: Connection) -> None:
    make_batch(conn, [phone_number(index) for index in range(200)], submission_rows=1, send=False)
    batch_id = make_batch(conn, NUMBERS, send=False, deployment_id=4)
    conn.execute("analyze")
    conn.commit()
    conn.execute("set local enable_seqscan = off")  # these tables are small
    (affected,) = list_affected(conn, 7, 4)
    assert (affected.id, affected.withdrawn) == (batch_id, len(NUMBERS))
    row = conn.execute(
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'submission'"
    ).fetchone()
    assert row is not None and row[0] < 20


def test_a_cancellation_that_waits_for_what_is_being_sent_delays_no_other(conn: Connection) -> None:
    make_batch(conn, NUMBERS, send=False)
    outgoing = claimed(conn)
    waiting, _ = request_cancel(conn, 7, 3, by="Ana")
    other, _ = request_cancel(conn, 7, 4, by="Ana")
    conn.commit()
    worker_id = register_worker(conn, "test", 2)
    request = claim_cancel(conn, worker_id)
    assert request is not None and request.cancel_id == other
    assert claim_cancel(conn, worker_id) is None
    conn.execute("update deployment_cancel set requested_at = now() - interval '61 seconds'")
    last, _ = request_cancel(conn, 7, 4, by="Ana")
    conn.commit()
    request = claim_cancel(conn, worker_id)
    assert request is not None and request.cancel_id == last
    assert get_cancel(conn, waiting).state == "sending"
    assert record(conn, outgoing, ACCEPTED) == "accepted"


def test_answer_of_a_worker_that_died_is_unknown(conn: Connection) -> None:
    cancel_id, _ = request_cancel(conn, 7, 3, by="Ana")
    worker_id = register_worker(conn, "test", 1)
    assert claim_cancel(conn, worker_id) is not None
    abandon_cancels(conn, list_asking(conn, {worker_id}))
    assert get_cancel(conn, cancel_id).state == "unknown"
    assert claim_cancel(conn, worker_id) is None


# Changes


def test_pace_hours_and_end_of_the_rest_can_be_changed(conn: Connection) -> None:
    csv = f"destination\n{NUMBERS[0]}\n{NUMBERS[1]}\n"
    zone = zone_at(12)
    batch_id = queue(conn, csv, calling_hours=(2 * 60, 4 * 60), time_zone=zone, calls_per_minute=20)
    assert claim(conn) is None
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    change_batch(
        conn, batch_id, {"calling_hours": (8 * 60, 20 * 60), "calls_per_minute": 600, "end_timestamp": end}, by="Ana"
    )
    conn.commit()
    outgoing = claimed(conn)
    assert outgoing.end_at == end
    parameters = read_batch(conn, batch_id).parameters
    assert (parameters["calling_hours"], parameters["calls_per_minute"]) == ("08:00-20:00", 600)


def test_change_of_the_end_moves_the_estimated_due_time(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False, calls_per_minute=60)
    without_end = read_batch(conn, batch_id).due_at
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    for later in (0, 3):
        moved = end + timedelta(hours=later)
        change_batch(conn, batch_id, {"end_timestamp": moved}, by="Ana", grace=timedelta(hours=2))
        batch = read_batch(conn, batch_id)
        assert (batch.due_at, batch.due_at_estimated) == (moved + timedelta(hours=2), True)
    change_batch(conn, batch_id, {"end_timestamp": None}, by="Ana")
    assert abs(read_batch(conn, batch_id).due_at - without_end) < MINUTE


def test_change_of_the_rest_keeps_the_due_time_of_what_was_sent(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, calls_per_minute=60)
    before = read_batch(conn, batch_id)
    assert {each.state for each in before.submissions} == {"accepted", "pending"}
    end = datetime.now(UTC) + timedelta(hours=1)
    change_batch(conn, batch_id, {"end_timestamp": end}, by="Ana")
    assert read_batch(conn, batch_id).due_at.isoformat()[:19] == str(before.submissions[0].due_at)[:19]


def test_changes_that_cannot_be_made_are_refused(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False)
    with pytest.raises(NotCutByZone):
        change_batch(conn, batch_id, {"calling_hours": (0, 600)}, by="Ana")
    conn.rollback()
    cancel_batch(conn, batch_id, by="Ana")
    with pytest.raises(NothingUnreleased):
        change_batch(conn, batch_id, {"calls_per_minute": 60}, by="Ana")
    change_batch(conn, batch_id, {"name": "renamed", "external_id": "crm-1", "labels": {"team": "a"}}, by="Ana")
    conn.commit()
    for wanted in (BatchFilter(external_id="crm-1"), BatchFilter(label=("team", "a")), BatchFilter(phase="ended")):
        (found,) = list_batches(conn, wanted, 10)
        assert (found.id, found.name, found.external_id, found.labels) == (batch_id, "renamed", "crm-1", {"team": "a"})


# The release before

OLD_CLAIM = """update submission set state = 'sending', worker_id = 1, sent_at = now(), tries = tries + 1
    where batch_id = %s and state = 'pending' returning due_at, released_at"""


def test_release_1_0_0_sends_nothing_that_has_gates(conn: Connection) -> None:
    paced = make_batch(conn, NUMBERS, send=False, calls_per_minute=40)
    paused, plain = make_batch(conn, NUMBERS, send=False), make_batch(conn, NUMBERS, send=False)
    pause_batch(conn, paused, by="Ana")
    assert conn.execute(OLD_CLAIM, (paced,)).fetchall() == []
    assert conn.execute(OLD_CLAIM, (paused,)).fetchall() == []
    refuse = "update submission set state = 'refused', error = 'late' where batch_id = %s and state = 'pending'"
    assert conn.execute(refuse, (paced,)).rowcount == 0
    ((due_at, released_at),) = conn.execute(OLD_CLAIM, (plain,)).fetchall()
    assert due_at == read_batch(conn, plain).due_at
    assert released_at is not None


def queue(conn: Connection, csv: str, **parameters: Any) -> int:
    from receiver.queueing.acceptance import Limits, accept
    from receiver.queueing.parameters import BatchParameters

    given = BatchParameters(7, 3, **parameters)
    batch_id = accept(conn, io.BytesIO(csv.encode()), given, Limits(10_000, 3600)).batch_id
    conn.commit()
    return batch_id


def test_nobody_waits_for_what_is_released_later(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False, calls_per_minute=40)
    assert list_decided(conn, [batch_id]) == set()
    outgoing = claimed(conn)
    assert list_decided(conn, [batch_id]) == set()
    record(conn, outgoing, ACCEPTED)
    assert list_decided(conn, [batch_id]) == {batch_id}


def test_number_erased_after_another_was_suppressed_leaves_a_right_length(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:4], send=False)
    suppress(conn, NUMBERS[1])
    record(conn, claimed(conn), UNKNOWN)
    for _ in erase(conn, NUMBERS[2], by=SYSTEM):
        conn.commit()
    resolve_submission(conn, batch_id, 1, queued=False, note="not there", by="Ana")
    conn.commit()
    outgoing = claimed(conn)
    assert len(b"".join(csv_blocks(conn, outgoing))) == outgoing.csv_bytes
    record(conn, outgoing, ACCEPTED)
    assert present(read_batch(conn, batch_id).counts) == {"rows": 4, "refused": 1, "withdrawn": 1, "pending": 2}
    assert differences(conn) == []
