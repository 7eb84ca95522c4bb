"""Overdue batches are reported once."""

from __future__ import annotations

from receiver.database.pool import Connection
from receiver.results.overdue import OverdueBatch, notice_overdue
from tests.factories import deliver, make_batch, phone_number, result_body

NUMBERS = [phone_number(index) for index in range(5)]


def test_overdue_batches_are_reported_once_with_their_counts(conn: Connection) -> None:
    due, done, _ = make_batch(conn, NUMBERS, past_due=True), make_batch(conn, NUMBERS[:1]), make_batch(conn)
    deliver(conn, due, result_body(NUMBERS[0]))
    deliver(conn, done, result_body(NUMBERS[0]))
    conn.execute("update batch set due_at = now() - interval '1 second' where batch_id = %s", (done,))
    assert notice_overdue(conn) == [OverdueBatch(due, overdue=4, calls=5)]
    conn.commit()
    assert notice_overdue(conn) == []
