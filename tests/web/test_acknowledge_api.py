"""`POST …/acknowledge`: what a person has seen is no longer listed as needing attention."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.results.overdue import mark_overdue
from receiver.summary.batches import BatchFilter, list_batches
from receiver.summary.callbacks import count_by_reason
from receiver.summary.needs_attention import Attention, get_attention
from tests.factories import (
    REFUSED,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    phone_number,
    purge_old,
    result_body,
)
from tests.web.asking import faults_of, problem_of
from tests.web.conftest import ClientFor

PATH = "/api/v1/callbacks/acknowledge"


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def attention(conn: Connection) -> Attention:
    found = get_attention(conn, BatchFilter())
    conn.rollback()
    return found


def audited(admin: FlaskClient) -> list[dict[str, Any]]:
    entries = admin.get("/api/v1/audit?action=acknowledge").get_json()["audit"]
    return [{name: entry[name] for name in ("actor", "batch_id", "details", "note")} for entry in entries]


def test_acknowledged_callbacks_need_no_attention(queuer: FlaskClient, admin: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    first, second, unmatched = deliver(conn, batch_id, b"nonsense", b"noise", result_body(phone_number(9)))
    answer = queuer.post(PATH, json={"ids": [first, unmatched, 999], "note": "A test of the provider."})
    assert answer.get_json() == {"acknowledged": 2, "more": False, "passed_over": [999]}
    seen = attention(conn)
    assert (seen.unreadable, seen.unmatched, seen.is_needed) == (1, 0, True)
    assert sum(count_by_reason(conn, "unreadable").values()) == 1
    listed = queuer.get("/api/v1/callbacks?state=unreadable").get_json()["callbacks"]
    assert [(each["id"], each["acknowledged_at"] is not None) for each in listed] == [(second, False), (first, True)]

    answer = queuer.post(PATH, json={"state": "unreadable"})
    assert answer.get_json() == {"acknowledged": 1, "more": False, "passed_over": []}
    assert not attention(conn).is_needed
    assert queuer.post(PATH, json={"state": "unreadable"}).get_json()["acknowledged"] == 0
    deliver(conn, batch_id, b"new nonsense")
    assert attention(conn).unreadable == 1
    assert queuer.get(f"/api/v1/batches/{batch_id}").get_json()["callbacks"]["unreadable"] == 3
    assert audited(admin) == [
        {"actor": "queue key", "batch_id": None, "details": {"callbacks": 1, "state": "unreadable"}, "note": None},
        {
            "actor": "queue key",
            "batch_id": None,
            "details": {"callbacks": 2, "state": None},
            "note": "A test of the provider.",
        },
    ]


def test_callback_in_another_state_after_a_replay_needs_attention_again(
    queuer: FlaskClient, admin: FlaskClient, conn: Connection
) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    (callback_id,) = deliver(conn, batch_id, b"nonsense")
    queuer.post(PATH, json={"ids": [callback_id]})
    replay = {"ids": [callback_id]}
    admin.post("/api/v1/callbacks/replay", json=replay)
    assert attention(conn).unreadable == 0  # the same state: still acknowledged
    conn.execute("update callback set body = %s, packing = 0", (result_body(phone_number(9)),))
    conn.commit()
    admin.post("/api/v1/callbacks/replay", json=replay)
    assert attention(conn).unmatched == 1
    assert queuer.post(PATH, json={"state": "unmatched"}).get_json()["acknowledged"] == 1
    assert attention(conn).unmatched == 0


def test_acknowledged_batch_needs_attention_only_for_what_happens_later(
    queuer: FlaskClient, admin: FlaskClient, conn: Connection
) -> None:
    batch_id = make_batch(conn, [phone_number(row) for row in range(4)], submission_rows=2)
    make_due = "update submission set due_at = now() - interval '1 second' where submission_no = %s"
    refused_id = make_batch(conn, [phone_number(7)], send=False)
    answer_submissions(conn, lambda _: REFUSED)
    conn.execute(make_due, (1,))
    conn.commit()
    mark(conn)
    before = attention(conn)
    assert (before.overdue_calls, before.overdue_batches, before.refused_submissions) == (2, 1, 1)
    for each in (batch_id, refused_id):
        answer = queuer.post(f"/api/v1/batches/{each}/acknowledge", json={"note": "The provider was down."})
        assert (answer.status_code, answer.get_json()["id"]) == (200, each)
    assert not attention(conn).is_needed
    assert list_batches(conn, BatchFilter(overdue=True), 9) == []
    assert list_batches(conn, BatchFilter(submission_state="refused"), 9) == []
    conn.rollback()
    assert queuer.get(f"/api/v1/batches/{batch_id}").get_json()["counts"]["overdue"] == 2
    details = [(entry["batch_id"], entry["details"]) for entry in audited(admin)]
    assert details == [
        (refused_id, {"overdue_calls": 0, "refused_submissions": 1}),
        (batch_id, {"overdue_calls": 2, "refused_submissions": 0}),
    ]
    queuer.post(f"/api/v1/batches/{batch_id}/acknowledge")
    assert len(audited(admin)) == 2  # nothing new was acknowledged

    # A late result, then two more overdue calls: one fewer than before would be hidden by a plain difference.
    deliver(conn, batch_id, result_body(phone_number(0)))
    conn.execute(make_due, (2,))
    conn.commit()
    mark(conn)
    assert attention(conn).overdue_calls == 2
    assert differences(conn) == []


def test_wrong_acknowledgements_are_refused(queuer: FlaskClient, client_for: ClientFor) -> None:
    for body in ({}, {"ids": [1], "state": "conflict"}):
        assert faults_of(queuer.post(PATH, json=body)) == [("ids", "required")]
    assert faults_of(queuer.post(PATH, json={"state": "applied"})) == [("state", "invalid")]
    problem_of(client_for("read").post(PATH, json={"state": "conflict"}), 403, "forbidden")
    problem_of(queuer.post("/api/v1/batches/99/acknowledge"), 404, "not_found")


def test_purge_removes_acknowledgements(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    queuer.post(PATH, json={"ids": deliver(conn, batch_id, b"nonsense")})
    purge_old(conn, batch_id)
    assert conn.execute("select count(*) from acknowledged").fetchall() == [(0,)]


def mark(conn: Connection) -> None:
    mark_overdue(conn)
    conn.commit()
