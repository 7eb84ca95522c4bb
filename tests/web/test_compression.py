"""Long JSON answers are compressed if the client accepts it."""

from __future__ import annotations

import gzip

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from tests.factories import make_batch, phone_number

CALLS = "/api/v1/batches/1/calls"


@pytest.fixture(autouse=True)
def batch(conn: Connection) -> None:
    assert make_batch(conn, [phone_number(index) for index in range(50)]) == 1


@pytest.mark.parametrize("accepted", ["gzip", "deflate, gzip;q=0.5", "br;q=1, *", "GZIP"])
def test_long_answer_is_compressed_if_the_client_accepts_it(reader: FlaskClient, accepted: str) -> None:
    plain = reader.get(CALLS)
    answer = reader.get(CALLS, headers={"Accept-Encoding": accepted})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.content_type == "application/json"
    assert int(answer.headers["Content-Length"]) == len(answer.data) < len(plain.data) / 5
    assert gzip.decompress(answer.data) == plain.data


@pytest.mark.parametrize("accepted", [None, "", "identity", "br", "gzip;q=0", "*, gzip;q=0", "nonsense;q=x"])
def test_long_answer_is_not_compressed_if_the_client_does_not_accept_it(
    reader: FlaskClient, accepted: str | None
) -> None:
    answer = reader.get(CALLS, headers={} if accepted is None else {"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers
    assert answer.json is not None and len(answer.json["calls"]) == 50


def test_vary_names_accept_encoding(reader: FlaskClient) -> None:
    for path in (CALLS, "/api/v1/batches", "/api/v1/batches/1", "/api/v1/batches/99"):
        for accepted in ("gzip", "identity"):
            answer = reader.get(path, headers={"Accept-Encoding": accepted})
            assert "Accept-Encoding" in answer.headers["Vary"], path


def test_short_answer_is_not_compressed(reader: FlaskClient) -> None:
    answer = reader.get("/api/v1/callbacks", headers={"Accept-Encoding": "gzip"})
    assert answer.json == {"callbacks": [], "next_cursor": None}
    assert "Content-Encoding" not in answer.headers


def test_long_problem_is_compressed(reader: FlaskClient) -> None:
    query = "&".join(f"name{number}=x" for number in range(50))
    answer = reader.get(f"/api/v1/batches?{query}", headers={"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert b'"errors_total": 50' in gzip.decompress(answer.data)


def test_downloads_are_compressed_as_a_stream(reader: FlaskClient) -> None:
    for file in ("batches/1/calls.csv", "batches/1/calls.ndjson", "batches/1/skipped.csv", "calls.csv", "calls.ndjson"):
        plain = reader.get(f"/api/v1/{file}", headers={"Accept-Encoding": "identity"})
        answer = reader.get(f"/api/v1/{file}", headers={"Accept-Encoding": "gzip"})
        assert (answer.status_code, answer.headers["Content-Encoding"]) == (200, "gzip")
        assert gzip.decompress(answer.data) == plain.data
        assert "Content-Encoding" not in plain.headers
        for each in (plain, answer):
            assert "Accept-Encoding" in each.headers["Vary"]


def test_head_has_the_headers_of_get(reader: FlaskClient) -> None:
    accepting = {"Accept-Encoding": "gzip"}
    head, got = reader.head(CALLS, headers=accepting), reader.get(CALLS, headers=accepting)
    assert head.data == b""
    for name in ("Content-Encoding", "Content-Length", "Content-Type", "Vary"):
        assert head.headers[name] == got.headers[name]
