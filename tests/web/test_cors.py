"""`CORS_ORIGINS`: pages from these origins may use the API with a key (in a browser: tests/browser/test_cors.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.config import Config
from tests.web.asking import problem_of
from tests.web.conftest import ClientFor

ORIGIN = "https://crm.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture
def config(config: Config) -> Config:
    return replace(config, cors_origins=frozenset({ORIGIN}))


def test_preflight_needs_no_key_and_allows_authorization(stranger: FlaskClient) -> None:
    for path in ("/api/v1/batches", "/api/v1/keys/x", "/api/v1/batches/1/calls.csv"):
        answer = stranger.options(path, headers={"Origin": ORIGIN, **PREFLIGHT})
        assert (answer.status_code, answer.data) == (204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert {"Authorization", "Idempotency-Key", "Prefer"} <= set(
            answer.headers["Access-Control-Allow-Headers"].split(", ")
        )
        assert {"POST", "PATCH", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))


def test_answers_and_problems_can_be_read_without_credentials(client_for: ClientFor, stranger: FlaskClient) -> None:
    for client, path, status in (
        (client_for("read"), "/api/v1/batches", 200),
        (client_for("queue"), "/api/v1/keys", 403),
        (stranger, "/api/v1/batches", 401),
        (stranger, "/api/v1/nothing", 404),
    ):
        answer = client.get(path, headers={"Origin": ORIGIN})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Origin" in answer.headers["Vary"]
        assert "Location" in answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", [None, "null", "https://crm.example.com:444", "http://crm.example.com", "https://evil.example"]
)
def test_other_origins_get_nothing(stranger: FlaskClient, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for answer in (
        stranger.options("/api/v1/batches", headers={**headers, **PREFLIGHT}),
        stranger.get("/api/v1/batches", headers=headers),
    ):
        assert [name for name, _ in answer.headers if name.startswith("Access-Control")] == []
        assert "Origin" in answer.headers["Vary"]  # a cache must not answer another origin with this


def test_only_the_api_is_open(stranger: FlaskClient) -> None:
    for path in ("/login", "/healthz", "/openapi.json"):
        assert "Access-Control-Allow-Origin" not in stranger.get(path, headers={"Origin": ORIGIN}).headers


def test_session_of_the_dashboards_gives_no_right(app: Flask) -> None:
    client = app.test_client()
    client.set_cookie("session", "anything")
    problem_of(client.get("/api/v1/batches", headers={"Origin": ORIGIN}), 401, "unauthorized")
