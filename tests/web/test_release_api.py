"""Release control over REST: pause, resume, cancel, change, resolve, and the cancellation of a deployment."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.config import Config
from receiver.database.pool import Connection
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.provider import Provider
from receiver.release.recording import record_answer
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.web.api import release
from receiver.worker import Worker
from tests.factories import (
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
)
from tests.queueing.queueing import NOT_SENT
from tests.waiting import eventually
from tests.web.asking import OPEN_HOURS, faults_of, problem_of
from tests.web.conftest import ClientFor

DEPLOYMENT = "/api/v1/deployments/7/3/cancel"


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def paced(conn: Connection, calls: int = 3, **parameters: Any) -> int:
    """A batch of which the first call was released."""
    numbers = [phone_number(index) for index in range(calls)]
    return make_batch(conn, numbers, calls_per_minute=1, **parameters)


def ask(client: FlaskClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/api/v1{path}", json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def changes(conn: Connection) -> list[tuple[Any, ...]]:
    found = conn.execute("select actor, action, batch_id, note from audit where action <> 'queue' order by audit_id")
    rows = found.fetchall()
    conn.rollback()
    return rows


def test_pause_and_resume_are_answered_with_the_batch_and_may_be_repeated(
    queuer: FlaskClient, conn: Connection
) -> None:
    batch_id = paced(conn)
    assert queuer.get(f"/api/v1/batches/{batch_id}").get_json()["phase"] == "releasing"
    paused = queuer.post(f"/api/v1/batches/{batch_id}/pause").get_json()
    assert (paused["state"], paused["phase"]) == ("queueing", "paused")
    assert paused["paused_at"] is not None
    assert [each["release_at"] is None for each in paused["submissions"]] == [False, True, True]
    assert ask(queuer, f"/batches/{batch_id}/pause", note="again") == paused
    resumed = ask(queuer, f"/batches/{batch_id}/resume", note="go on")
    assert (resumed["phase"], resumed["paused_at"]) == ("releasing", None)
    assert ask(queuer, f"/batches/{batch_id}/resume") == resumed
    assert changes(conn) == [
        ("queue key", "pause", batch_id, None),
        ("queue key", "resume", batch_id, "go on"),
    ]


def test_batch_of_which_nothing_is_unreleased_is_not_paused(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    conn.commit()
    sending = ask(queuer, f"/batches/{batch_id}/pause")
    assert (sending["state"], sending["phase"], sending["paused_at"]) == ("queueing", "calling", None)
    assert outgoing is not None
    record_answer(conn, outgoing, NOT_SENT)
    conn.commit()
    waiting = queuer.get(f"/api/v1/batches/{batch_id}").get_json()
    assert waiting["phase"] == "paused" and waiting["paused_at"] is not None, "nothing further is released"


def test_submission_that_is_sent_again_has_no_due_time_yet(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    path = f"/api/v1/batches/{batch_id}"
    answer_submissions(conn, lambda _: UNKNOWN)
    (unknown,) = queuer.get(path).get_json()["submissions"]
    assert unknown["due_at"] is not None
    ask(queuer, f"/batches/{batch_id}/resolve", queued=False, note="seen")
    for waiting in (queuer.get(path).get_json(), queuer.get(f"{path}/submissions").get_json()):
        assert [(each["state"], each["due_at"]) for each in waiting["submissions"]] == [("pending", None)]


def test_cancel_says_how_many_calls_were_withdrawn_and_how_many_continue(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = paced(conn)
    canceled = ask(queuer, f"/batches/{batch_id}/cancel", note="wrong file")
    assert (canceled["withdrawn"], canceled["at_provider"]) == (2, 1)
    assert (canceled["state"], canceled["phase"], canceled["due_at_estimated"]) == ("queued", "calling", False)
    assert (canceled["counts"]["withdrawn"], canceled["counts"]["pending"]) == (2, 1)
    again = queuer.post(f"/api/v1/batches/{batch_id}/cancel").get_json()
    assert again == {**canceled, "withdrawn": 0}
    assert changes(conn) == [("queue key", "cancel", batch_id, "wrong file")]

    calls = queuer.get(f"/api/v1/batches/{batch_id}/calls").get_json()["calls"]
    assert [(call["state"], call["withdrawn_reason"]) for call in calls] == [
        ("pending", None),
        ("withdrawn", "canceled"),
        ("withdrawn", "canceled"),
    ]
    found = queuer.get(f"/api/v1/batches/{batch_id}/calls?state=withdrawn").get_json()["calls"]
    assert found == calls[1:]
    one = queuer.get(f"/api/v1/batches/{batch_id}/calls/2").get_json()
    assert (one["state"], one["withdrawn_reason"]) == ("withdrawn", "canceled")
    csv = queuer.get(f"/api/v1/batches/{batch_id}/calls.csv").text.splitlines()
    assert csv[0].endswith(",result_source,withdrawn_reason")
    assert [line.rpartition(",")[2] for line in csv[1:]] == ["", "canceled", "canceled"]
    lines = queuer.get(f"/api/v1/batches/{batch_id}/calls.ndjson").text.splitlines()
    assert [json.loads(line) for line in lines] == calls
    assert queuer.get("/api/v1/summary").get_json()["totals"]["withdrawn"] == 2
    assert differences(conn) == []


def test_batch_of_which_nothing_was_sent_is_canceled_and_ended(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    canceled = ask(queuer, f"/batches/{batch_id}/cancel")
    assert (canceled["state"], canceled["phase"], canceled["progress"]) == ("canceled", "ended", 1.0)
    assert canceled["ended_at"] is not None
    assert queuer.get("/api/v1/batches?state=canceled").get_json()["batches"][0]["id"] == batch_id


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "resolve", "submissions/1/resolve"])
def test_changes_of_a_batch_need_the_scope_queue_and_a_batch(
    reader: FlaskClient, queuer: FlaskClient, action: str
) -> None:
    body = {"queued": True, "note": "seen"} if action.endswith("resolve") else {}
    problem_of(reader.post(f"/api/v1/batches/1/{action}", json=body), 403, "forbidden")
    problem_of(queuer.post(f"/api/v1/batches/1/{action}", json=body), 404, "not_found")


def test_bodies_are_checked(queuer: FlaskClient, conn: Connection) -> None:
    path = f"/api/v1/batches/{make_batch(conn)}/cancel"
    assert faults_of(queuer.post(path, json={"notes": "x"})) == [("notes", "unknown_field")]
    assert faults_of(queuer.post(path, json={"note": 7})) == [("note", "invalid")]
    assert faults_of(queuer.post(path, json={"note": "x" * 2001})) == [("note", "too_long")]
    assert faults_of(queuer.post(f"{path}?dry_run=1")) == [("dry_run", "unknown_field")]
    problem_of(queuer.post(path, data="note=x", content_type="text/plain"), 415, "unsupported_media_type")


def test_names_can_be_changed_at_any_time(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    path = f"/api/v1/batches/{batch_id}"
    changed = queuer.patch(path, json={"name": "New", "external_id": "crm 7", "labels": {"team": "north"}})
    assert changed.status_code == 200
    batch = changed.get_json()
    assert (batch["name"], batch["external_id"], batch["labels"]) == ("New", "crm 7", {"team": "north"})
    assert queuer.get(path).get_json() == batch
    other = make_batch(conn)
    content = problem_of(
        queuer.patch(f"/api/v1/batches/{other}", json={"external_id": "crm 7"}), 409, "external_id_used"
    )
    assert content["batch_id"] == batch_id
    assert queuer.patch(path, json={"external_id": None, "labels": {}}).get_json()["external_id"] is None
    assert queuer.patch(path, json={}).get_json()["name"] == "New"
    assert [action for _, action, *_ in changes(conn)] == ["change", "change"]


def test_rest_of_a_batch_can_be_changed(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = paced(conn, calling_hours=(0, 1440), time_zone=OPEN_HOURS["time_zone"])
    wanted = {
        "calls_per_minute": 60,
        "calling_hours": "00:00-23:30",
        "calling_days": "mon,tue,wed,thu,fri,sat,sun",
        "end_timestamp": (datetime.now(UTC) + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    answer = queuer.patch(f"/api/v1/batches/{batch_id}", json=wanted)
    assert answer.status_code == 200, answer.text
    parameters = answer.get_json()["parameters"]
    assert {name: parameters[name] for name in wanted} == wanted
    removed = queuer.patch(f"/api/v1/batches/{batch_id}", json={"calls_per_minute": None, "end_timestamp": None})
    parameters = removed.get_json()["parameters"]
    assert (parameters["calls_per_minute"], parameters["end_timestamp"]) == (None, None)


def test_change_that_does_not_fit_is_refused_with_its_code(queuer: FlaskClient, conn: Connection) -> None:
    large = make_batch(conn, map(phone_number, range(5)), send=False)
    path = f"/api/v1/batches/{large}"
    assert faults_of(queuer.patch(path, json={"calls_per_minute": 4})) == [("calls_per_minute", "out_of_range")]
    assert faults_of(queuer.patch(path, json={"calls_per_minute": "5"})) == [("calls_per_minute", "invalid")]
    past = faults_of(queuer.patch(path, json={"end_timestamp": "2020-01-01T00:00:00Z"}))
    assert past == [("end_timestamp", "in_the_past")]
    assert faults_of(queuer.patch(path, json={"max_attempts": 3})) == [("max_attempts", "unknown_field")]
    assert faults_of(queuer.patch(path, json={"name": None})) == [("name", "invalid")]
    problem_of(queuer.patch(path, json={"calling_hours": "09:00-21:00"}), 409, "not_cut_by_zone")
    problem_of(queuer.patch(path, json={"calling_days": "mon"}), 409, "not_cut_by_zone")
    starts = datetime.now(UTC) + timedelta(days=2)
    later = make_batch(conn, calls_per_minute=60, start_timestamp=starts, send=False)
    before = (starts - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = queuer.patch(f"/api/v1/batches/{later}", json={"end_timestamp": before})
    assert faults_of(answer) == [("end_timestamp", "invalid")]
    sent = make_batch(conn)
    for change in ({"calls_per_minute": 60}, {"end_timestamp": None}, {"calling_hours": "09:00-21:00"}):
        problem_of(queuer.patch(f"/api/v1/batches/{sent}", json=change), 409, "nothing_unreleased")
    problem_of(queuer.patch("/api/v1/batches/99", json={"name": "x"}), 404, "not_found")
    problem_of(queuer.patch("/api/v1/batches/99", json={}), 404, "not_found")


def test_all_submissions_are_listed_page_by_page(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, map(phone_number, range(120)), submission_rows=1)
    batch = reader.get(f"/api/v1/batches/{batch_id}").get_json()
    assert (len(batch["submissions"]), batch["submissions_total"]) == (100, 120)
    path, found, cursor = f"/api/v1/batches/{batch_id}/submissions?limit=50", [], None
    while True:
        page = reader.get(path + (f"&cursor={cursor}" if cursor else "")).get_json()
        found += page["submissions"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [each["id"] for each in found] == list(range(1, 121))
    assert found[:100] == batch["submissions"]
    problem_of(reader.get("/api/v1/batches/99/submissions"), 404, "not_found")


def unknown(conn: Connection, calls: int = 3) -> int:
    batch_id = make_batch(conn, map(phone_number, range(calls)), submission_rows=1, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    return batch_id


def test_person_resolves_one_submission(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = unknown(conn)
    path = f"/batches/{batch_id}/submissions"
    for number, queued, state in ((1, True, "accepted"), (2, False, "pending")):
        batch = ask(queuer, f"{path}/{number}/resolve", queued=queued, note="seen on their page")
        assert {each["id"]: each["state"] for each in batch["submissions"]}[number] == state
    problem_of(queuer.post(f"/api/v1{path}/1/resolve", json={"queued": True, "note": "again"}), 409, "not_in_doubt")
    problem_of(queuer.post(f"/api/v1{path}/9/resolve", json={"queued": True, "note": "x"}), 404, "not_found")
    assert faults_of(queuer.post(f"/api/v1{path}/3/resolve", json={"queued": True})) == [("note", "required")]
    assert faults_of(queuer.post(f"/api/v1{path}/3/resolve", json={"note": "x"})) == [("queued", "required")]
    assert faults_of(queuer.post(f"/api/v1{path}/3/resolve", json={"queued": "yes", "note": " "})) == [
        ("queued", "invalid")
    ]
    assert faults_of(queuer.post(f"/api/v1{path}/3/resolve", json={"queued": True, "note": " "})) == [
        ("note", "required")
    ]
    assert changes(conn) == [("queue key", "resolve", batch_id, "seen on their page")] * 2


def test_person_resolves_all_submissions_but_those_that_a_callback_proves(
    queuer: FlaskClient, conn: Connection
) -> None:
    batch_id = unknown(conn)
    journal(conn, make_callback(batch_id, result_body(phone_number(1)), submission_no=2))
    batch = ask(queuer, f"/batches/{batch_id}/resolve", queued=False, note="not on their page")
    assert {each["id"]: each["state"] for each in batch["submissions"]} == {1: "pending", 2: "unknown", 3: "pending"}
    problem_of(
        queuer.post(f"/api/v1/batches/{batch_id}/resolve", json={"queued": False, "note": "again"}), 409, "not_in_doubt"
    )
    assert (
        ask(queuer, f"/batches/{batch_id}/resolve", queued=True, note="it is")["submissions"][1]["state"] == "accepted"
    )


def test_submission_that_is_not_queued_in_a_canceled_batch_is_withdrawn(queuer: FlaskClient, conn: Connection) -> None:
    batch_id = unknown(conn)
    assert ask(queuer, f"/batches/{batch_id}/cancel")["at_provider"] == 3
    batch = ask(queuer, f"/batches/{batch_id}/resolve", queued=False, note="not on their page")
    assert (batch["state"], batch["counts"]["withdrawn"]) == ("canceled", 3)
    assert differences(conn) == []


# The deployment -----------------------------------------------------------------------------------------------------


@pytest.fixture
def provider(config: Config, database_url: str) -> Iterator[Simulator]:
    """A provider that dials nobody for now, and a worker that sends to it."""
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(Settings(check=False, speed=0.001)))
        worker = Worker(config, database_url, Provider(simulator.url, "simulator", "simulator"))
        thread = threading.Thread(target=worker.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(worker.stop)
        yield simulator


def test_dry_run_names_every_batch_of_the_deployment_and_changes_nothing(admin: FlaskClient, conn: Connection) -> None:
    sent, part = make_batch(conn, map(phone_number, range(2)), name="sent"), paced(conn, name="part")
    make_batch(conn, deployment_id=4)
    ended = make_batch(conn, [phone_number(5)])
    deliver(conn, ended, result_body(phone_number(5)))
    answer = admin.post(DEPLOYMENT, json={"dry_run": True})
    assert answer.get_json() == {
        "batches": [
            {"id": sent, "name": "sent", "calls_pending": 2, "withdrawn": 0},
            {"id": part, "name": "part", "calls_pending": 1, "withdrawn": 2},
        ],
        "calls_pending": 3,
        "withdrawn": 2,
        "provider_status": None,
        "provider_state": None,
        "error": None,
    }
    assert changes(conn) == []
    assert admin.get(f"/api/v1/batches/{part}").get_json()["counts"]["withdrawn"] == 0


def test_deployment_is_canceled_at_the_provider(admin: FlaskClient, conn: Connection, provider: Simulator) -> None:
    batch_id = make_batch(conn, map(phone_number, range(3)), calls_per_minute=1, send=False)
    path = f"/api/v1/batches/{batch_id}"
    eventually(lambda: admin.get(path).get_json()["submissions"][0]["state"] == "accepted")
    said = admin.post(DEPLOYMENT, json={"note": "stop"}).get_json()
    assert said["batches"] == [{"id": batch_id, "name": "", "calls_pending": 1, "withdrawn": 2}]
    assert (said["calls_pending"], said["withdrawn"]) == (1, 2)
    assert (said["provider_status"], said["provider_state"]) == (202, "accepted")
    batch = admin.get(path).get_json()
    assert (batch["state"], batch["phase"], batch["counts"]["withdrawn"]) == ("queued", "calling", 2)
    assert [action for _, action, *_ in changes(conn)] == ["cancel_deployment", "cancel"]


def test_refusal_of_the_provider_is_told(admin: FlaskClient, provider: Simulator) -> None:
    said = admin.post("/api/v1/deployments/7/404/cancel").get_json()
    assert (said["batches"], said["provider_status"], said["provider_state"]) == ([], 404, "refused")


def test_real_provider_is_not_asked_to_cancel_simulated_calls(
    admin: FlaskClient, conn: Connection, provider: Simulator
) -> None:
    batch_id = make_batch(conn, map(phone_number, range(2)), simulated=True)
    said = admin.post(DEPLOYMENT).get_json()
    assert said["batches"] == [{"id": batch_id, "name": "", "calls_pending": 2, "withdrawn": 0}]
    assert (said["provider_status"], said["provider_state"]) == (None, "refused")
    assert "these calls are simulated" in said["error"]


def test_provider_is_not_asked_while_something_is_being_sent(
    admin: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "SENDING_SECONDS", 0.3)
    batch_id = make_batch(conn, map(phone_number, range(3)), calls_per_minute=1, send=False)
    claim_submission(conn, register_worker(conn, "test", 1))
    conn.commit()
    problem_of(admin.post(DEPLOYMENT, json={}), 409, "sending")
    assert admin.get(f"/api/v1/batches/{batch_id}").get_json()["counts"]["withdrawn"] == 2
    assert conn.execute("select state from deployment_cancel").fetchall() == [("sending",)]


def test_answer_that_does_not_come_is_unknown(
    admin: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(release, "SENDING_SECONDS", 0.0)
    make_batch(conn)
    conn.execute(
        "create function asked() returns trigger language plpgsql as $$ begin new.state := 'asking'; return new; end $$"
    )
    conn.execute("create trigger asked before insert on deployment_cancel for each row execute function asked()")
    conn.commit()
    said = admin.post(DEPLOYMENT, json={}).get_json()
    assert (said["provider_status"], said["provider_state"]) == (None, "unknown")


def test_deployment_is_canceled_by_admins_only(queuer: FlaskClient, admin: FlaskClient) -> None:
    problem_of(queuer.post(DEPLOYMENT, json={}), 403, "forbidden")
    problem_of(admin.post("/api/v1/deployments/0/3/cancel", json={}), 404, "not_found")
    assert faults_of(admin.post(DEPLOYMENT, json={"dry_run": "yes"})) == [("dry_run", "invalid")]
