"""Concurrent writers take their locks in one order (`receiver.database.locks`), so that there is no deadlock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from receiver.changes.events import Events
from receiver.database.pool import GAVE_WAY, Connection, connect
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp, follow_up_parameters
from receiver.queueing.suppressions import suppress
from receiver.release import claim as claim_module
from receiver.release.calls import withdraw_rows
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.results import replay as replay_module
from receiver.results.counters import Deltas
from receiver.results.replay import find_settled, replay
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    claim_waiting,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle,
)
from tests.waiting import eventually, waits_for_lock


class Gate:
    """Blocks threads until it is opened."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._open.wait(60)

    def reached(self) -> None:
        assert self._reached.wait(60)

    def open(self) -> None:
        self._open.set()


class Beside:
    """Work in its own transaction and thread. `error`: the exception that ended it."""

    def __init__(self, database_url: str, name: str, work: Callable[[Connection], object]) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            with closing(connect(database_url, name=name)) as conn:
                try:
                    work(conn)
                    conn.commit()
                except GAVE_WAY as error:
                    self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def ended(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.error is None


def send(conn: Connection, submissions: int) -> list[Outgoing]:
    """Submissions of a new batch that are being sent; each has one call, to the number of its index."""
    make_batch(conn, [phone_number(index) for index in range(submissions)], submission_rows=1, send=False)
    worker_id = register_worker(conn, "test", 1)
    sent = [claim_submission(conn, worker_id) for _ in range(submissions)]
    conn.commit()
    return [outgoing for outgoing in sent if outgoing is not None]


def test_replay_and_the_recording_of_an_answer(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = send(conn, 3)
    record_answer(conn, first, ACCEPTED)
    conn.commit()
    batch_id = first.batch_id
    ids = deliver(conn, batch_id, result_body(phone_number(0)), submission_no=1)
    ids += deliver(conn, batch_id, result_body(phone_number(1)), submission_no=2)
    # Its result was received while it was sent, and its answer was lost. Settling the result accepts it.
    conn.execute(
        "update submission set state = 'unknown', answered_at = now() where batch_id = %s and submission_no = %s",
        (batch_id, second.submission_no),
    )
    conn.commit()
    gate, undo = Gate(), replay_module._undo

    def undo_and_wait(*given: object) -> None:
        undo(*given)  # type: ignore[arg-type]
        gate.pass_through()

    monkeypatch.setattr(replay_module, "_undo", undo_and_wait)
    replaying = Beside(database_url, "replay", lambda mine: replay(mine, find_settled(mine, ids=ids)))
    gate.reached()
    answering = Beside(database_url, "answer", lambda mine: record_answer(mine, third, REFUSED))
    eventually(lambda: waits_for_lock(conn, "answer"))
    gate.open()
    replaying.ended()
    answering.ended()
    counts = read_batch(conn, batch_id).counts
    assert (counts["completed"], counts["refused"]) == (2, 1)
    assert differences(conn) == []


@pytest.mark.parametrize("answer", [REFUSED, UNKNOWN, ACCEPTED])
def test_settlement_and_the_recording_of_an_answer(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    sent = send(conn, 2)
    batch_id = sent[0].batch_id
    for place in range(2):
        journal(conn, make_callback(batch_id, result_body(phone_number(place)), submission_no=place + 1))
    gate, write = Gate(), Deltas.write

    def write_and_wait(self: Deltas, mine: Connection, events: Events) -> None:
        gate.pass_through()
        write(self, mine, events)

    monkeypatch.setattr(Deltas, "write", write_and_wait)
    settling = Beside(database_url, "settler", lambda mine: settle(mine, claim_waiting(mine, 10)))
    gate.reached()
    answering = Beside(database_url, "answer", lambda mine: record_answer(mine, sent[1], answer))  # type: ignore[arg-type]
    eventually(lambda: waits_for_lock(conn, "answer"))
    gate.open()
    settling.ended()
    answering.ended()
    assert read_batch(conn, batch_id).counts["completed"] == 2
    assert differences(conn) == []


def make_follow_up(conn: Connection) -> tuple[int, int]:
    """An unreleased follow-up of two failed calls. The first one was answered after all: its callback is stored."""
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)])
    deliver(conn, batch_id, result_body(phone_number(0), "failed"), result_body(phone_number(1), "failed"))
    parameters = follow_up_parameters(conn, batch_id, {})
    followed = accept(conn, FollowUp(batch_id), parameters, Limits(10_000, 3600)).batch_id
    journal(conn, make_callback(batch_id, result_body(phone_number(0), last_event=90)))
    return batch_id, followed


def test_settlement_of_an_answer_and_the_claim_of_its_follow_up(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, followed = make_follow_up(conn)
    worker_id = register_worker(conn, "test", 1)
    conn.commit()
    gate, write = Gate(), Deltas.write

    def write_and_wait(self: Deltas, mine: Connection, events: Events) -> None:
        gate.pass_through()
        write(self, mine, events)

    monkeypatch.setattr(Deltas, "write", write_and_wait)
    settling = Beside(database_url, "settler", lambda mine: settle(mine, claim_waiting(mine, 10)))
    gate.reached()
    assert claim_submission(conn, worker_id) is None
    conn.commit()
    gate.open()
    settling.ended()
    outgoing = claim_submission(conn, worker_id)
    assert outgoing is not None and (outgoing.batch_id, outgoing.withdrawn_calls) == (followed, 1)
    conn.commit()
    assert read_batch(conn, followed).counts["withdrawn"] == 1
    assert differences(conn) == []


def test_claim_of_a_follow_up_and_the_settlement_of_an_answer(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id, followed = make_follow_up(conn)
    suppress(conn, phone_number(1), by="Ana")
    worker_id = register_worker(conn, "test", 1)
    conn.commit()
    gate = Gate()

    def wait_and_withdraw(*given: object) -> int:
        gate.pass_through()
        return withdraw_rows(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(claim_module, "withdraw_rows", wait_and_withdraw)
    claiming = Beside(database_url, "claim", lambda mine: claim_submission(mine, worker_id))
    gate.reached()
    settling = Beside(database_url, "settler", lambda mine: settle(mine, claim_waiting(mine, 10)))
    eventually(lambda: waits_for_lock(conn, "settler"))
    gate.open()
    claiming.ended()
    settling.ended()
    # It was released before it could be withdrawn, without the suppressed call.
    counts = read_batch(conn, followed).counts
    assert (counts["pending"], counts["withdrawn"]) == (1, 1)
    assert read_batch(conn, batch_id).counts["completed"] == 1
    assert differences(conn) == []
