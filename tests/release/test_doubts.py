"""A submission whose request may have been made: what a dead worker left, a late answer, a result that proves it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest

from receiver.database.pool import Connection, connect
from receiver.release.answer import Answer
from receiver.release.presence import find_gone, register_worker
from receiver.release.recording import NOTHING_SENT
from receiver.release.sender import Taken, abandon_submissions, accept_proven_lately, list_taken, release_untold
from tests.factories import (
    claim_waiting,
    deliver,
    differences,
    journal,
    make_callback,
    read_batch,
    result_body,
    settle,
    settle_all,
)
from tests.queueing.queueing import (
    ACCEPTED,
    NOT_SENT,
    REFUSED,
    UNKNOWN,
    batch_state,
    claim,
    contacts_csv,
    number,
    queue,
    record,
    submission_states,
)
from tests.waiting import eventually

NOBODY = 2**31 - 1
"""A worker's id that none has."""


@pytest.mark.parametrize("answer", [ACCEPTED, REFUSED])
def test_late_answer_reaches_the_submission_that_was_abandoned(conn: Connection, answer: Answer) -> None:
    batch_id = queue(conn, contacts_csv(2))
    outgoing = claim(conn, NOBODY)
    assert abandon_submissions(conn, 1) == [(batch_id, 1)]
    conn.commit()
    assert submission_states(conn, batch_id) == ["unknown"]
    assert record(conn, outgoing, answer) == answer.state
    assert differences(conn) == []


def test_doubt_stays_with_a_person_even_where_nothing_was_sent(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2))
    outgoing = claim(conn, NOBODY)
    abandon_submissions(conn, 1)
    conn.commit()
    assert record(conn, outgoing, NOT_SENT) == "unknown"
    error = read_batch(conn, batch_id).submissions[0].error
    assert error is not None and error.startswith(NOTHING_SENT)


def test_only_what_dead_workers_left_is_abandoned(conn: Connection, database_url: str) -> None:
    batch_id = queue(conn, contacts_csv(4), 1)
    with contextlib.closing(connect(database_url, name="worker", autocommit=True)) as presence:
        living = register_worker(presence, "test", 1)
        for worker_id in (NOBODY, living, 1_000_000):
            claim(conn, worker_id)
        assert abandon_submissions(conn, 1_000_000) == [(batch_id, 1)]
        conn.commit()
        assert submission_states(conn, batch_id) == ["unknown", "sending", "sending", "pending"]
    # Its lock ends with its connection.
    until(lambda: abandon_submissions(conn, 1_000_000) == [(batch_id, 2)], conn)
    assert submission_states(conn, batch_id) == ["unknown", "unknown", "sending", "pending"]


def test_worker_that_was_not_gone_before_keeps_what_it_sends(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(1))
    claim(conn, NOBODY)
    assert abandon_submissions(conn, 1, among=set()) == []
    assert find_gone(conn, 1) == {NOBODY}
    assert abandon_submissions(conn, 1, among={NOBODY}) == [(batch_id, 1)]


def until(met: Callable[[], bool], conn: Connection) -> None:
    """The server takes a moment to notice that a connection was closed."""

    def met_now() -> bool:
        conn.rollback()
        return met()

    eventually(met_now)
    conn.commit()


@pytest.mark.parametrize("left_by", ["a dead worker", "an answer that says nothing"])
def test_submission_in_doubt_that_has_a_result_was_accepted(conn: Connection, left_by: str) -> None:
    batch_id = queue(conn, contacts_csv(2))
    outgoing = claim(conn, NOBODY)
    journal(conn, make_callback(batch_id, result_body(number(0))))
    settle_all(conn)
    assert submission_states(conn, batch_id) == ["sending"]
    if left_by == "a dead worker":
        abandon_submissions(conn, 1)
        accept_proven_lately(conn)
        conn.commit()
    else:
        assert record(conn, outgoing, UNKNOWN) == "accepted"
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.submissions[0].state, batch.submissions[0].error) == ("queued", "accepted", None)
    assert differences(conn) == []


def test_result_of_another_submission_proves_nothing(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2), 1)
    record(conn, claim(conn, NOBODY), ACCEPTED)
    doubted = claim(conn, NOBODY)
    deliver(conn, batch_id, result_body(number(0)))
    assert record(conn, doubted, UNKNOWN) == "unknown"
    accept_proven_lately(conn)
    conn.commit()
    assert submission_states(conn, batch_id) == ["accepted", "unknown"]


def test_lost_answer_waits_for_a_result_that_is_being_settled(conn: Connection, database_url: str) -> None:
    batch_id = queue(conn, contacts_csv(1))
    outgoing = claim(conn)
    journal(conn, make_callback(batch_id, result_body(number(0))))
    states: list[str | None] = []
    with contextlib.closing(connect(database_url, name="settler")) as settler:
        settle(settler, claim_waiting(settler, 10))
        recording = threading.Thread(target=lambda: states.append(record(conn, outgoing, UNKNOWN)))
        recording.start()
        eventually(lambda: count_waiting_for_locks(database_url) == 1)
        settler.commit()
    recording.join()
    assert states == ["accepted"], "the result proves it"
    assert batch_state(conn, batch_id) == "queued"


def test_doubt_about_a_submission_that_has_a_result_does_not_last(conn: Connection) -> None:
    """Release 1.0.0 may write it down while a result is being settled."""
    batch_id = queue(conn, contacts_csv(1))
    record(conn, claim(conn), ACCEPTED)
    deliver(conn, batch_id, result_body(number(0)))
    conn.execute("update submission set state = 'unknown', answered_at = now()")
    conn.execute("update batch set state = 'unknown'")
    accept_proven_lately(conn)
    conn.commit()
    assert batch_state(conn, batch_id) == "queued"


def count_waiting_for_locks(database_url: str) -> int:
    with contextlib.closing(connect(database_url, name="observer", autocommit=True)) as observer:
        row = observer.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchone()
    return 0 if row is None else int(row[0])


def test_taken_submission_of_which_its_worker_never_heard_is_released(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(3), 1)
    lost, known = claim(conn, 5), claim(conn, 5)
    claim(conn, 6)
    taken = list_taken(conn, 5)
    assert set(taken) == {Taken(batch_id, 1, 1), Taken(batch_id, 2, 1)}
    release_untold(conn, 5, [each for each in taken if each.submission_no != known.submission_no])
    conn.commit()
    assert submission_states(conn, batch_id) == ["pending", "sending", "sending"]
    assert claim(conn, 6).submission_no == lost.submission_no


def test_submission_taken_anew_is_not_released_for_an_earlier_try(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(1))
    claim(conn, 5)
    release_untold(conn, 5, [Taken(batch_id, 1, 0)])
    conn.commit()
    assert submission_states(conn, batch_id) == ["sending"]
