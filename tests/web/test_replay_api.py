"""`POST /api/v1/callbacks/replay`: settling stored callbacks again."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.results import replay as results_replay
from receiver.web.api import callbacks
from tests.factories import (
    deliver,
    differences,
    give_way_once,
    highest_id,
    journal,
    make_batch,
    make_callback,
    phone_number,
    present,
    read_batch,
    result_body,
    states,
)
from tests.web.asking import faults_of, problem_of
from tests.web.conftest import ClientFor

PATH = "/api/v1/callbacks/replay"


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def settle_again(client: FlaskClient, **wanted: Any) -> dict[str, Any]:
    answer = client.post(PATH, json=wanted)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json or {}
    assert list(content) == ["dry_run", "replayed", "changed", "changes", "passed_over"]
    return content


def file_wrongly(conn: Connection, count: int = 1) -> tuple[int, list[int]]:
    """Callbacks that were unreadable when they were received, but are readable now."""
    numbers = [phone_number(index) for index in range(count)]
    batch_id = make_batch(conn, numbers)
    ids = deliver(conn, batch_id, *(b"nonsense" for _ in numbers))
    for callback_id, number in zip(ids, numbers, strict=True):
        conn.execute(
            "update callback set packing = 0, body = %s where callback_id = %s", (result_body(number), callback_id)
        )
    conn.commit()
    return batch_id, ids


def test_callback_that_is_readable_now_becomes_the_result(admin: FlaskClient, conn: Connection) -> None:
    batch_id, (callback_id,) = file_wrongly(conn)
    assert settle_again(admin, ids=[callback_id]) == {
        "dry_run": False,
        "replayed": 1,
        "changed": 1,
        "changes": [
            {
                "callback_id": callback_id,
                "batch_id": batch_id,
                "state_before": "unreadable",
                "state_after": "applied",
                "reason_after": None,
                "row_before": None,
                "row_after": 1,
            }
        ],
        "passed_over": [],
    }
    assert present(read_batch(conn, batch_id).callbacks) == {"received": 1, "applied": 1}
    assert differences(conn) == []
    assert settle_again(admin, ids=[callback_id])["changes"] == []


def test_dry_run_shows_the_same_and_changes_nothing(admin: FlaskClient, conn: Connection) -> None:
    _, ids = file_wrongly(conn, 3)
    before = states(conn, ids)
    report = settle_again(admin, state="unreadable", dry_run=True)
    assert (report["dry_run"], report["replayed"], report["changed"]) == (True, 3, 3)
    assert states(conn, ids) == before
    assert differences(conn) == []
    assert settle_again(admin, state="unreadable") == {**report, "dry_run": False}
    assert states(conn, ids) == [("applied", None)] * 3


def test_more_callbacks_than_one_transaction_are_all_replayed(
    admin: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_replay, "REPLAY_CALLBACKS", 2)
    monkeypatch.setattr(callbacks, "CHANGES_SHOWN", 3)
    _, ids = file_wrongly(conn, 7)
    for dry_run in (True, False):
        report = settle_again(admin, state="unreadable", dry_run=dry_run)
        assert (report["replayed"], report["changed"]) == (7, 7)
        assert [change["callback_id"] for change in report["changes"]] == ids[:3]
    assert states(conn, ids) == [("applied", None)] * 7
    assert differences(conn) == []


def test_ids_that_are_not_settled_are_returned_as_passed_over(admin: FlaskClient, conn: Connection) -> None:
    batch_id, (settled,) = file_wrongly(conn)
    (waiting,) = journal(conn, make_callback(batch_id))
    unknown = highest_id(conn) + 1
    conn.commit()
    report = settle_again(admin, ids=[unknown, settled, waiting, settled])
    assert (report["replayed"], report["changed"], report["passed_over"]) == (1, 1, [waiting, unknown])


def test_other_callbacks_of_the_call_are_decided_again(admin: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    number = phone_number(0)
    first, later = deliver(conn, batch_id, result_body(number), b"nonsense")
    conn.execute(
        "update callback set packing = 0, body = %s where callback_id = %s",
        (result_body(number, "failed", last_event=90), later),
    )
    conn.commit()
    report = settle_again(admin, ids=[later])
    # The second callback has a later event: it wins now, and the previous winner is a conflict.
    assert {change["callback_id"]: change["state_after"] for change in report["changes"]} == {
        first: "conflict",
        later: "applied",
    }
    assert [state for state, _ in states(conn, [first, later])] == ["conflict", "applied"]
    assert differences(conn) == []


@pytest.mark.parametrize("state", ["applied", "duplicate", "conflict", "unmatched", "unreadable"])
def test_every_settled_state_can_be_replayed(admin: FlaskClient, conn: Connection, state: str) -> None:
    batch_id = make_batch(conn)
    number = phone_number(0)
    deliver(conn, batch_id, result_body(number), result_body(number), b"x", result_body(phone_number(9)))
    deliver(conn, batch_id, result_body(number, "failed", last_event=30))
    report = settle_again(admin, state=state)
    assert (report["replayed"], report["changed"]) == (1, 0)


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({}, ("ids", "required")),
        ({"ids": [1], "state": "applied"}, ("ids", "required")),
        ({"ids": []}, ("ids", "invalid")),
        ({"ids": list(range(1, 1002))}, ("ids", "invalid")),
        ({"ids": [0]}, ("ids", "invalid")),
        ({"ids": [1.5]}, ("ids", "invalid")),
        ({"ids": [True]}, ("ids", "invalid")),
        ({"ids": [None]}, ("ids", "invalid")),
        ({"ids": [10**30]}, ("ids", "invalid")),
        ({"ids": "1"}, ("ids", "invalid")),
        ({"state": "waiting"}, ("state", "invalid")),
        ({"state": 5}, ("state", "invalid")),
        ({"state": "applied", "dry_run": "yes"}, ("dry_run", "invalid")),
        ({"state": "applied", "dryrun": True}, ("dryrun", "unknown_field")),
    ],
)
def test_wrong_parameters_are_faults(admin: FlaskClient, wanted: dict[str, Any], fault: tuple[str, str]) -> None:
    assert fault in faults_of(admin.post(PATH, json=wanted))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff", "not_json"),
        (b"[1]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"ids": [NaN]}', "not_a_number"),
        (b'{"ids": [-Infinity]}', "not_a_number"),
        (b'{"ids": [1e400]}', "not_a_number"),
        (b'{"ids": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
        (b'{"ids": [' + b"9" * 5000 + b"]}", "not_json"),
        (b'{"state": "applied", "state": "conflict"}', "repeated_field"),
        (b'{"state": "\\ud800"}', "unusable_text"),
        (b'{"\\udfff": 1}', "unusable_text"),
        (b'{"state": "\\u0000"}', "unusable_text"),
    ],
)
def test_json_that_cannot_be_stored_is_refused_with_a_code(admin: FlaskClient, body: bytes, code: str) -> None:
    assert faults_of(admin.post(PATH, data=body, content_type="application/json")) == [("body", code)]


def test_other_content_type_and_too_large_body_are_refused(admin: FlaskClient) -> None:
    for content_type in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        problem_of(admin.post(PATH, data=b"{}", content_type=content_type), 415, "unsupported_media_type")
    large = b'{"ids": [' + b" " * (1 << 20) + b"1]}"
    problem_of(admin.post(PATH, data=large, content_type="application/json"), 413, "too_large")


@pytest.mark.parametrize("scope", ["read", "queue"])
def test_replay_needs_the_scope_admin(client_for: ClientFor, scope: Any) -> None:
    problem_of(client_for(scope).post(PATH, json={"state": "applied"}), 403, "forbidden")


def test_replay_is_repeated_after_a_deadlock(admin: FlaskClient, conn: Connection) -> None:
    batch_id, ids = file_wrongly(conn)
    give_way_once(conn)
    assert settle_again(admin, ids=ids)["changed"] == 1
    assert read_batch(conn, batch_id).counts["completed"] == 1
