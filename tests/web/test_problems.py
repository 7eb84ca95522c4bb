"""Failures as problem details."""

import time
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.config import Config
from receiver.database.pool import WAIT_SECONDS
from receiver.web.app import create_app
from tests.web.asking import faults_of, post_csv, problem_of
from tests.web.conftest import patient_app

LISTS = ["/api/v1/batches", "/api/v1/calls?phone_number=1", "/api/v1/callbacks"]


def joined(path: str, query: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{query}"


def test_missing_resource_is_404(reader: FlaskClient) -> None:
    for path in (
        "/api/v1/nothing",
        "/api/v1/batches/0",
        "/api/v1/batches/99",
        "/api/v1/batches/99/calls",
        "/api/v1/batches/99/calls/1",
        "/api/v1/callbacks/99",
        "/api/v1/batches/999999999999999999",
        "/api/v1/batches/9999999999999999999",
        f"/api/v1/batches/{'9' * 5000}",
        f"/api/v1/batches/1/calls/{'9' * 18}",
        "/api/v1/batches/-1",
        "/api/v1/batches/1.0",
        "/api/v1/batches/%D9%A1",
        "/api/v1/batches/%00",
        "/api/v1/batches/%ED%A0%80",
        "/api/v1/batches/1/",
        "/api/v1/batches//1",
        "/api//v1/batches",
    ):
        problem_of(reader.get(path), 404, "not_found")


def test_404_outside_of_the_api_is_a_problem(stranger: FlaskClient) -> None:
    answer = stranger.get("/nothing")
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/v1/batches", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("POST", "/api/v1/batches/1", {"GET", "HEAD", "PATCH", "OPTIONS"}),
        ("PUT", "/api/v1/callbacks", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/api/v1/calls", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_405_lists_the_allowed_methods(reader: FlaskClient, method: str, path: str, allowed: set[str]) -> None:
    answer = reader.open(path, method=method)
    problem_of(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


PROBLEM = "application/problem+json"
"""Generated clients in Python send only this if the answer is a CSV."""


def test_accept_that_excludes_json_is_406(reader: FlaskClient) -> None:
    for accept in ("text/html", "application/xml, text/*", "application/json;q=0, */*", "nonsense"):
        problem_of(reader.get("/api/v1/batches", headers={"Accept": accept}), 406, "not_acceptable")


def test_accept_that_allows_json_is_answered(reader: FlaskClient) -> None:
    for accept in (
        "",
        "*/*",
        "Application/*",
        "application/json; charset=utf-8",
        "text/html, application/json;q=0.1",
        PROBLEM,
    ):
        answer = reader.get("/api/v1/batches", headers={"Accept": accept})
        assert (answer.status_code, answer.content_type) == (200, "application/json"), accept


def test_406_is_answered_before_anything_is_stored(queuer: FlaskClient) -> None:
    problem_of(post_csv(queuer, headers={"Accept": "text/html"}), 406, "not_acceptable")
    assert queuer.get("/api/v1/batches").json == {"batches": [], "next_cursor": None}


@pytest.mark.parametrize("path", [*LISTS, "/api/v1/batches/1/calls"])
def test_unusable_limit_is_a_fault(reader: FlaskClient, path: str) -> None:
    for limit in ("0", "1001", "-1"):
        assert faults_of(reader.get(joined(path, f"limit={limit}"))) == [("limit", "out_of_range")]
    for limit in ("1.0", "1e2", "NaN", "\u0663", "", "9" * 5000, "%00", "null"):
        assert faults_of(reader.get(joined(path, f"limit={limit}"))) == [("limit", "invalid")]


@pytest.mark.parametrize("path", LISTS)
def test_forged_cursor_is_a_fault(reader: FlaskClient, path: str) -> None:
    for cursor in ("", "x", "%00", "%F0%9F%92%A3", "WzFd", "WzFd." + "A" * 27, "." * 300):
        assert faults_of(reader.get(joined(path, f"cursor={cursor}"))) == [("cursor", "invalid_cursor")]
    assert faults_of(reader.get(joined(path, f"cursor={'x' * 301}"))) == [("cursor", "too_long")]


@pytest.mark.parametrize("path", LISTS)
def test_repeated_query_parameter_is_refused(reader: FlaskClient, path: str) -> None:
    answer = reader.get(joined(path, "limit=1&limit=2"))
    assert faults_of(answer) == [("limit", "repeated_field")]


def test_all_wrong_query_parameters_are_reported_together(reader: FlaskClient) -> None:
    answer = reader.get("/api/v1/batches?state=done&application_id=0&created_from=yesterday&name=%00&limits=5")
    assert sorted(faults_of(answer)) == [
        ("application_id", "out_of_range"),
        ("created_from", "invalid"),
        ("limits", "unknown_field"),
        ("name", "invalid"),
        ("state", "invalid"),
    ]


HOSTILE = ["\0", "\ud800", "\udfff", "NaN", "1e400", "9" * 400, "-1", "' or 1=1 --", "\u202e", "%", "{}", "[1]", ""]


def test_hostile_text_in_a_query_is_never_an_internal_error(reader: FlaskClient) -> None:
    for path in (
        "/api/v1/batches?state=",
        "/api/v1/batches?application_id=",
        "/api/v1/batches?deployment_id=",
        "/api/v1/batches?created_from=",
        "/api/v1/batches?created_to=",
        "/api/v1/batches?name=",
        "/api/v1/calls?phone_number=",
        "/api/v1/batches/1/calls?phone_number=",
        "/api/v1/batches/1/calls?state=",
        "/api/v1/batches/1/calls?outcome=",
        "/api/v1/callbacks?state=",
        "/api/v1/callbacks?batch_id=",
    ):
        for text in HOSTILE:
            raw = path + quote(text.encode(errors="surrogatepass"))
            assert reader.get(raw).status_code in (200, 404, 422), raw
        assert reader.get(path + "%ff%fe").status_code in (200, 404, 422)


def test_times_at_the_end_of_the_calendar_are_no_internal_error(reader: FlaskClient) -> None:
    for moment in ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "253402300799", "0"):
        for name in ("created_from", "created_to"):
            assert reader.get(f"/api/v1/batches?{name}={quote(moment)}").status_code in (200, 422)


def test_missing_database_is_503_with_retry_after(app_without_database: Flask) -> None:
    client = app_without_database.test_client()
    app_without_database.extensions["receiver"].pool.timeout = WAIT_SECONDS
    began = time.monotonic()
    answer = client.get("/api/v1/batches", headers={"Authorization": "Bearer rr_abcdefgh_" + "A" * 43})
    problem_of(answer, 503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert time.monotonic() - began < 20
    assert "host" not in answer.text  # the address of the database is not revealed


def test_internal_error_is_a_problem_without_its_cause(config: Config, database_url: str) -> None:
    def fail() -> str:
        raise RuntimeError("a secret of ours")

    with patient_app(config, database_url, create_app) as app:
        app.add_url_rule("/api/v1/fail", "fail", fail)
        answer = app.test_client().get("/api/v1/fail")
    problem_of(answer, 500, "internal_error")
    assert "secret" not in answer.text


def test_detail_is_written_as_utf_8(queuer: FlaskClient) -> None:
    answer = post_csv(queuer, "destinatión\n1\n")
    assert "destinatión".encode() in answer.data
