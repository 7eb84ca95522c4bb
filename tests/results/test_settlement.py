from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import urlencode

import pytest

from receiver.database.pool import Connection
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.results.decision import OTHER_RESULT_WINS, SAME_RESULT, STEP_SUPERSEDED
from tests.factories import (
    ACCEPTED,
    NOON,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    call_fields,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    present,
    purge_batch,
    read_batch,
    result_body,
    settle_all,
    states,
)
from tests.results.reading.samples import form_fields

NUMBER = phone_number(0)
APPLIED = ("applied", None)


def counted(conn: Connection, batch_id: int) -> dict[str, int]:
    """The counts of a batch that are not zero, after a check of its balance and by `verify`."""
    assert differences(conn) == []
    batch = read_batch(conn, batch_id)
    times = {"attempts": batch.attempts, "duration_seconds": batch.duration_seconds}
    return present({**batch.counts, **batch.callbacks, **times})


def quarter_hours(conn: Connection, batch_id: int) -> dict[str, dict[str, int]]:
    found = {}
    for at, *numbers in conn.execute(
        "select at, completed, failed, canceled, attempts, duration_seconds from result_count"
        " where batch_id = %s order by at",
        (batch_id,),
    ):
        names = ("completed", "failed", "canceled", "attempts", "duration_seconds")
        found[at.strftime("%H:%M")] = present(dict(zip(names, numbers, strict=True)))
    conn.commit()
    return found


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("completed", "completed"),
        ("failed", "failed"),
        ("cancelled", "canceled"),
        ("Rejected", "rejected"),
        ("answering_machine", "other"),
    ],
)
def test_first_result_is_applied_and_counted(conn: Connection, status: str, outcome: str) -> None:
    batch_id = make_batch(conn)
    ids = deliver(conn, batch_id, result_body(NUMBER, status, attempts=2, duration=7))
    assert states(conn, ids) == [APPLIED]
    assert counted(conn, batch_id) == {
        "rows": 1, "final": 1, outcome: 1, "received": 1, "applied": 1, "attempts": 2, "duration_seconds": 7
    }  # fmt: skip


def test_waiting_callback_is_counted_as_waiting(conn: Connection) -> None:
    batch_id = make_batch(conn)
    ids = journal(conn, make_callback(batch_id, result_body(NUMBER)), make_callback(batch_id, b"?"))
    assert states(conn, ids) == [("waiting", None)] * 2
    assert counted(conn, batch_id) == {"rows": 1, "pending": 1, "received": 2, "waiting": 2}


@pytest.mark.parametrize(
    ("body", "reason"), [(b" ", "empty"), (b"{", "malformed_json"), (b'{"phone_number": "6175550000"}', "no_status")]
)
def test_body_without_details_is_unreadable(conn: Connection, body: bytes, reason: str) -> None:
    batch_id = make_batch(conn)
    assert states(conn, deliver(conn, batch_id, body)) == [("unreadable", reason)]
    assert counted(conn, batch_id) == {"rows": 1, "pending": 1, "received": 1, "unreadable": 1}


def test_number_that_is_not_in_the_submission_is_unmatched(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)], submission_rows=1)
    assert read_batch(conn, batch_id).counts["rows"] == 2
    ids = deliver(conn, batch_id, result_body(phone_number(1)), result_body(phone_number(99)), submission_no=1)
    ids += deliver(conn, batch_id, result_body(phone_number(1)), submission_no=3)
    assert states(conn, ids) == [("unmatched", "number_not_in_submission")] * 3
    assert counted(conn, batch_id) == {"rows": 2, "pending": 2, "received": 3, "unmatched": 3}


@pytest.mark.parametrize(
    ("written", "echoed"),
    [
        ("16175550000", "6175550000"),
        ("6175550000", "16175550000"),
        ("tel:+16175550000", "'6175550000'"),
        ("(617) 555-0000", "+1 617 555 0000"),
        ("6175550000;postd=2", "tel:+16175550000;ani=8009957586;postd=2"),
        ("6175550000", 16175550000),
    ],
)
def test_leading_one_and_spelling_may_differ_between_csv_and_callback(
    conn: Connection, written: str, echoed: str | int
) -> None:
    batch_id = make_batch(conn, [written])
    ids = deliver(conn, batch_id, json.dumps({**call_fields(0), "phone_number": echoed}).encode())
    assert states(conn, ids) == [APPLIED]
    assert counted(conn, batch_id)["completed"] == 1


def test_number_of_another_country_is_read_with_the_region_of_its_batch(conn: Connection) -> None:
    batch_id = make_batch(conn, ["020 7946 0018"], default_region="GB")
    ids = deliver(conn, batch_id, result_body("02079460018"), result_body("442079460018"), result_body("2079460018"))
    assert states(conn, ids) == [APPLIED, ("duplicate", SAME_RESULT), ("duplicate", SAME_RESULT)]


