from __future__ import annotations

import pytest

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.summary.verify import verify
from tests.factories import (
    REFUSED,
    answer_submissions,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    purge_batch,
    result_body,
)
from tests.feeding import change, give_all


@pytest.fixture
def batch_id(conn: Connection) -> int:
    """A batch with results of each outcome, callbacks in each state, and skipped and refused rows."""
    make_batch(conn)  # another batch, without differences
    numbers = [*(phone_number(index) for index in range(6)), phone_number(0)]
    batch_id = make_batch(conn, numbers, send=False, submission_rows=5, on_duplicate="skip")
    answer_submissions(conn, lambda outgoing: REFUSED)
    statuses = ("completed", "failed", "canceled", "rejected", "busy")
    bodies = [result_body(phone_number(index), status, duration=9) for index, status in enumerate(statuses)]
    deliver(conn, batch_id, *bodies, bodies[0], result_body(phone_number(1), last_event=9), b"?", result_body(99))
    journal(conn, make_callback(batch_id, bodies[0]))
    assert differences(conn) == []
    return batch_id


def tamper(conn: Connection, statement: str, batch_id: int) -> None:
    # Without constraints and keys, so that only `verify` can find the difference.
    conn.execute("alter table batch_count drop constraint if exists balance")
    conn.execute("alter table result drop constraint if exists result_pkey")
    assert conn.execute(statement, (batch_id,)).rowcount > 0
    conn.commit()


@pytest.mark.parametrize(
    "counter",
    ["rows", "skipped", "refused", "completed", "failed", "canceled", "rejected", "other", "applied", "duplicate",
     "conflict", "unmatched", "unreadable", "attempts", "duration_seconds"],
)  # fmt: skip
def test_wrong_counter_is_reported_with_the_right_value(conn: Connection, batch_id: int, counter: str) -> None:
    tamper(conn, f"update batch_count set {counter} = {counter} + 1 where batch_id = %s", batch_id)  # noqa: S608 a name from the list above
    (first, *_) = differences(conn)
    assert (first["batch_id"], first["what"], first["kept"]) == (batch_id, counter, first["counted"] + 1)
    assert differences(conn, batch_id) == differences(conn)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("update batch_count set first_result_at = first_result_at - interval '1 s' where batch_id = %s",
         "first_result_at"),
        ("update batch_count set last_result_at = null where batch_id = %s", "last_result_at"),
        ("update result_count set completed = completed + 1 where batch_id = %s",
         "quarter hours whose counts differ from their results"),
        ("update result_count set at = at + interval '15 minutes' where batch_id = %s",
         "quarter hours whose counts differ from their results"),
        ("delete from result_count where batch_id = %s", "quarter hours whose counts differ from their results"),
        ("delete from result_count where batch_id <> %s + 1000",
         "quarter hours whose counts differ from their results"),
        ("delete from outstanding where batch_id = %s", "calls that are not in exactly one state"),
        ("insert into outstanding values (%s, false, 1)", "calls that are not in exactly one state"),
        ("insert into outstanding values (%s, false, 99)", "outstanding without a call"),
        ("update outstanding set refused = false where batch_id = %s",
         "calls of refused submissions that still expect a result"),
        ("delete from call where row = 1 and batch_id = %s", "results without a call"),
        ("delete from call where row = 6 and batch_id = %s", "submissions with missing calls"),
        ("delete from skipped where batch_id = %s", "skipped"),
        ("delete from callback c using result r where r.callback_id = c.callback_id and r.batch_id = %s",
         "results without their callback"),
        ("update result set callback_id = (select min(callback_id) from callback) where batch_id = %s",
         "callbacks that are the result of two calls"),
        ("delete from waiting where batch_id = %s", "callbacks that are not in exactly one state"),
        ("delete from set_aside where batch_id = %s", "callbacks that are not in exactly one state"),
        ("insert into waiting select callback_id, batch_id, received_at from result where batch_id = %s",
         "callbacks that are not in exactly one state"),
        ("delete from callback c using waiting w where w.callback_id = c.callback_id and w.batch_id = %s",
         "callbacks.received"),
        ("update set_aside set state = 'conflict' where state = 'duplicate' and batch_id = %s", "duplicate"),
        ("update result set outcome = 'failed' where row = 1 and batch_id = %s", "completed"),
        ("update result set attempts = 3 where row = 1 and batch_id = %s", "attempts"),
        ("update batch set state = 'queued' where batch_id = %s", "state"),
        ("update submission set state = 'accepted' where submission_no = 1 and batch_id = %s", "state"),
        ("delete from batch_count where batch_id = %s", "rows"),
    ],
)  # fmt: skip
def test_row_that_contradicts_others_is_reported(conn: Connection, batch_id: int, statement: str, what: str) -> None:
    tamper(conn, statement, batch_id)
    found = differences(conn)
    assert what in [difference["what"] for difference in found]
    assert {difference["batch_id"] for difference in found} == {batch_id}


