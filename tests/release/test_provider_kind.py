"""What was made for the simulator is never sent to a real provider, and the reverse: it waits for its own kind."""

from __future__ import annotations

from datetime import timedelta

import pytest

from receiver.database.pool import Connection
from receiver.release.claim import REASONS, claim_submission
from receiver.release.sender import adopt_batches, note_waiting
from receiver.results.polls import claim_poll, plan_polls
from tests.factories import (
    ACCEPTED,
    answer_submissions,
    differences,
    make_batch,
    make_overdue,
    phone_number,
    read_batch,
)
from tests.queueing.queueing import from_now, record, submission_states

KINDS = pytest.mark.parametrize("simulated", [False, True], ids=["real", "simulated"])


def make_older(conn: Connection, batch_id: int, interval: str) -> None:
    """As if the batch had been made this much earlier."""
    conn.execute(
        "update batch set created_at = created_at - %(age)s::interval, due_at = due_at - %(age)s::interval,"
        " waited_until = waited_until - %(age)s::interval where batch_id = %(batch_id)s",
        {"age": interval, "batch_id": batch_id},
    )
    conn.commit()


def claim_none(conn: Connection, *, simulated: bool) -> None:
    assert claim_submission(conn, 1, simulated=simulated) is None
    conn.commit()


@KINDS
def test_batch_is_sent_to_its_own_kind_of_provider_only(conn: Connection, simulated: bool) -> None:
    batch_id = make_batch(conn, send=False, simulated=simulated)
    claim_none(conn, simulated=not simulated)
    assert submission_states(conn, batch_id) == ["pending"]
    outgoing = claim_submission(conn, 1, simulated=simulated)
    assert outgoing is not None and outgoing.batch_id == batch_id
    conn.commit()
    assert record(conn, outgoing, ACCEPTED) == "accepted"
    assert read_batch(conn, batch_id).simulated is simulated


@KINDS
def test_batch_that_waits_for_its_kind_of_provider_is_never_too_late(conn: Connection, simulated: bool) -> None:
    batch_id = make_batch(conn, send=False, simulated=simulated)
    make_older(conn, batch_id, "2 days")
    claim_none(conn, simulated=not simulated)
    assert submission_states(conn, batch_id) == ["pending"]
    note_waiting(conn, not simulated)
    conn.commit()
    make_older(conn, batch_id, "59 minutes")
    assert claim_submission(conn, 1, simulated=simulated) is not None
    conn.commit()
    due_in = read_batch(conn, batch_id).due_at - from_now()
    assert timedelta(hours=24) < due_in < timedelta(hours=26), "its results are due a day after it was sent"


def test_hour_goes_on_when_its_kind_of_provider_is_back(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False, simulated=True)
    make_older(conn, batch_id, "2 days")
    note_waiting(conn, False)
    make_older(conn, batch_id, "61 minutes")
    claim_none(conn, simulated=True)
    assert submission_states(conn, batch_id) == ["refused"]
    assert read_batch(conn, batch_id).submissions[0].error == REASONS["not_sent_in_time"]
    assert differences(conn) == []


def test_batch_of_the_workers_own_kind_is_not_noted_as_waiting(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    make_older(conn, batch_id, "59 minutes")
    note_waiting(conn, False)
    assert conn.execute("select waited_until from batch").fetchone() == (None,)


@KINDS
def test_window_of_a_batch_that_waits_still_ends(conn: Connection, simulated: bool) -> None:
    batch_id = make_batch(conn, send=False, simulated=simulated, end_timestamp=from_now(hours=1))
    conn.execute("update batch set end_at = now() - interval '1 second'")
    conn.commit()
    claim_none(conn, simulated=not simulated)
    assert submission_states(conn, batch_id) == ["refused"]
    assert read_batch(conn, batch_id).submissions[0].error == REASONS["window_over"]


@KINDS
def test_only_the_kind_of_provider_that_made_a_call_is_asked_about_it(conn: Connection, simulated: bool) -> None:
    make_batch(conn, [phone_number(0)], send=False, simulated=simulated)
    answer_submissions(conn, simulated=simulated)
    make_overdue(conn)
    conn.execute("update submission set answer = %s", ('{"calls_queued": 1, "call_ids": ["1-1"]}',))
    assert plan_polls(conn, simulated=not simulated) is None
    planned = plan_polls(conn, simulated=simulated)
    assert planned is not None and planned.calls == 1
    conn.commit()
    assert claim_poll(conn, 100, simulated=not simulated) is None
    # Polls of the other kind are not even locked: there can be very many, and each worker looks again and again.
    assert conn.execute("select from poll where xmax <> '0'").fetchall() == []
    assert claim_poll(conn, 100, simulated=simulated) is not None


@KINDS
def test_first_worker_decides_the_kind_of_a_batch_that_was_taken_without_a_provider(
    conn: Connection, simulated: bool
) -> None:
    batch_id = make_batch(conn, send=False, simulated=None)
    claim_none(conn, simulated=simulated)
    assert adopt_batches(conn, simulated) and not adopt_batches(conn, not simulated)
    conn.commit()
    claim_none(conn, simulated=not simulated)
    assert claim_submission(conn, 1, simulated=simulated) is not None
    assert read_batch(conn, batch_id).simulated is simulated
