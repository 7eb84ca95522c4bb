"""Calls without a result are counted as overdue once their submission is due, and reported once for each batch."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from receiver.config import Config
from receiver.database.pool import Connection, connect, open_pool
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.provider import Provider
from receiver.release.recording import record_answer
from receiver.results import overdue
from receiver.results.maintenance import OVERDUE_CHECK_SECONDS, Maintenance
from receiver.results.overdue import OverdueBatch, mark_overdue
from tests.factories import (
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    make_overdue,
    phone_number,
    present,
    read_batch,
    result_body,
)
from tests.waiting import eventually, waits_for_lock

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
    assert mark_overdue(conn) == ([OverdueBatch(due, overdue=4, calls=5)], False)
    conn.commit()
    assert mark_overdue(conn) == ([], False)
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
    assert [each.overdue for each in mark_overdue(conn)[0]] == [2]
    conn.commit()
    batch = read_batch(conn, batch_id)
    assert (batch.counts["overdue"], batch.counts["pending"], batch.phase) == (2, 3, "releasing")
    # The next one belongs to a batch that is known to be overdue.
    make_due(conn, batch_id, 2)
    assert mark_overdue(conn) == ([], False)
    conn.commit()
    assert read_batch(conn, batch_id).counts["overdue"] == 4
    assert differences(conn) == []


def make_three_due(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> int:
    """A batch of three due submissions with a call each. One check marks at most two."""
    monkeypatch.setattr(overdue, "MOST_AT_ONCE", 2)
    batch_id = make_batch(conn, NUMBERS[:3], submission_rows=1)
    conn.execute("update submission set due_at = now() - interval '1 second'")
    conn.commit()
    return batch_id


def test_overdue_calls_that_are_refused_after_all_are_overdue_no_longer(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False)
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    assert outgoing is not None and record_answer(conn, outgoing, UNKNOWN) == "unknown"
    conn.commit()
    make_overdue(conn)
    assert read_batch(conn, batch_id).counts["overdue"] == 5
    assert record_answer(conn, outgoing, REFUSED) == "refused"
    conn.commit()
    assert present(read_batch(conn, batch_id).counts) == {"rows": 5, "refused": 5}
    assert differences(conn) == []


def test_check_is_repeated_at_once_while_more_submissions_are_due(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_three_due(conn, monkeypatch)
    config = Config(data_dir=Path("/nowhere"), public_url="", port=1)
    with closing(open_pool(database_url, max_size=1, name="test")) as pool:
        maintenance = Maintenance(pool, Provider("http://127.0.0.1:1", "user", "key"), config, threading.Event())
        assert maintenance.check_overdue() == 0
        assert maintenance.check_overdue() == OVERDUE_CHECK_SECONDS
    assert read_batch(conn, batch_id).counts["overdue"] == 3
    assert differences(conn) == []


def test_worker_that_waited_for_another_marks_what_that_left(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_three_due(conn, monkeypatch)

    def check() -> None:
        with closing(connect(database_url, name="other worker")) as other:
            mark_overdue(other)
            other.commit()

    mark_overdue(conn)
    thread = threading.Thread(target=check)
    thread.start()
    with closing(connect(database_url, name="test")) as looker:
        eventually(lambda: waits_for_lock(looker, "other worker"))
    conn.commit()
    thread.join()
    assert read_batch(conn, batch_id).counts["overdue"] == 3


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