def test_times_that_count_a_step_as_release_1_did_are_not_a_difference(conn: Connection) -> None:
    batch_id = make_batch(conn)
    for statuses in (["queued"], ["completed", "dialing"]):
        deliver(conn, batch_id, *(result_body(phone_number(0), status) for status in statuses))
        conn.execute(
            "update batch_count set (first_result_at, last_result_at) ="
            " (select min(received_at), max(received_at) from callback)"
        )
        conn.commit()
        assert differences(conn) == []


def test_lost_callback_of_a_purged_batch_is_reported(conn: Connection) -> None:
    purged = make_batch(conn)
    purge_batch(conn, purged)
    journal(conn, make_callback(purged, result_body(phone_number(0))))
    assert differences(conn) == []
    tamper(conn, "delete from waiting where batch_id = %s", purged)
    assert {difference["batch_id"] for difference in differences(conn)} == {purged}


def test_one_batch_can_be_checked_alone(conn: Connection, batch_id: int) -> None:
    tamper(conn, "update batch_count set failed = failed + 1 where batch_id <> %s", batch_id)
    assert differences(conn, batch_id) == []
    assert len(differences(conn)) == 1


def test_absent_batch_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound):
        list(verify(conn, 999))


def test_verify_cannot_write(conn: Connection, batch_id: int) -> None:
    next(verify(conn), None)
    assert conn.execute("show transaction_read_only").fetchone() == ("on",)
    conn.rollback()


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("update endpoint_count set owed = owed + 1", "endpoint 1, slot %s: owed, delivered, given up"),
        ("update endpoint_count set given_up = 1", "endpoint 1, slot %s: owed, delivered, given up"),
        ("delete from endpoint_count", "endpoint 1, slot %s: owed, delivered, given up"),
        ("delete from owed_event", "endpoint 1, slot %s: owed, delivered, given up"),
        ("insert into endpoint_count (endpoint_id, slot, owed) values (1, -1, 1)",
         "endpoint 1, slot -1: owed, delivered, given up"),
        ("update feed set last_position = last_position + 1", "entries of the feed"),
        ("update feed set expired_position = -1", "entries of the feed"),
        ("delete from feed_entry where position = 1", "entries of the feed"),
    ],
)  # fmt: skip
def test_wrong_books_of_the_feed_and_of_endpoints_are_reported(conn: Connection, statement: str, what: str) -> None:
    conn.execute("insert into endpoint (url, events, secret) values ('https://x.test', '{call.result}', 's')")
    for row in (1, 2):
        change(conn, (make_batch(conn), row))
        conn.commit()
        give_all(conn)
    assert differences(conn) == []
    conn.execute(statement.encode())
    slot = conn.execute("select slot_of(now())").fetchall()[0][0]
    (found,) = differences(conn)
    assert (found["batch_id"], found["what"]) == (None, what.replace("%s", str(slot)))
    assert found["kept"] != found["counted"]
