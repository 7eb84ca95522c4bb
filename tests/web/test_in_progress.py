"""One key has at most eight requests in progress; further ones wait, and are refused after ten seconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from flask import Flask

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.server import in_progress
from receiver.server.in_progress import MOST_IN_PROGRESS, SharedCounts, Turns
from receiver.web.services import Services
from tests.factories import make_batch
from tests.waiting import PATIENCE_SECONDS
from tests.web.asking import problem_of
from tests.web.browsing import visitor
from tests.web.conftest import ClientFor
from tests.web.gunicorn import gunicorn_process


def take(turns: Turns, key_id: int) -> bool:
    """Take a turn if one is free."""
    ticket = turns.ticket(key_id)
    return ticket.take() or ticket.leave()


def test_each_key_has_eight_turns() -> None:
    turns = Turns(SharedCounts(slots=2))
    assert [take(turns, 7) for _ in range(MOST_IN_PROGRESS + 1)] == [True] * MOST_IN_PROGRESS + [False]
    assert take(turns, 8)
    turns.give_back(7)
    assert take(turns, 7) and not take(turns, 7)


def test_turns_are_counted_over_all_processes_and_freed_when_a_process_ends() -> None:
    counts = SharedCounts(slots=3)
    pids = []
    for slot in (1, 2):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            counts.claim(slot)
            admitted = sum(counts.add(7) for _ in range(5))
            os.write(write, bytes([admitted]))
            os._exit(0)
        pids.append(pid)
        assert os.read(read, 1) == bytes([5 if slot == 1 else 3])
        os.close(read)
        os.close(write)
    for pid in pids:
        os.waitpid(pid, 0)
    assert not counts.add(7)
    counts.clear(1)
    assert [counts.add(7) for _ in range(6)] == [True] * 5 + [False]


def test_waiting_requests_get_their_turns_in_order() -> None:
    turns = Turns(SharedCounts(slots=1, most=1))
    assert take(turns, 7)
    first, second, third = (turns.ticket(7) for _ in range(3))
    assert not any(ticket.take() for ticket in (first, second, third))
    turns.give_back(7)
    assert not second.take() and first.take() and first.take()
    assert not second.leave(), "it is no longer in the queue"
    turns.give_back(7)
    assert not take(turns, 7), "the next ticket in the queue has priority"
    assert third.take() and third.leave()
    turns.give_back(7)
    assert take(turns, 7) and not turns.waiting


@pytest.fixture
def impatient(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """The app's turns, without waiting."""
    services: Services = app.extensions["receiver"]
    monkeypatch.setattr(services.turns, "wait_seconds", 0.0)
    yield services.turns


def test_ninth_request_is_refused_until_an_answer_frees_a_turn(
    client_for: ClientFor, conn: Connection, impatient: Turns
) -> None:
    batch_id = make_batch(conn)
    reader, other = client_for("read"), client_for("queue")
    file = f"/api/v1/batches/{batch_id}/calls.csv"
    held = [reader.get(file, buffered=False) for _ in range(MOST_IN_PROGRESS)]  # not read to the end
    refused = reader.get("/api/v1/batches")
    assert problem_of(refused, 429, "rate_limited")["detail"].startswith("This key has 8 requests in progress")
    assert refused.headers["Retry-After"] == "1"
    assert other.get("/api/v1/batches").status_code == 200
    held.pop().close()
    for asked in ("/api/v1/batches", "/api/v1/batches/0", "/api/v1/nothing", "/api/v1/batches?limit=x", file):
        for _ in range(3):
            assert reader.get(asked).status_code in (200, 404, 422)
            assert reader.head(asked).status_code in (200, 404, 422)
    for answer in held:
        answer.close()
    assert not any(impatient.counts._memory)


def test_pages_count_for_the_key_that_was_signed_in_with(app: Flask, conn: Connection, impatient: Turns) -> None:
    browser = visitor(app, conn, "read", "Ana")
    (key_id,) = conn.execute("select key_id from api_key where name = 'Ana'").fetchone() or (0,)
    for _ in range(MOST_IN_PROGRESS):
        assert take(impatient, key_id)
    assert browser.client.get("/batches").status_code == 429
    impatient.give_back(key_id)
    assert browser.client.get("/batches").status_code == 200
    for _ in range(MOST_IN_PROGRESS - 1):
        impatient.give_back(key_id)


@pytest.mark.long
def test_processes_of_a_machine_count_together(tmp_path: Path, conn: Connection, database_url: str) -> None:
    """Twenty slow requests to two web processes: never more than eight are in progress."""
    batch_id = make_batch(conn, send=False)  # a POST waits for it
    assert batch_id
    key = create_key(conn, "a queuer", "queue")
    conn.commit()
    with gunicorn_process(tmp_path, database_url, WEB_CONCURRENCY="2") as (_, port):
        url = f"http://127.0.0.1:{port}/api/v1/batches"
        statuses: list[int] = []

        def queue(number: int) -> None:
            csv = f"destination\n{6175550000 + number}\n"
            answer = requests.post(
                url,
                files={"csv": ("a.csv", csv)},
                data={"application_id": 7, "deployment_id": 3},
                headers={"Authorization": f"Bearer {key}", "Prefer": "wait=30"},
                timeout=3 * PATIENCE_SECONDS,
            )
            statuses.append(answer.status_code)

        threads = [threading.Thread(target=queue, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # There is no worker, so each of the eight waits 30 seconds. The others waited ten.
    assert sorted(statuses) == [202] * MOST_IN_PROGRESS + [429] * (20 - MOST_IN_PROGRESS)
    assert in_progress.WAIT_SECONDS == 10
