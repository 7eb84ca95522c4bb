"""Queueing over REST until the provider's answer, with a worker and the simulated provider."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.config import Config
from receiver.database.pool import Connection
from receiver.release.provider import Provider
from receiver.simulator.faults import Rates
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.web.api import batches
from receiver.web.services import Services
from receiver.web.waiting import preferred_wait
from receiver.worker import Worker
from tests.waiting import eventually
from tests.web.asking import CSV, count_batches, post_csv, problem_of

StartProvider = Callable[..., None]


@pytest.fixture
def start_provider(config: Config, database_url: str) -> Iterator[StartProvider]:
    """Start a simulator with these settings, which does not dial yet, and a worker."""
    with ExitStack() as stack:

        def start(**settings: Any) -> None:
            simulator = stack.enter_context(Simulator(Settings(check=False, speed=0.001, **settings)))
            worker = Worker(config, database_url, Provider(simulator.url, "simulator", "simulator"))
            thread = threading.Thread(target=worker.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(worker.stop)

        yield start


def test_accepted_batch_is_201_queued(queuer: FlaskClient, start_provider: StartProvider) -> None:
    start_provider()
    answer = post_csv(queuer, headers={"Prefer": "wait=20"})
    assert answer.status_code == 201
    batch = answer.get_json()
    assert answer.headers["Location"] == f"/api/v1/batches/{batch['id']}"
    assert batch["state"] == "queued" and batch["queued_at"] is not None
    (submission,) = batch["submissions"]
    assert submission["release_at"] and submission["due_at"]
    assert submission == {
        "id": 1,
        "state": "accepted",
        "calls": 2,
        "calls_queued": 2,
        "provider_status": 200,
        "error": None,
        "error_code": None,
        "time_zone": None,
        "release_at": submission["release_at"],
        "due_at": submission["due_at"],
    }
    assert queuer.get(answer.headers["Location"]).get_json() == batch


def test_repeated_number_that_is_kept_makes_two_submissions(queuer: FlaskClient, start_provider: StartProvider) -> None:
    start_provider()
    answer = post_csv(queuer, CSV + "6175551234,Ana\n", on_duplicate="keep", headers={"Prefer": "wait=20"})
    assert answer.status_code == 201
    assert [submission["calls"] for submission in answer.get_json()["submissions"]] == [2, 1]


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_refused_batch_is_502_and_stored_as_refused(
    queuer: FlaskClient, start_provider: StartProvider, status: int
) -> None:
    start_provider()
    sent: dict[str, Any] = {"headers": {"Prefer": "wait=20", "Idempotency-Key": "once"}, "deployment_id": str(status)}
    answer = post_csv(queuer, **sent)
    content = problem_of(answer, 502, "provider_refused")
    assert content["provider_status"] == status and content["provider_error"]
    batch = queuer.get(f"/api/v1/batches/{content['batch_id']}").get_json()
    assert answer.headers["Location"] == f"/api/v1/batches/{batch['id']}"
    assert (batch["state"], batch["counts"]["refused"], batch["progress"]) == ("refused", 2, 1.0)
    assert batch["submissions"][0]["error"] == content["provider_error"]
    again = post_csv(queuer, **sent)
    assert problem_of(again, 502, "provider_refused") == content
    assert again.headers["Idempotency-Replayed"] == "true"


def test_unknown_submission_is_202(queuer: FlaskClient, start_provider: StartProvider) -> None:
    start_provider(rates=Rates(error_after_acceptance=1))
    answer = post_csv(queuer, headers={"Prefer": "wait=20"})
    assert answer.status_code == 202
    batch = answer.get_json()
    assert (batch["state"], batch["counts"]["pending"]) == ("unknown", 2)
    assert batch["submissions"][0]["provider_status"] == 500 and batch["submissions"][0]["error"]


def test_prefer_sets_how_long_to_wait(queuer: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    preferred = preferred_wait

    def note(*given: Any) -> float:
        waits.append(preferred(*given))
        return waits[-1]

    monkeypatch.setattr(batches, "preferred_wait", note)
    asked = {
        "wait=0": 0,
        "wait=1": 1,
        "respond-async, wait=0": 0,
        'WAIT = "0"; foo': 0,
        "wait=0, wait=30": 0,
        "handling=lenient,wait=00": 0,
    }
    began = time.monotonic()
    for prefer in asked:
        answer = post_csv(queuer, headers={"Prefer": prefer})
        assert (answer.status_code, answer.get_json()["state"]) == (202, "queueing")
    assert waits == list(asked.values())
    # It waits for one second, not for the default of ten.
    assert 1 <= time.monotonic() - began < 30


@pytest.mark.parametrize("prefer", ["", "wait", "wait=", "wait=-1", "wait=1.5", "wait=x", "wait=\u00b2", "nowait=0"])
def test_unusable_prefer_is_ignored(queuer: FlaskClient, start_provider: StartProvider, prefer: str) -> None:
    start_provider()
    assert post_csv(queuer, headers={"Prefer": prefer}).status_code == 201


@pytest.mark.long
def test_database_lost_while_waiting_says_that_the_batch_is_stored(
    app: Flask, queuer: FlaskClient, conn: Connection, server_url: str
) -> None:
    services: Services = app.extensions["receiver"]
    services.pool.timeout = 2
    name = conn.info.dbname
    answers = []
    thread = threading.Thread(target=lambda: answers.append(post_csv(queuer, headers={"Prefer": "wait=20"})))
    thread.start()
    eventually(lambda: count_batches(conn) == 1)
    conn.close()
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"alter database {name} allow_connections false")
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        thread.join()
        server.execute(f"alter database {name} allow_connections true")
    content = problem_of(answers[0], 503, "database_unavailable")
    assert "Do not send it again" in content["detail"]
    eventually(lambda: queuer.get(answers[0].headers["Location"]).status_code == 200)
    assert queuer.get(answers[0].headers["Location"]).get_json()["id"] == content["batch_id"]
