"""Each event is owed once, by the transaction that causes it."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.database.pool import Connection, open_pool
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp, follow_up_parameters
from receiver.queueing.suppressions import suppress
from receiver.release.claim import claim_submission
from receiver.release.control import cancel_batch
from receiver.release.deployment_cancel import request_cancel
from receiver.release.presence import register_worker
from receiver.release.provider import Got
from receiver.release.recording import record_answer
from receiver.release.resolution import resolve_batch, resolve_submission
from receiver.release.sender import abandon_submissions
from receiver.results import recovery
from receiver.results.erasure import erase
from receiver.results.overdue import mark_overdue
from receiver.results.polls import Poll
from receiver.results.replay import find_settled, replay
from receiver.results.settler import Settler
from tests.changes.owed import Owed, make_endpoint
from tests.factories import (
    REFUSED,
    UNKNOWN,
    answer_submissions,
    claim_waiting,
    deliver,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    settle,
)

NUMBERS = [phone_number(index) for index in range(2)]
ENDED = ("batch.ended", 1, None)
BAD_AND_GOOD = [(0, "bad"), (1, "completed")]


@pytest.fixture
def owed(conn: Connection) -> Owed:
    return Owed(conn)


def test_result_is_owed_when_it_is_settled_or_changed(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0], "dialing"))
    assert owed.check() == []
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"))
    assert owed.check() == [("call.result", batch_id, 1)]
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"), result_body(NUMBERS[0], last_event=50))
    assert owed.check() == [], "the same result again, and one that does not win"
    deliver(conn, batch_id, result_body(NUMBERS[0], last_event=70), result_body(phone_number(5)))
    assert owed.check() == [("call.result", batch_id, 1)]
    (callback_id,) = deliver(conn, batch_id, b"?")
    assert owed.check() == [("callback.unreadable", batch_id, callback_id)]
    deliver(conn, batch_id, result_body(NUMBERS[1]))
    assert owed.check() == [ENDED, ("call.result", batch_id, 2)]


def test_settlement_that_is_rolled_back_owes_nothing(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn)
    journal(conn, make_callback(batch_id, result_body(NUMBERS[0])))
    settle(conn, claim_waiting(conn, 10))
    conn.rollback()
    assert owed.check() == []
    settle(conn, claim_waiting(conn, 10))
    conn.commit()
    assert owed.check() == [ENDED, ("call.result", batch_id, 1)]


def test_callback_that_cannot_be_settled_is_owed_once_and_the_others_too(
    conn: Connection, owed: Owed, database_url: str
) -> None:
    batch_id = make_batch(conn, NUMBERS)
    bad, _ = journal(
        conn, *(make_callback(batch_id, result_body(NUMBERS[place], status)) for place, status in BAD_AND_GOOD)
    )
    conn.execute(
        "create function fail() returns trigger language plpgsql as $$ begin raise 'made to fail'; end $$;"
        " create trigger fail before insert on result for each row when (new.provider_status = 'bad')"
        " execute function fail()"
    )
    conn.commit()
    pool = open_pool(database_url, max_size=2, name="settler")
    settler = Settler(pool)
    assert sum(settler.settle_group() for _ in range(5)) == 2, "one after the other"
    pool.close()
    assert owed.check() == [("call.result", batch_id, 2), ("callback.unreadable", batch_id, bad)]


def test_fetched_result_is_owed(conn: Connection, owed: Owed, database_url: str) -> None:
    batch_id = make_batch(conn)
    poll = Poll(batch_id, 1, 1, "1", 1)
    conn.execute("insert into poll (batch_id, submission_no, row, call_id) values (%s, 1, 1, '1')", (batch_id,))
    conn.commit()
    pool = open_pool(database_url, max_size=1, name="poller")
    got = Got(200, "application/json", result_body(NUMBERS[0]))
    assert recovery._settle_answer(pool, poll, got, ()) == (poll, "result", "")
    pool.close()
    assert owed.check() == [ENDED, ("call.result", batch_id, 1)]


def test_replay_owes_only_what_it_changes(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn, [*NUMBERS, phone_number(2)])
    *_, lost, unread = deliver(conn, batch_id, *map(result_body, NUMBERS), result_body(phone_number(2)), b"?")
    owed.check()
    replay(conn, find_settled(conn))
    assert owed.check() == [], "nothing changed"
    conn.execute("update callback set packing = 0, body = '?' where callback_id = %s", (lost,))
    conn.execute(
        "update callback set packing = 0, body = %s where callback_id = %s",
        (result_body(NUMBERS[1], "failed", last_event=90), unread),
    )
    conn.commit()
    replay(conn, find_settled(conn))
    conn.rollback()
    assert owed.check() == [], "a dry run"
    replay(conn, find_settled(conn))
    expected = [("call.result", batch_id, 2), ("call.result", batch_id, 3), ("callback.unreadable", batch_id, lost)]
    assert owed.check() == expected
    replay(conn, find_settled(conn))
    assert owed.check() == []


def test_batch_ends_again_if_a_replay_finds_the_result_that_was_missing(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn)
    (callback_id,) = deliver(conn, batch_id, b"?")
    owed.check()
    conn.execute("update callback set packing = 0, body = %s", (result_body(NUMBERS[0]),))
    conn.commit()
    replay(conn, [(batch_id, callback_id)])
    assert owed.check() == [ENDED, ("call.result", batch_id, 1)]


def test_overdue_batch_is_owed_once(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=1)
    for submission_no in (1, 2):
        conn.execute("update submission set due_at = now() where submission_no = %s", (submission_no,))
        conn.commit()
        mark_overdue(conn)
        assert owed.check() == [("batch.overdue", batch_id, None)][: 2 - submission_no]


def test_answers_are_owed(conn: Connection, owed: Owed) -> None:
    refused = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    assert owed.check() == [("batch.ended", refused, None), ("batch.refused", refused, None),
                            ("submission.refused", refused, 1)]  # fmt: skip
    unknown = make_batch(conn, NUMBERS, submission_rows=1, send=False)
    sent, _ = answer_submissions(conn, lambda sent: UNKNOWN if sent.submission_no == 1 else REFUSED)
    assert owed.check() == [("submission.refused", unknown, 2), ("submission.unknown", unknown, 1)]
    record_answer(conn, sent, UNKNOWN)
    assert owed.check() == [], "it was unknown before"
    resolve_submission(conn, unknown, 1, queued=False, note="asked", by="Ana")
    assert owed.check() == []
    record_answer(conn, sent, REFUSED)
    assert owed.check() == [("batch.ended", unknown, None), ("batch.refused", unknown, None),
                            ("submission.refused", unknown, 1)]  # fmt: skip


def test_submission_of_a_dead_worker_is_owed(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn, send=False)
    assert claim_submission(conn, register_worker(conn, "test", 1)) is not None
    # Its lock is free, as when its connection is closed.
    conn.execute("select pg_advisory_unlock_all()")
    conn.commit()
    assert abandon_submissions(conn, 0) == [(batch_id, 1)]
    assert owed.check() == [("submission.unknown", batch_id, 1)]
    assert abandon_submissions(conn, 0) == []
    assert owed.check() == []


@pytest.mark.parametrize("ended", ["end_at = now()", "created_at = created_at - interval '2 hours'"])
def test_submissions_that_were_not_sent_in_time_are_owed(conn: Connection, owed: Owed, ended: str) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=1, send=False)
    conn.execute(f"update batch set {ended}")  # noqa: S608 from the list above
    conn.commit()
    claim_submission(conn, 1)
    assert owed.check() == [("batch.ended", batch_id, None), ("batch.refused", batch_id, None),
                            ("submission.refused", batch_id, 1), ("submission.refused", batch_id, 2)]  # fmt: skip


@pytest.mark.parametrize("over", [True, False])
def test_resolution_is_owed_if_it_refuses(conn: Connection, owed: Owed, over: bool) -> None:
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    owed.check()
    if over:
        conn.execute("update batch set end_at = now()")
        conn.commit()
    resolve_batch(conn, batch_id, queued=not over, note="asked", by="Ana")
    refused = ["batch.ended", "batch.refused", "submission.refused"]
    assert [event for event, *_ in owed.check()] == (refused if over else [])


def test_cancellation_is_owed_once(conn: Connection, owed: Owed) -> None:
    sent = make_batch(conn)
    unsent = [make_batch(conn, send=False) for _ in range(3)]
    for _ in range(2):
        cancel_batch(conn, unsent[0], by="Ana")
    assert owed.check() == [("batch.canceled", unsent[0], None), ("batch.ended", unsent[0], None)]
    request_cancel(conn, 7, 3, by="Ana")
    canceled = [("batch.canceled", each, None) for each in (sent, *unsent[1:])]
    assert owed.check() == [*canceled, *(("batch.ended", each, None) for each in unsent[1:])]


def test_withdrawal_that_ends_a_batch_is_owed(conn: Connection, owed: Owed) -> None:
    suppressed = make_batch(conn, send=False)
    suppress(conn, NUMBERS[0], by="Ana")
    conn.commit()
    claim_submission(conn, 1)
    assert owed.check() == [("batch.ended", suppressed, None)]


def test_answer_that_ends_the_follow_up_is_owed(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"))
    accepted = accept(conn, FollowUp(batch_id), follow_up_parameters(conn, batch_id, {}), Limits(10_000, 3600))
    owed.check()
    deliver(conn, batch_id, result_body(NUMBERS[0], last_event=90))
    assert owed.check() == [("batch.ended", accepted.batch_id, None), ("call.result", batch_id, 1)]


def test_erasure_that_ends_a_batch_is_owed(conn: Connection, owed: Owed) -> None:
    with_result = make_batch(conn, NUMBERS[1:])
    deliver(conn, with_result, result_body(NUMBERS[1]))
    batch_id = make_batch(conn, send=False)
    owed.check()
    for number in NUMBERS:
        for _ in erase(conn, number, by="Ana"):
            conn.commit()
    assert owed.check() == [("batch.ended", batch_id, None), ("batch.refused", batch_id, None),
                            ("submission.refused", batch_id, 1)]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"events": ["batch.ended"]}, {"batch.ended"}),
        ({"application_id": 7}, {"batch.ended", "call.result"}),
        ({"application_id": 8}, set()),
        ({"deployment_id": 3, "events": ["call.result"]}, {"call.result"}),
        ({"deployment_id": 4}, set()),
        ({"label_name": "team", "label_value": "b"}, {"batch.ended", "call.result"}),
        ({"label_name": "team", "label_value": "c"}, set()),
        ({"label_name": "b", "label_value": "team"}, set()),
        ({"disabled_at": "now", "disabled_reason": "user"}, {"batch.ended", "call.result"}),
    ],
)
def test_endpoint_is_owed_what_it_wants(conn: Connection, columns: dict[str, Any], wanted: set[str]) -> None:
    endpoint_id = make_endpoint(conn, **columns)
    batch_id = make_batch(conn, labels=(("team", "b"),))
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    found = conn.execute("select event, batch_id from owed_event where endpoint_id = %s", (endpoint_id,)).fetchall()
    assert sorted(found) == [(event, batch_id) for event in sorted(wanted)]
    counted = conn.execute("select owed from endpoint_count where endpoint_id = %s", (endpoint_id,)).fetchall()
    assert counted == [(len(wanted),)] * bool(wanted)
