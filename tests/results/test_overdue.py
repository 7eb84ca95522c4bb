"""Calls without a result are counted as overdue once their submission is due, and reported once for each batch."""

from __future__ import annotations

from receiver.database.pool import Connection
from receiver.results.overdue import OverdueBatch, mark_overdue
from tests.factories import (
    answer_submissions,
    deliver,
    differences,
    make_batch,
    make_overdue,
    phone_number,
    read_batch,
    result_body,
)

NUMBERS = [phone_number(index) for index in range(5)]


def make_due(conn: Connection, batch_id: int, submission_no: int) -> None:
    conn.execute(
        "update submission set due_at = now() - interval '1 second' where batch_id = %s and submission_no = %s",
        (batch_id, submission_no),
    )


def test_overdue_batches_are_reported_once_with_their_counts(conn: Connection) -> None:
    due, done, _ = make_batch(conn, NUMBERS), make_batch(conn, NUMBERS[:1]), make_batch(conn)
    deliver(conn, due, result_body(NUMBERS[0]))
    deliver(conn, done, result_body(NUMBERS[0]))
    for batch_id in (due, done):
        make_due(conn, batch_id, 1)
    assert mark_overdue(conn) == [OverdueBatch(due, overdue=4, calls=5)]
    conn.commit()
    assert mark_overdue(conn) == []
    conn.commit()
    assert read_batch(conn, due).counts["overdue"] == 4
    assert differences(conn) == []


def test_each_submission_is_overdue_at_its_own_time(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, submission_rows=2, send=False, calls_per_minute=40)
    for _ in range(2):
        conn.execute("update batch set next_release_at = null")
        conn.commit()
        answer_submissions(conn)
    make_due(conn, batch_id, 1)
    assert [each.overdue for each in mark_overdue(conn)] == [2]
    conn.commit()
    batch = read_batch(conn, batch_id)
    assert (batch.counts["overdue"], batch.counts["pending"], batch.phase) == (2, 3, "releasing")
    # The next one belongs to a batch that is known to be overdue.
    make_due(conn, batch_id, 2)
    assert mark_overdue(conn) == []
    conn.commit()
    assert read_batch(conn, batch_id).counts["overdue"] == 4
    assert differences(conn) == []


def test_what_is_unreleased_is_never_overdue(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    make_overdue(conn, batch_id)
    assert read_batch(conn, batch_id).counts["pending"] == 1


def test_overdue_calls_wait_while_a_worker_of_the_earlier_release_lives(conn: Connection) -> None:
    batch_id = make_batch(conn)
    conn.execute("insert into worker (host, pid) values ('old', 1)")
    make_overdue(conn, batch_id)
    assert read_batch(conn, batch_id).counts["pending"] == 1
    conn.execute("update worker set seen_at = now() - interval '2 minutes'")
    make_overdue(conn, batch_id)
    assert read_batch(conn, batch_id).counts["overdue"] == 1
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    assert read_batch(conn, batch_id).counts["overdue"] == 0
    assert differences(conn) == []
