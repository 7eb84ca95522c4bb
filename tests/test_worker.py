"""The worker with a provider that answers, refuses, is silent or returns, and after a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from receiver import worker as worker_module
from receiver.database.pool import Connection, connect
from receiver.release import recording
from receiver.release.deployment_cancel import get_cancel, request_cancel
from receiver.release.presence import find_gone, hold_worker_lock, register_worker
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.supervisor.ports import free_port
from receiver.worker import SENDERS
from tests.factories import differences, journal, make_callback, read_batch, result_body
from tests.queueing.queueing import batch_state, claim, contacts_csv, from_now, number, queue, submission_states
from tests.release.provider_server import Server, Thinking, answering, hold, http, read_request, serving
from tests.simulator.receiving import ask
from tests.waiting import eventually
from tests.workers import (
    LOGIN,
    ROOT,
    SECRET,
    await_state,
    lock_holders,
    running_simulator,
    running_worker,
    times_queued,
    token,
)

NOBODY_LISTENS = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter intervals, so that no test waits for seconds."""
    monkeypatch.setattr(worker_module, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "SEND_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(worker_module, "ERROR_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(recording, "FIRST_WAIT_SECONDS", 0.1)


def test_every_submission_is_sent_once_and_accepted(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(25), 4, end_timestamp=from_now(hours=2), max_attempts=2, reattempt_wait=60)
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        await_state(conn, batch_id, "queued")
        assert times_queued(simulator) == [1] * 7
        requests = ask(f"{simulator.url}/simulator/ledger").content["requests"]
    assert {each["result_url"].encode() for each in requests} == {
        b"https://calls.example.com/results/" + token(batch_id, submission_no) for submission_no in range(1, 8)
    }
    assert [each.calls_queued for each in read_batch(conn, batch_id).submissions] == [4] * 6 + [1]


def test_worker_warns_of_calls_that_the_provider_did_not_queue(
    database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = queue(conn, b"destination\n6175550001\n[617] 555 0002\n")
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        await_state(conn, batch_id, "queued")
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert any(message.endswith("calls_queued 1 of 2") for message in warned), warned


def test_request_contains_the_parameters_of_the_batch(database_url: str, conn: Connection) -> None:
    start, end = from_now(hours=1), from_now(hours=2)
    rules: dict[str, Any] = {"start_timestamp": start, "end_timestamp": end, "max_attempts": 2, "reattempt_wait": 90}
    batch_id = queue(conn, contacts_csv(2), is_pci=True, **rules)
    with answering(http(200, b'{"calls_queued": 2}')) as provider, running_worker(database_url, provider.url):
        await_state(conn, batch_id, "queued")
    (request,) = provider.requests
    assert request.startswith(b"POST /api/apps/7/3/bulk_queue HTTP/1.1\r\n")
    for name, value in {
        "start_timestamp": int(start.timestamp()),
        "end_timestamp": int(end.timestamp()),
        "max_attempts": 2,
        "reattempt_wait": 90,
        "is_pci": 1,
        "result_url": f"https://calls.example.com/results/{token(batch_id).decode()}",
    }.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in request
    assert b"\r\n\r\ndestination,name\r\n6175550000,name 0\r\n6175550001,name 1\r\n\r\n--" in request


def test_refusal_of_the_provider_is_stored_with_its_message(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(3))
    with (
        answering(http(409, b'{"error": "deployment was deleted"}')) as provider,
        running_worker(database_url, provider.url),
    ):
        await_state(conn, batch_id, "refused")
    batch = read_batch(conn, batch_id)
    assert (batch.submissions[0].provider_status, batch.submissions[0].error) == (409, "deployment was deleted")
    assert batch.counts["refused"] == 3
    assert len(provider.requests) == 1


@pytest.mark.parametrize("answer", [http(500, b'{"error": "database error"}'), http(200, b"<html>"), b""])
def test_request_with_an_unclear_answer_is_never_repeated(database_url: str, conn: Connection, answer: bytes) -> None:
    batch_id, other = queue(conn, contacts_csv(3)), queue(conn, contacts_csv(2))
    with answering(answer) as provider, running_worker(database_url, provider.url):
        await_state(conn, batch_id, "unknown")
        await_state(conn, other, "unknown")
        further = queue(conn, contacts_csv(1))
        await_state(conn, further, "unknown")
    assert len(provider.requests) == 3
    assert provider.connections == 3


def test_silent_provider_makes_a_submission_unknown(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(3))
    with serving(hold) as provider, running_worker(database_url, provider.url, read_timeout=0.3):
        await_state(conn, batch_id, "unknown")
    assert provider.connections == 1


def test_results_before_the_answer_prove_that_the_submission_was_accepted(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2))
    with (
        running_simulator(timeout_after_acceptance=1) as simulator,
        running_worker(database_url, simulator.url, read_timeout=1.5),
    ):
        eventually(lambda: times_queued(simulator) == [1])
        journal(conn, make_callback(batch_id, result_body(number(0))), make_callback(batch_id, result_body(number(1))))
        await_state(conn, batch_id, "queued")
        assert times_queued(simulator) == [1]
    assert read_batch(conn, batch_id).counts["completed"] == 2
    assert differences(conn) == []


def test_unreachable_provider_is_tried_until_it_answers(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2))
    port = free_port()
    with running_worker(database_url, f"http://127.0.0.1:{port}"):
        eventually(lambda: tries(conn) > 1)
        assert submission_states(conn, batch_id)[0] in ("pending", "sending")
        with Simulator(Settings(port=port, check=False)) as simulator:
            await_state(conn, batch_id, "queued")
            assert times_queued(simulator) == [1]


