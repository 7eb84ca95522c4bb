"""Rules that hold for all operations of the API."""

from __future__ import annotations

import gzip
import json

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.results.erasure import erase
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.web.asking import faults_of, post_csv, problem_of
from tests.web.conftest import ClientFor


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def test_unknown_batch_is_404_everywhere(admin: FlaskClient, app: Flask) -> None:
    bodies = {"resolve": {"queued": True, "note": "checked"}}
    asked = 0
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/v1/batches/<int:batch_id>"):
            _, path = rule.build({name: 99 for name in rule.arguments}) or ("", "")
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                body = None if method == "GET" else bodies.get(path.rpartition("/")[2], {})
                problem_of(admin.open(path, method=method, json=body), 404, "not_found")
                asked += 1
    assert asked > 12
    for path in ("callbacks?batch_id=99", "summary?batch_id=99", "summary/breakdown?by=weekday&batch_id=99"):
        problem_of(admin.get(f"/api/v1/{path}"), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "start", "end"),
    [
        ("batches", "created_from", "created_to"),
        ("calls.csv", "created_from", "created_to"),
        ("calls.ndjson", "created_from", "created_to"),
        ("audit", "from", "to"),
        ("summary", "from", "to"),
        ("summary/breakdown?by=area", "from", "to"),
    ],
)
def test_period_that_ends_before_it_begins_is_refused(admin: FlaskClient, path: str, start: str, end: str) -> None:
    answer = admin.get(
        f"/api/v1/{path}{'&' if '?' in path else '?'}{start}=2026-03-02T00:00:00Z&{end}=2026-03-01T00:00:00Z"
    )
    assert faults_of(answer) == [(end, "out_of_order")]


def test_unmatched_path_is_answered_with_problem_details(admin: FlaskClient) -> None:
    for path in ("/api/v1/nothing", "/api/v1/batches/abc", "/api/v1/batches/", "/api/v2/batches", "/nothing"):
        problem_404 = admin.get(path)
        assert (problem_404.status_code, problem_404.content_type) == (404, "application/problem+json"), path
        assert json.loads(problem_404.data)["code"] == "not_found"


def test_encoded_body_is_415(admin: FlaskClient) -> None:
    body = gzip.compress(b'{"phone_number": "+16175550034"}')
    for path in ("suppressions", "batches", "callbacks/replay", "keys"):
        sent = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        content = problem_of(admin.post(f"/api/v1/{path}", data=body, headers=sent), 415, "unsupported_media_type")
        assert "Content-Encoding" in content["detail"]


def test_applied_callback_names_its_row(admin: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(row) for row in range(3)])
    deliver(conn, batch_id, result_body(phone_number(2)), result_body(phone_number(0)), result_body(phone_number(2)))
    listed = admin.get("/api/v1/callbacks").get_json()["callbacks"]
    assert [(each["state"], each["row"]) for each in listed] == [("duplicate", 3), ("applied", 1), ("applied", 3)]
    assert admin.get(f"/api/v1/callbacks/{listed[-1]['id']}").get_json()["row"] == 3

    for _ in erase(conn, phone_number(2), by="test"):
        conn.commit()
    erased = admin.get(f"/api/v1/callbacks/{listed[-1]['id']}").get_json()
    assert (erased["state"], erased["row"]) == ("applied", None)


@pytest.mark.parametrize(
    "path", ["batches?created_from={0}&created_to={0}", "audit?from={0}&to={0}", "summary?from={0}&to={0}"]
)
def test_period_of_no_length_is_empty(admin: FlaskClient, conn: Connection, path: str) -> None:
    deliver(conn, make_batch(conn, [phone_number(0)]), result_body(phone_number(0)))
    content = admin.get(f"/api/v1/{path.format('2026-03-02T00:00:00Z')}").get_json()
    assert (content.get("batches") or content.get("audit") or content.get("series") or []) == []


def test_ids_have_one_limit_everywhere(admin: FlaskClient) -> None:
    """Beyond 2^53, JavaScript loses digits."""
    largest, too_large = 2**53, 2**53 + 1
    for path in ("batches?application_id={}", "batches?deployment_id={}", "calls.csv?application_id={}"):
        assert admin.get(f"/api/v1/{path.format(largest)}").status_code == 200
        assert [code for _, code in faults_of(admin.get(f"/api/v1/{path.format(too_large)}"))] == ["out_of_range"]
    for name in ("application_id", "deployment_id"):
        assert faults_of(post_csv(admin, headers=None, **{name: str(too_large)})) == [(name, "out_of_range")]
    for path, body in (
        ("callbacks/replay", {"ids": [too_large]}),
        ("callbacks/acknowledge", {"ids": [too_large]}),
        ("purges", {"batch_id": too_large}),
        ("endpoints", {"url": "https://crm.example.com/", "application_id": too_large}),
    ):
        assert admin.post(f"/api/v1/{path}", json=body).status_code == 422, path
    problem_of(admin.get(f"/api/v1/batches/{too_large}"), 404, "not_found")


def test_path_that_does_not_exist_is_answered_with_a_problem(admin: FlaskClient) -> None:
    for path in ("/nothing", "/api", "/api/v1", "/api/v1/nothing", "/api/v1/batches/", "/api/v1/batches/x"):
        answer = admin.get(path)
        assert (answer.status_code, answer.content_type) == (404, "application/problem+json"), path
        assert json.loads(answer.data)["code"] == "not_found"
