"""The audit trail over REST."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.changes.audit import record_change
from receiver.database.pool import Connection
from tests.web.asking import faults_of, problem_of
from tests.web.conftest import ClientFor

PATH = "/api/v1/audit"


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def found(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(PATH + query)
    assert answer.status_code == 200, answer.text
    assert set(answer.json or {}) == {"audit", "next_cursor"}
    listed: list[dict[str, Any]] = (answer.json or {})["audit"]
    return listed


def test_change_is_listed_with_who_what_when_and_why(admin: FlaskClient) -> None:
    admin.post("/api/v1/suppressions", json={"phone_number": "+16175550034", "note": "asked by mail"})
    (entry,) = found(admin)
    assert entry.pop("id") > 0 and entry.pop("at").endswith("Z")
    assert entry == {
        "actor": "admin key",
        "action": "suppress",
        "batch_id": None,
        "submission_id": None,
        "details": {"phone_number": "*********34", "reason": None},
        "note": "asked by mail",
    }


def test_changes_are_narrowed_and_paged(admin: FlaskClient, conn: Connection) -> None:
    for number in range(4):
        at = f"2026-03-0{number + 1}T12:00:00Z"
        record_change(conn, "Ana" if number % 2 else "Ben", "pause" if number < 2 else "resume", batch_id=number)
        conn.execute("update audit set at = %s where batch_id = %s", (at, number))
    conn.commit()

    def numbers(query: str) -> list[int]:
        return [entry["batch_id"] for entry in found(admin, query)]

    assert numbers("") == [3, 2, 1, 0]
    assert numbers("?actor=Ana") == [3, 1]
    assert numbers("?action=pause") == [1, 0]
    assert numbers("?actor=Ana&action=pause") == [1]
    assert numbers("?from=2026-03-02T12:00:00Z&to=2026-03-04T12:00:00Z") == [2, 1]
    assert numbers("?actor=nobody") == []
    first = admin.get(f"{PATH}?limit=3").json or {}
    rest = admin.get(f"{PATH}?limit=3&cursor={first['next_cursor']}").json or {}
    assert [entry["batch_id"] for entry in first["audit"] + rest["audit"]] == [3, 2, 1, 0]
    assert rest["next_cursor"] is None


def test_only_an_administrator_reads_it(client_for: ClientFor, stranger: FlaskClient) -> None:
    problem_of(stranger.get(PATH), 401, "unauthorized")
    problem_of(client_for("queue").get(PATH), 403, "forbidden")
    problem_of(client_for("admin").post(PATH), 405, "method_not_allowed")


def test_faults_of_a_query_are_named(admin: FlaskClient) -> None:
    assert faults_of(admin.get(f"{PATH}?who=Ana")) == [("who", "unknown_field")]
    assert faults_of(admin.get(f"{PATH}?from=yesterday")) == [("from", "invalid")]
    assert faults_of(admin.get(f"{PATH}?cursor=x")) == [("cursor", "invalid_cursor")]
    assert faults_of(admin.get(f"{PATH}?actor=%00")) == [("actor", "invalid")]