def tries(conn: Connection) -> int:
    row = conn.execute("select max(tries) from submission").fetchone()
    conn.rollback()
    assert row is not None
    return int(row[0])


def test_provider_unreachable_until_the_end_is_a_refusal(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2), end_timestamp=from_now(hours=1))
    with running_worker(database_url, NOBODY_LISTENS):
        eventually(lambda: tries(conn) > 0 and submission_states(conn, batch_id) == ["pending"])
        conn.execute("update batch set end_at = now()")
        conn.commit()
        await_state(conn, batch_id, "refused")
    batch = read_batch(conn, batch_id)
    assert batch.counts["refused"] == 2
    assert batch.submissions[0].error is not None
    assert "nothing was sent" in batch.submissions[0].error


def test_callbacks_are_settled(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(700))
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        journal(conn, *(make_callback(batch_id, result_body(number(index))) for index in range(600)))
        eventually(lambda: read_batch(conn, batch_id).counts["final"] == 600)
    assert differences(conn) == []


def test_claim_whose_commit_was_not_confirmed_is_released_and_sent(database_url: str, conn: Connection) -> None:
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        batch_id = queue(conn, contacts_csv(2), start_timestamp=from_now(hours=1))
        # The state after the connection broke while the server committed.
        conn.execute(
            "update submission set state = 'sending', tries = 1, worker_id = (select worker_id from worker)"
            " where batch_id = %s and state = 'pending'",
            (batch_id,),
        )
        conn.commit()
        await_state(conn, batch_id, "queued")
        assert times_queued(simulator) == [1]


def test_lost_database_connections_are_replaced_and_nothing_is_sent_twice(database_url: str, conn: Connection) -> None:
    batch_ids = [queue(conn, contacts_csv(20), 2) for _ in range(4)]
    stop = time.monotonic() + 1.5
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        while time.monotonic() < stop:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name like 'receiver %'"
            )
            conn.commit()
            time.sleep(0.05)
        batch_ids += [queue(conn, contacts_csv(1))]
        for batch_id in batch_ids:
            await_state(conn, batch_id, "queued")
        assert times_queued(simulator) == [1] * 41
        journal(conn, *(make_callback(batch_id, result_body(number(0))) for batch_id in batch_ids))
        eventually(lambda: all(read_batch(conn, batch_id).counts["final"] == 1 for batch_id in batch_ids))
    assert differences(conn) == []