def test_same_number_in_two_submissions_is_two_calls(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, NUMBER])
    deliver(conn, batch_id, result_body(NUMBER, "failed"), submission_no=1)
    deliver(conn, batch_id, result_body(NUMBER, "completed"), submission_no=2)
    rows = conn.execute("select row, outcome from result where batch_id = %s order by row", (batch_id,)).fetchall()
    assert rows == [(1, "failed"), (2, "completed")]
    assert counted(conn, batch_id)["final"] == 2


def test_duplicate_in_another_format_is_a_duplicate(conn: Connection) -> None:
    batch_id = make_batch(conn)
    fields = call_fields(NUMBER)
    items = "".join(f"<item><event>{e['event']}</event><timestamp>{e['timestamp']}</timestamp></item>" for e in
                    fields["events"])  # fmt: skip
    plain = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items() if name != "events")
    ids = deliver(
        conn,
        batch_id,
        json.dumps(fields).encode(),
        json.dumps({"call_details": {**fields, "attempts": 1, "status": "Completed"}}).encode(),
        urlencode(form_fields(fields)).encode(),
        f"<result>{plain}<events>{items}</events></result>".encode(),
    )
    assert states(conn, ids) == [APPLIED] + [("duplicate", SAME_RESULT)] * 3
    assert counted(conn, batch_id) == {
        "rows": 1, "final": 1, "completed": 1, "received": 4, "applied": 1, "duplicate": 3,
        "attempts": 1, "duration_seconds": 30,
    }  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_conflict_is_won_by_the_later_event_and_counters_follow(conn: Connection, together: bool) -> None:
    batch_id = make_batch(conn)
    bodies = [
        result_body(NUMBER, "completed", last_event=60, attempts=1),
        result_body(NUMBER, "failed", last_event=90, attempts=3),
        result_body(NUMBER, "canceled", last_event=80),
    ]
    callbacks = [
        make_callback(batch_id, body, received_at=NOON + timedelta(minutes=14 + 8 * place))
        for place, body in enumerate(bodies)
    ]
    ids = []
    for callback in callbacks:
        ids += journal(conn, callback)
        if not together:
            settle_all(conn)
    settle_all(conn)
    lost = ("conflict", OTHER_RESULT_WINS)
    assert states(conn, ids) == [lost, APPLIED, lost]
    assert counted(conn, batch_id) == {
        "rows": 1, "final": 1, "failed": 1, "received": 3, "applied": 1, "conflict": 2, "attempts": 3
    }  # fmt: skip
    hours = quarter_hours(conn, batch_id)
    assert hours.pop("12:15") == {"failed": 1, "attempts": 3}
    assert [numbers for numbers in hours.values() if numbers] == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_at_a_tie_the_result_received_first_wins_whichever_is_settled_first(
    conn: Connection, order: tuple[int, int]
) -> None:
    batch_id = make_batch(conn)
    callbacks = [
        make_callback(batch_id, result_body(NUMBER, status), received_at=NOON + timedelta(seconds=second))
        for second, status in enumerate(("failed", "completed"))
    ]
    ids = {}
    for place in order:
        (ids[place],) = journal(conn, callbacks[place])
        settle_all(conn)
    assert states(conn, [ids[0], ids[1]]) == [APPLIED, ("conflict", OTHER_RESULT_WINS)]
    assert counted(conn, batch_id)["failed"] == 1
    assert present(quarter_hours(conn, batch_id)["12:00"]) == {"failed": 1, "attempts": 1}


def test_step_then_final_result(conn: Connection) -> None:
    batch_id = make_batch(conn)
    step = deliver(conn, batch_id, result_body(NUMBER, "dialing", last_event=900))
    assert counted(conn, batch_id) == {"rows": 1, "pending": 1, "received": 1, "applied": 1}
    final = deliver(conn, batch_id, result_body(NUMBER, "failed", last_event=90))
    assert states(conn, step + final) == [("duplicate", STEP_SUPERSEDED), APPLIED]
    assert counted(conn, batch_id) == {
        "rows": 1, "final": 1, "failed": 1, "received": 2, "applied": 1, "duplicate": 1, "attempts": 1
    }  # fmt: skip


def test_step_after_the_final_result_changes_nothing(conn: Connection) -> None:
    batch_id = make_batch(conn)
    ids = deliver(conn, batch_id, result_body(NUMBER, "failed"))
    before = quarter_hours(conn, batch_id)
    ids += deliver(conn, batch_id, result_body(NUMBER, "connected", last_event=900))
    assert states(conn, ids) == [APPLIED, ("duplicate", STEP_SUPERSEDED)]
    assert counted(conn, batch_id)["failed"] == 1
    assert quarter_hours(conn, batch_id) == before


