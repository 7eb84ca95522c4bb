"""`/healthz` and `/readyz`: for supervisors and for load balancers."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.config import Config
from receiver.database.pool import Connection
from receiver.release.presence import register_worker, see_worker
from receiver.web.app import close_app, create_app
from tests.factories import journal, make_batch, make_callback
from tests.queueing.queueing import from_now
from tests.web.asking import config_for, results_path


def readiness(client: FlaskClient, status: int) -> dict[str, Any]:
    answer = client.get("/readyz")
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/json"
    content: dict[str, Any] = answer.get_json()
    assert content["status"] == ("ready" if status == 200 else "not ready")
    return content


def with_worker(conn: Connection) -> int:
    worker_id = register_worker(conn, "here", 1)
    conn.commit()
    return worker_id


def test_process_is_healthy_without_a_database(app_without_database: Flask) -> None:
    client = app_without_database.test_client()
    assert (client.get("/healthz").status_code, client.get("/healthz").json) == (200, {"status": "ok"})
    assert client.head("/healthz").status_code == 200


def test_not_ready_is_not_logged_as_a_warning(stranger: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    readiness(stranger, 503)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_ready_with_database_and_worker(stranger: FlaskClient, conn: Connection) -> None:
    with_worker(conn)
    assert readiness(stranger, 200) == {
        "status": "ready",
        "database": "ok",
        "worker": "ok",
        "oldest_waiting_seconds": None,
        "spooled": 0,
    }


def test_age_of_the_oldest_unsettled_callback_is_shown(stranger: FlaskClient, conn: Connection) -> None:
    with_worker(conn)
    batch_id = make_batch(conn)
    for seconds in (600, 60):
        journal(conn, make_callback(batch_id, received_at=from_now(seconds=-seconds)))
    assert 600 <= readiness(stranger, 200)["oldest_waiting_seconds"] < 620


def test_not_ready_without_a_worker_or_with_a_stale_one(stranger: FlaskClient, conn: Connection) -> None:
    assert "python -m receiver work" in readiness(stranger, 503)["worker"]
    worker_id = with_worker(conn)
    conn.execute("update worker set seen_at = now() - interval '31 seconds'")
    conn.commit()
    content = readiness(stranger, 503)
    assert "no worker" in content["worker"] and content["database"] == "ok"
    see_worker(conn, worker_id)
    conn.commit()
    readiness(stranger, 200)


def test_not_ready_while_the_database_is_unavailable_with_the_number_of_spooled_callbacks(
    app_without_database: Flask,
) -> None:
    client = app_without_database.test_client()
    for _ in range(3):
        assert client.post(results_path(), data=b"{}").status_code == 200
    content = readiness(client, 503)
    assert "cannot be reached" in content["database"]
    assert content["spooled"] == 3
    assert content["oldest_waiting_seconds"] is None


def test_not_ready_before_the_database_is_migrated(tmp_path: Path, empty_database_url: str) -> None:
    app = create_app(config_for(tmp_path, empty_database_url), empty_database_url)
    try:
        assert "python -m receiver migrate" in readiness(app.test_client(), 503)["database"]
    finally:
        close_app(app)


def test_unusable_spool_is_reported_without_failing_the_check(
    stranger: FlaskClient, conn: Connection, tmp_path: Path
) -> None:
    with_worker(conn)
    (tmp_path / "spool.sqlite3").mkdir()
    assert "cannot be used" in readiness(stranger, 200)["spooled"]


def test_security_contact_is_published_only_if_it_is_set(config: Config, database_url: str) -> None:
    found = []
    for contact in (None, "mailto:security@example.com"):
        app = create_app(replace(config, security_contact=contact), database_url)
        try:
            found.append(app.test_client().get("/.well-known/security.txt"))
        finally:
            close_app(app)
    missing, answer = found
    assert (missing.status_code, answer.status_code) == (404, 200)
    fields = dict(line.split(": ", 1) for line in answer.text.splitlines())
    assert fields["Contact"] == "mailto:security@example.com" and answer.content_type.startswith("text/plain")
    assert timedelta(days=1) < datetime.fromisoformat(fields["Expires"]) - datetime.now(UTC) < timedelta(days=365)