def test_worker_that_loses_its_lock_for_a_moment_is_not_dead(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    found: list[set[int]] = []
    turn = threading.Semaphore(0)

    def find(own: Connection, worker_id: int) -> set[int]:
        started.append(worker_id)
        turn.acquire(timeout=60)
        found.append(find_gone(own, worker_id))
        return found[-1]

    def next_result() -> set[int]:
        """The result of one heartbeat. It is complete when the next one has started."""
        before = len(started)
        turn.release()
        eventually(lambda: len(started) > before)
        return found[-1]

    monkeypatch.setattr(worker_module, "find_gone", find)
    batch_id = queue(conn, contacts_csv(1))
    with contextlib.closing(connect(database_url, name="test", autocommit=True)) as lost:
        other = register_worker(lost, "test", 1)
        claim(conn, other)
    eventually(lambda: lock_holders(conn) == [])
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        try:
            eventually(lambda: bool(started))
            assert next_result() == {other}
            with contextlib.closing(connect(database_url, name="test", autocommit=True)) as presence:
                assert hold_worker_lock(presence, other)
                assert submission_states(conn, batch_id) == ["sending"]
                assert next_result() == set()
            eventually(lambda: len(lock_holders(conn)) == 1)
            assert next_result() == {other}
            assert submission_states(conn, batch_id) == ["sending"], "the worker held its lock in between"
        finally:
            turn.release(10_000)
        await_state(conn, batch_id, "unknown")
        assert times_queued(simulator) == []


def test_answer_to_a_cancellation_waits_for_the_database(
    database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    asked, answer_now = threading.Event(), threading.Event()

    def answer(connection: socket.socket, server: Server) -> None:
        read_request(connection)
        asked.set()
        answer_now.wait(60)
        connection.sendall(http(202, b"{}"))

    with serving(answer) as provider, running_worker(database_url, provider.url):
        cancel_id, _ = request_cancel(conn, 7, 3, by="Ana")
        conn.commit()
        assert asked.wait(60)
        conn.execute("alter table deployment_cancel rename to away")
        conn.commit()
        answer_now.set()
        eventually(lambda: "the provider's answer is not recorded yet" in caplog.text)
        conn.execute("alter table away rename to deployment_cancel")
        conn.commit()
        await_cancel(conn, cancel_id, "accepted")
        assert provider.connections == 1


def test_cancellation_that_its_worker_does_not_make_becomes_unknown(database_url: str, conn: Connection) -> None:
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        # The state after the connection broke while the server committed.
        row = conn.execute(
            "insert into deployment_cancel (application_id, deployment_id, requested_by, state, worker_id)"
            " select 7, 3, 'Ana', 'asking', worker_id from worker returning cancel_id"
        ).fetchone()
        assert row is not None
        conn.commit()
        await_cancel(conn, row[0], "unknown")


def await_cancel(conn: Connection, cancel_id: int, state: str) -> None:
    def current() -> str:
        found = get_cancel(conn, cancel_id).state
        conn.commit()
        return found

    eventually(lambda: current() == state, otherwise=current)


def test_worker_keeps_its_lock_if_another_connection_fails(database_url: str, conn: Connection) -> None:
    with running_simulator() as simulator, running_worker(database_url, simulator.url):
        presence = lock_holders(conn)
        assert len(presence) == 1
        conn.execute("alter table worker rename to away")
        conn.commit()
        time.sleep(0.5)  # several heartbeats, which fail
        conn.execute("alter table away rename to worker")
        conn.commit()
        assert lock_holders(conn) == presence


@contextlib.contextmanager
def worker_process(database_url: str, provider_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in its own process. It is killed at the end of the test."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET,
        "PLUM_URL": provider_url,
        "PLUM_USER": LOGIN,
        "PLUM_KEY": LOGIN,
    }
    command = [sys.executable, "-m", "receiver", "work"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_worker_killed_before_the_answer_leaves_unknown_and_no_second_request(
    database_url: str, conn: Connection
) -> None:
    batch_id = queue(conn, contacts_csv(2))

    with Thinking() as provider:
        with worker_process(database_url, provider.url) as process:
            eventually(lambda: len(provider.requests) == 1)
            assert submission_states(conn, batch_id) == ["sending"]
            process.send_signal(signal.SIGKILL)
        with running_worker(database_url, provider.url):
            await_state(conn, batch_id, "unknown")
            assert "ended before" in str(read_batch(conn, batch_id).submissions[0].error)
            # The next worker sends only new submissions.
            queue(conn, contacts_csv(1))
            eventually(lambda: len(provider.requests) == 2)
            journal(conn, make_callback(batch_id, result_body(number(1))))
            await_state(conn, batch_id, "queued")
            provider.hang_up()
    assert [request.count(token(batch_id)) for request in provider.requests] == [1, 0]
    assert differences(conn) == []


def test_stopped_worker_waits_for_the_answer_to_its_request(database_url: str, conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2))
    with answering(http(200, b'{"calls_queued": 2}'), pause=0) as provider:
        with running_worker(database_url, provider.url, grace_seconds=60) as worker:
            eventually(lambda: bool(provider.requests))
            worker.stop()
    assert batch_state(conn, batch_id) == "queued"


@pytest.mark.long
def test_silent_provider_does_not_prevent_the_worker_from_stopping(database_url: str, conn: Connection) -> None:
    for _ in range(6):
        queue(conn, contacts_csv(1))
    with Thinking() as provider:
        with running_worker(database_url, provider.url, grace_seconds=5):
            eventually(lambda: len(provider.requests) == SENDERS)
            began = time.monotonic()
        # As long as one request may take, independent of their number.
        assert time.monotonic() - began < 15
        row = conn.execute("select count(*) from submission where state = 'sending'").fetchone()
        assert row == (SENDERS,)