def test_callback_of_a_refused_submission_makes_its_call_final(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)], send=False)
    answer_submissions(conn, lambda _: REFUSED)
    assert counted(conn, batch_id) == {"rows": 2, "refused": 2}
    deliver(conn, batch_id, result_body(NUMBER, "dialing"))
    assert counted(conn, batch_id) == {"rows": 2, "refused": 2, "received": 1, "applied": 1}
    deliver(conn, batch_id, result_body(NUMBER, "failed"))
    assert counted(conn, batch_id) == {
        "rows": 2, "refused": 1, "final": 1, "failed": 1, "received": 2, "applied": 1, "duplicate": 1, "attempts": 1
    }  # fmt: skip
    assert read_batch(conn, batch_id).progress == 1.0


def test_refusal_after_a_result_does_not_change_the_final_call(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)], send=False)
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    assert outgoing is not None
    deliver(conn, batch_id, result_body(NUMBER))
    record_answer(conn, outgoing, REFUSED)
    conn.commit()
    found = counted(conn, batch_id)
    assert (found["refused"], found["final"]) == (1, 1)


@pytest.mark.parametrize("status", ["completed", "dialing"])
def test_callback_proves_that_an_unknown_submission_was_accepted(conn: Connection, status: str) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)], submission_rows=1, send=False)
    answer_submissions(conn, lambda outgoing: UNKNOWN if outgoing.submission_no == 1 else ACCEPTED)
    assert read_batch(conn, batch_id).state == "partial"
    deliver(conn, batch_id, result_body(phone_number(5)), b"?", submission_no=1)
    assert read_batch(conn, batch_id).state == "partial", "none of them names a call of the submission"
    deliver(conn, batch_id, result_body(NUMBER, status), submission_no=1)
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.submissions[0].state, batch.submissions[0].error) == ("queued", "accepted", None)
    assert batch.queued_at is not None
    assert differences(conn) == []


def test_submission_without_an_answer_is_accepted_if_a_callback_came_before(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    assert outgoing is not None
    deliver(conn, batch_id, result_body(NUMBER))
    record_answer(conn, outgoing, UNKNOWN)
    conn.commit()
    assert (read_batch(conn, batch_id).state, read_batch(conn, batch_id).submissions[0].state) == ("queued", "accepted")


def test_callbacks_of_a_purged_batch_are_kept_and_counted(conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(NUMBER))
    purge_batch(conn, batch_id)
    ids = deliver(conn, batch_id, result_body(NUMBER), result_body(NUMBER), b"?")
    assert states(conn, ids) == [("unmatched", "unknown_batch")] * 2 + [("unreadable", "not_recognised")]
    assert differences(conn) == []
    deliver(conn, batch_id, result_body(NUMBER))
    assert conn.execute("select unmatched, unreadable from batch_count").fetchall() == [(3, 1)]


def test_step_does_not_move_the_times_of_first_and_last_result(conn: Connection) -> None:
    batch_id = make_batch(conn)
    bodies = {1: result_body(NUMBER, "queued"), 5: result_body(NUMBER), 9: result_body(NUMBER, "dialing")}
    for minute, body in bodies.items():
        journal(conn, make_callback(batch_id, body, received_at=NOON + timedelta(minutes=minute)))
        settle_all(conn)
        batch = read_batch(conn, batch_id)
        expected = None if minute == 1 else NOON + timedelta(minutes=5)
        assert (batch.first_result_at, batch.last_result_at) == (expected, expected)
        assert differences(conn) == []


def test_times_of_first_and_last_result_span_every_callback_with_a_final_status(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, phone_number(1)])
    bodies = {5: result_body(NUMBER), 9: result_body(NUMBER), 3: result_body(phone_number(1)), 1: b"?"}
    for minute, body in bodies.items():
        journal(conn, make_callback(batch_id, body, received_at=NOON + timedelta(minutes=minute)))
        settle_all(conn)
    batch = read_batch(conn, batch_id)
    expected = NOON + timedelta(minutes=3), NOON + timedelta(minutes=9)
    assert (batch.first_result_at, batch.last_result_at) == expected
    assert differences(conn) == []


@pytest.mark.parametrize("stored", [True, False])
def test_result_whose_body_is_erased_stays_the_result(conn: Connection, stored: bool) -> None:
    batch_id = make_batch(conn)
    ids = deliver(conn, batch_id, result_body(NUMBER, "failed", last_event=900))
    conn.execute("update callback set packing = 0, body = '?'")
    if not stored:  # by release 1.0.0
        conn.execute("update result set last_event_at = null")
    conn.commit()
    ids += deliver(conn, batch_id, result_body(NUMBER))
    assert states(conn, ids) == [APPLIED, ("conflict", OTHER_RESULT_WINS)]
    assert counted(conn, batch_id)["failed"] == 1
    assert differences(conn) == []
