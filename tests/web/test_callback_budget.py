"""CALLBACK_BUDGET over HTTP: all processes together refuse callbacks beyond a submission's budget."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.intake import budget as budget_module
from receiver.model import SubmissionKey
from receiver.web.app import close_app, create_app
from receiver.web.services import Services
from tests.factories import make_batch
from tests.waiting import eventually
from tests.web.asking import config_for, results_path
from tests.web.gunicorn import EACH, gunicorn_process


def budget_of(app: Flask) -> budget_module.Budget:
    services: Services = app.extensions["receiver"]
    return services.opened_intake.rules.budget


def count_stored(conn: Connection, batch_id: int) -> int:
    row = conn.execute("select count(*) from callback where batch_id = %s", (batch_id,)).fetchone()
    conn.rollback()
    assert row is not None
    return int(row[0])


def test_callback_beyond_the_budget_is_429_with_retry_after_and_is_not_stored(
    app: Flask, conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(budget_module, "LEAST_CALLBACKS", 3)
    batch_id = make_batch(conn)
    sender = app.test_client()
    monkeypatch.setattr(budget_of(app), "_per_call", 1)
    path = results_path(batch_id)
    assert sender.post(path, data=b"first").status_code == 200
    eventually(lambda: budget_of(app).list_unreported(10) == {})
    assert [sender.post(path, data=b"more").status_code for _ in range(5)] == [200, 200, 429, 429, 429]
    answer = sender.post(path, data=b"more")
    assert answer.json == {"status": "over_budget"}
    assert int(answer.headers["Retry-After"]) > 0
    assert count_stored(conn, batch_id) == 3
    assert f"batch {batch_id}, submission 1" in caplog.text
    assert sender.post(path, data=b"").status_code == 200, "an empty body is answered but not stored"
    assert sender.get(path).status_code == 200
    other = make_batch(conn)
    assert sender.post(results_path(other), data=b"x").status_code == 200
    metrics = sender.get("/metrics").text
    count = next(line for line in metrics.splitlines() if 'answer="over_budget"' in line)
    assert float(count.rpartition(" ")[2]) >= 4


def test_budget_holds_while_the_database_is_unavailable(
    app_without_database: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_of(app_without_database), "_unknown_limit", 4)
    sender = app_without_database.test_client()
    statuses = [sender.post(results_path(7), data=b"x").status_code for _ in range(6)]
    assert statuses == [200, 200, 200, 200, 429, 429]
    services: Services = app_without_database.extensions["receiver"]
    assert services.intake.spool.depth() == 4


def test_callback_that_was_not_stored_does_not_use_the_budget(
    app_without_database: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_of(app_without_database), "_unknown_limit", 2)
    (tmp_path / "spool.sqlite3").mkdir()
    sender = app_without_database.test_client()
    assert [sender.post(results_path(7), data=b"x").status_code for _ in range(4)] == [503] * 4


def test_count_continues_after_a_restart(conn: Connection, database_url: str, tmp_path: Path) -> None:
    batch_id = make_batch(conn)
    config = replace(config_for(tmp_path, database_url), callback_budget=1)
    for wanted in (7, 14):
        app = create_app(config, database_url)
        try:
            for _ in range(7):
                assert app.test_client().post(results_path(batch_id), data=b"x").status_code == 200
        finally:
            close_app(app)
        key = SubmissionKey(batch_id, 1)
        stored = "select stored from callback_budget where (batch_id, submission_no) = (%s, %s)"
        assert conn.execute(stored, (key.batch_id, key.submission_no)).fetchone() == (wanted,)
        conn.rollback()


def flood(port: int, path: str, refusals: int) -> Counter[int]:
    """Eight senders post until each was refused `refusals` times. Returns the count of each status."""
    statuses: Counter[int] = Counter()
    body = json.dumps({"phone_number": "6175551234", "status": "completed"})

    def post() -> None:
        mine: Counter[int] = Counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while mine[429] < refusals and sum(mine.values()) < 20_000:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            answer.read()
            mine[answer.status] += 1
        connection.close()
        statuses.update(mine)

    senders = [threading.Thread(target=post) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return statuses


@pytest.mark.long
@pytest.mark.parametrize("entry_point", EACH)
def test_flood_of_one_token_stops_within_twice_its_budget_even_across_a_restart(
    conn: Connection, database_url: str, tmp_path: Path, entry_point: str
) -> None:
    batch_id = make_batch(conn)
    path = results_path(batch_id)
    conn.execute(
        "insert into callback_budget values (%s, 1, 7000)", (batch_id,)
    )  # simulates callbacks that another process counted
    conn.commit()
    with gunicorn_process(tmp_path, database_url, entry_point=entry_point, WEB_CONCURRENCY="2") as (_, port):
        statuses = flood(port, path, 20)
    assert set(statuses) == {200, 429}
    assert 3_000 <= statuses[200] <= 13_000
    eventually(lambda: count_stored(conn, batch_id) == statuses[200])
    with gunicorn_process(tmp_path, database_url, entry_point=entry_point, WEB_CONCURRENCY="2") as (_, port):
        again = flood(port, path, 20)
    assert set(again) == {200, 429}
    assert again[200] < 5_000, "only callbacks that were received before a process read the count"
    assert 7_000 + statuses[200] + again[200] <= 20_000
