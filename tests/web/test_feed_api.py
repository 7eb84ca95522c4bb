"""The feed of results over REST: `/api/v1/results` with its cursor, and waiting for the next result."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.summary import feed as entries
from receiver.web.api import feed
from receiver.web.waiting import BESIDE_LOOP, WAIT, SharedCheck, Wait
from tests.factories import deliver, make_batch, phone_number, purge_batch, result_body
from tests.feeding import change, give_all
from tests.web.asking import faults_of, problem_of
from tests.web.gunicorn import gunicorn

FEED = "/api/v1/results"


def get(client: FlaskClient, path: str = FEED, **headers: str) -> dict[str, Any]:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    assert set(found) == {"results", "next_cursor"} and isinstance(found["next_cursor"], str)
    return found


def settle(conn: Connection, calls: int = 1) -> list[tuple[int, int]]:
    """A new batch whose calls all have a result, in the feed."""
    batch_id = make_batch(conn, [phone_number(index) for index in range(calls)])
    deliver(conn, batch_id, *(result_body(phone_number(index)) for index in range(calls)))
    give_all(conn)
    return [(batch_id, row) for row in range(1, calls + 1)]


def keys_of(page: dict[str, Any]) -> list[tuple[int, int]]:
    return [(call["batch_id"], call["row"]) for call in page["results"]]


def test_calls_are_shown_exactly_as_in_the_lists(reader: FlaskClient, conn: Connection) -> None:
    ((batch_id, _), *_) = settle(conn, 3)
    listed = reader.get(f"/api/v1/batches/{batch_id}/calls").text
    fed = reader.get(FEED).text
    begin, end = '{"calls":', ',"next_cursor"'
    assert fed.partition('{"results":')[2].rpartition(end)[0] == listed.partition(begin)[2].rpartition(end)[0] != ""


def test_feed_is_followed_with_its_cursor_over_all_batches(reader: FlaskClient, conn: Connection) -> None:
    nothing = get(reader)
    assert nothing["results"] == []
    assert get(reader, f"{FEED}?cursor={nothing['next_cursor']}") == nothing
    keys = settle(conn, 3) + settle(conn, 2)
    for cursor in ("", f"&cursor={nothing['next_cursor']}"):
        first = get(reader, f"{FEED}?limit=4{cursor}")
        rest = get(reader, f"{FEED}?limit=4&cursor={first['next_cursor']}")
        assert (keys_of(first), keys_of(rest)) == (keys[:4], keys[4:])
        assert get(reader, f"{FEED}?cursor={rest['next_cursor']}") == {**rest, "results": []}


def test_now_starts_with_the_next_result(reader: FlaskClient, conn: Connection) -> None:
    settle(conn)
    now = get(reader, f"{FEED}?cursor=now")
    assert now["results"] == []
    keys = settle(conn)
    assert keys_of(get(reader, f"{FEED}?cursor={now['next_cursor']}")) == keys


def test_page_of_purged_calls_only_has_the_same_cursor(reader: FlaskClient, conn: Connection) -> None:
    start = get(reader)["next_cursor"]
    ((batch_id, _),) = settle(conn)
    purge_batch(conn, batch_id)
    assert get(reader, f"{FEED}?cursor={start}") == {"results": [], "next_cursor": start}
    # It does not count as news either: a request that waits is not answered at once, again and again.
    began = time.monotonic()
    get(reader, f"{FEED}?cursor={start}", Prefer="wait=1")
    assert time.monotonic() - began >= 1


def test_many_purged_calls_are_passed_in_several_pages(
    reader: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((purged, _), *_) = settle(conn, 5)
    keys = settle(conn)
    purge_batch(conn, purged)
    monkeypatch.setattr(entries, "ROUNDS", 2)
    page = get(reader, f"{FEED}?limit=1")
    assert page["results"] == []
    page = get(reader, f"{FEED}?limit=1&cursor={page['next_cursor']}", Prefer="wait=30")
    assert page["results"] == []
    assert keys_of(get(reader, f"{FEED}?limit=1&cursor={page['next_cursor']}")) == keys


def test_cursor_is_after_the_purged_calls_that_were_read(reader: FlaskClient, conn: Connection) -> None:
    keys = settle(conn)
    ((purged, _), *_) = settle(conn, 3)
    purge_batch(conn, purged)
    page = get(reader)
    assert keys_of(page) == keys
    conn.execute("update feed set expired_position = last_position")
    conn.commit()
    assert get(reader, f"{FEED}?cursor={page['next_cursor']}") == {**page, "results": []}


def test_call_that_lost_its_result_is_pending(reader: FlaskClient, conn: Connection) -> None:
    ((batch_id, row),) = settle(conn)
    conn.execute("delete from result where batch_id = %s", (batch_id,))
    change(conn, (batch_id, row))
    conn.commit()
    give_all(conn)
    assert [call["state"] for call in get(reader)["results"]] == ["pending", "pending"]


@pytest.mark.parametrize("cursor", ["x", "Now", "W10.x", "%00"])
def test_text_that_is_no_cursor_is_refused(reader: FlaskClient, cursor: str) -> None:
    assert faults_of(reader.get(f"{FEED}?cursor={cursor}")) == [("cursor", "invalid_cursor")]


def test_cursor_of_another_list_is_refused(reader: FlaskClient, conn: Connection) -> None:
    for _ in range(2):
        make_batch(conn)
    cursor = reader.get("/api/v1/batches?limit=1").get_json()["next_cursor"]
    assert faults_of(reader.get(f"{FEED}?cursor={cursor}")) == [("cursor", "invalid_cursor")]


@pytest.mark.parametrize(
    "change_of_feed", ["epoch = epoch + 1", "expired_position = last_position", "last_position = 0"]
)
def test_cursor_of_removed_entries_or_of_before_a_restore_has_expired(
    reader: FlaskClient, conn: Connection, change_of_feed: str
) -> None:
    settle(conn)
    old = get(reader, f"{FEED}?cursor=now")["next_cursor"]
    settle(conn)
    conn.execute(f"update feed set {change_of_feed}".encode())  # noqa: S608 from the list above
    conn.commit()
    problem_of(reader.get(f"{FEED}?cursor={old}", headers={"Prefer": "wait=30"}), 410, "cursor_expired")
    get(reader)


def test_request_that_prefers_to_wait_gets_the_next_result(
    reader: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = threading.Event()
    is_met = SharedCheck.is_met

    def note(self: SharedCheck, number: int) -> bool:
        checked.set()
        return is_met(self, number)

    monkeypatch.setattr(SharedCheck, "is_met", note)
    monkeypatch.setattr(feed, "LONGEST_WAIT_SECONDS", 600)
    pages: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: pages.append(get(reader, f"{FEED}?cursor=now", Prefer="wait=600")))
    thread.start()
    assert checked.wait(60)
    keys = settle(conn)
    thread.join(60)
    assert keys_of(pages[0]) == keys


def test_wait_ends_without_a_result_after_the_preferred_time(reader: FlaskClient) -> None:
    start = get(reader)["next_cursor"]
    began = time.monotonic()
    assert get(reader, f"{FEED}?cursor={start}", Prefer="wait=1") == {"results": [], "next_cursor": start}
    assert time.monotonic() - began >= 1


def test_many_requests_wait_without_a_thread(
    reader: FlaskClient, conn: Connection, tmp_path: Path, database_url: str
) -> None:
    """The process has two threads. While 120 requests wait, another one is answered; a result reaches them all."""
    keys = [create_key(conn, f"key {number}", "read") for number in range(16)]
    conn.commit()
    start = get(reader)["next_cursor"]
    with gunicorn(tmp_path, database_url, "whole service") as port, ExitStack() as stack:

        def ask(path: str, key: str) -> HTTPConnection:
            connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=120)))
            headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=30"}
            connection.request("GET", path, headers=headers)
            return connection

        waiting = [ask(f"{FEED}?cursor={start}", keys[number % 15]) for number in range(120)]
        assert ask("/api/v1/batches", keys[15]).getresponse().status == 200
        settled = settle(conn)
        for connection in waiting:
            assert keys_of(json.loads(connection.getresponse().read())) == settled


@pytest.mark.parametrize(("others", "seconds"), [(0, 30), (100, 30), (300, 10)])
def test_requests_wait_for_less_time_if_many_wait(app: Flask, reader: FlaskClient, others: int, seconds: float) -> None:
    environ = {"HTTP_PREFER": "wait=60", BESIDE_LOOP: others}
    began = time.monotonic()
    with app.test_request_context(FEED, environ_overrides={**environ, **reader.environ_base}) as context:
        app.dispatch_request()
        wait: Wait = context.request.environ[WAIT]
    assert began + seconds <= wait.until <= time.monotonic() + seconds
