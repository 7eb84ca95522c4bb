"""ETags: a repeated request gets an answer only if it has changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from tests.factories import deliver, make_batch, phone_number, result_body

PATHS = ["/api/v1/batches", "/api/v1/batches/1", "/api/v1/summary", "/api/v1/batches?limit=1&state=queued"]


@pytest.fixture
def result(conn: Connection) -> Callable[[], object]:
    """Deliver the next result of batch 1."""
    numbers = [phone_number(index) for index in range(3)]
    assert make_batch(conn, numbers) == 1
    bodies = iter([result_body(number) for number in numbers])
    return lambda: deliver(conn, 1, next(bodies))


@pytest.mark.parametrize("path", PATHS)
def test_same_answer_is_304_without_a_body_until_it_changes(
    reader: FlaskClient, result: Callable[[], object], path: str
) -> None:
    first = reader.get(path)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    for if_none_match in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = reader.get(path, headers={"If-None-Match": if_none_match})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"] == "private, no-cache"
        assert "Authorization" in again.headers["Vary"]
        assert "Content-Type" not in again.headers
    result()
    changed = reader.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    assert changed.json != first.json


def test_other_tags_get_a_full_answer(reader: FlaskClient, result: Callable[[], object]) -> None:
    for if_none_match in ('"other"', 'W/"other"', "nonsense", ""):
        assert reader.get(PATHS[0], headers={"If-None-Match": if_none_match}).status_code == 200


def test_head_has_the_tag_of_get(reader: FlaskClient, result: Callable[[], object]) -> None:
    tag = reader.get(PATHS[0]).headers["ETag"]
    assert reader.head(PATHS[0]).headers["ETag"] == tag
    assert reader.head(PATHS[0], headers={"If-None-Match": tag}).status_code == 304


def test_tag_is_the_same_for_a_compressed_answer(reader: FlaskClient, result: Callable[[], object]) -> None:
    path = "/api/v1/summary?from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z"
    plain = reader.get(path)
    compressed = reader.get(path, headers={"Accept-Encoding": "gzip"})
    assert (plain.headers.get("Content-Encoding"), compressed.headers["Content-Encoding"]) == (None, "gzip")
    assert compressed.headers["ETag"] == plain.headers["ETag"]
    if_none_match = {"Accept-Encoding": "gzip", "If-None-Match": plain.headers["ETag"]}
    again = reader.get(path, headers=if_none_match)
    assert (again.status_code, again.data, "Content-Encoding" in again.headers) == (304, b"", False)


def test_key_is_checked_before_the_tag(
    stranger: FlaskClient, reader: FlaskClient, result: Callable[[], object]
) -> None:
    tag = reader.get(PATHS[0]).headers["ETag"]
    assert stranger.get(PATHS[0], headers={"If-None-Match": tag}).status_code == 401


def test_failures_and_calls_have_no_tag(reader: FlaskClient, result: Callable[[], object]) -> None:
    for path in ("/api/v1/batches/99", "/api/v1/batches?limit=0", "/api/v1/batches/1/calls", "/api/v1/callbacks"):
        answer = reader.get(path, headers={"If-None-Match": "*"})
        assert answer.status_code in (200, 404, 422)
        assert "ETag" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
