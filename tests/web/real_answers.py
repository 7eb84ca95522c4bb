"""Real answers of the API for a batch from its dry run to its results: the examples of the description.

`EXAMPLES_WRITE=1 pytest tests/web/test_openapi.py` writes them into receiver/web/reference/examples.json.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from receiver.changes.events import Events
from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.relay import endpoints
from receiver.relay.sending import Attempt
from receiver.release.answer import Answer
from receiver.web import jobs
from receiver.web.api import endpoints as endpoints_api
from receiver.web.api import release
from tests.factories import (
    NOON,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    settle_all,
)
from tests.feeding import give_all
from tests.web.asking import post_csv

EXAMPLES = Path(__file__).parents[2] / "receiver" / "web" / "reference" / "examples.json"

CONTACTS = """\
destination,first_name,appointment
6175551234,Ana,2026-12-01 09:30
tel:+16175551299,Björn,2026-12-01 10:00
16175550147;ani=8009957586,Chloé,2026-12-01 10:30
555,Dev,2026-12-01 11:00
(617) 555-0188,Eve,2026-12-01 11:30
"""
PARAMETERS = {
    "name": "December reminders",
    "end_timestamp": "2099-12-01T22:00:00Z",
    "max_attempts": "3",
    "reattempt_wait": "300",
}
NAMED = {"Idempotency-Key": "reminders-2026-12-01"}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def timeless(answers: Any) -> str:
    """Answers as text, with every time replaced."""
    return _TIME.sub("TIME", json.dumps(answers, ensure_ascii=False, indent=1, sort_keys=True))


class Answers:
    """Collects answers in the form of the description."""

    def __init__(self) -> None:
        self.gathered: dict[str, dict[str, Any]] = {"problems": {}}

    def keep(self, operation: str, status: int, answer: TestResponse) -> None:
        assert answer.status_code == status, answer.text
        content = answer.json if answer.mimetype == "application/json" else answer.text
        self.gathered.setdefault(operation, {})[str(status)] = content

    def keep_problem(self, status: int, code: str, answer: TestResponse) -> None:
        content = json.loads(answer.data)
        assert (answer.status_code, content["code"]) == (status, code), answer.text
        self.gathered["problems"][code] = content


def collect(app: Flask, limited: Flask, without_database: Flask, conn: Connection) -> dict[str, Any]:
    """The answers of every operation and every problem. `limited`: an app with one request per minute."""
    clients = {}
    for scope in ("read", "queue", "admin"):
        clients[scope] = app.test_client()
        clients[scope].environ_base["HTTP_AUTHORIZATION"] = f"Bearer {create_key(conn, scope, scope)}"
    conn.commit()
    answers = Answers()
    batch_id = _queue(answers, clients["queue"], conn)
    _read(answers, clients["admin"], batch_id)
    _follow(answers, clients["read"], conn)
    _control(answers, clients, conn)
    _deliver_events(answers, clients["admin"], conn)
    _remove(answers, clients["admin"], conn)
    _make_keys(answers, clients["admin"])
    _fail(answers, app, without_database, clients)
    client = limited.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = clients["read"].environ_base["HTTP_AUTHORIZATION"]
    client.get("/api/v1/batches")
    answers.keep_problem(429, "rate_limited", client.get("/api/v1/batches"))
    return answers.gathered


def _queue(answers: Answers, client: FlaskClient, conn: Connection) -> int:
    answers.keep("queue_batch", 200, _post(client, {**PARAMETERS, "calling_hours": "09:00-21:00", "dry_run": "1"}))
    answers.keep_problem(422, "invalid_csv", _post(client, PARAMETERS))
    answers.keep("export_faulty_rows", 200, _post(client, PARAMETERS, path="/api/v1/batches/errors.csv"))
    chosen = {**PARAMETERS, "on_invalid": "skip"}
    answers.keep("queue_batch", 202, _post(client, chosen, NAMED))
    answer_submissions(conn, lambda sent: Answer("accepted", provider_status=200, calls_queued=4))
    accepted = _post(client, chosen, NAMED)
    answers.keep("queue_batch", 201, accepted)
    batch_id = int(accepted.headers["Location"].rpartition("/")[2])
    answers.keep_problem(422, "idempotency_key_reused", _post(client, PARAMETERS | {"name": "Other"}, NAMED))
    began = int(NOON.timestamp())
    steps = {"queued": 0, "dialing": 5, "connected": 28, "disconnected": 60}
    events = [{"event": event, "timestamp": began + seconds} for event, seconds in steps.items()]
    completed = result_body(6175551234, attempts="2", duration=32, events=events)
    deliver(
        conn, batch_id, completed, completed, result_body(6175551299), result_body(6175550147, "failed", attempts="3")
    )
    journal(conn, make_callback(batch_id, b"\xff\xfe not text", content_type="text/plain", received_at=NOON))
    settle_all(conn)

    refused = {"Idempotency-Key": "refused"}
    post_csv(client, headers=refused)
    answer_submissions(conn, lambda sent: REFUSED)
    answers.keep_problem(502, "provider_refused", post_csv(client, headers=refused))
    _follow_up(answers, client, conn, batch_id)
    return batch_id


def _follow_up(answers: Answers, client: FlaskClient, conn: Connection, batch_id: int) -> None:
    path, now = f"/api/v1/batches/{batch_id}/follow-ups", {"Prefer": "wait=0"}
    body = {"outcomes": ["failed"], "name": "December reminders, again"}
    answers.keep("follow_up", 200, client.post(path, json={**body, "dry_run": True}))
    named = {**now, "Idempotency-Key": "again"}
    answers.keep("follow_up", 202, client.post(path, json=body, headers=named))
    answer_submissions(conn)
    answers.keep("follow_up", 201, client.post(path, json=body, headers=named))
    answers.keep_problem(422, "nothing_to_follow_up", client.post(path, json=body, headers=now))
    answers.keep("get_lineage", 200, client.get(f"/api/v1/batches/{batch_id}/lineage"))


def _post(
    client: FlaskClient,
    fields: dict[str, str],
    headers: dict[str, str] | None = None,
    path: str = "/api/v1/batches",
) -> TestResponse:
    return post_csv(client, CONTACTS, headers=headers, file_name="contacts.csv", path=path, **fields)


def _read(answers: Answers, client: FlaskClient, batch_id: int) -> None:
    for operation, path in {
        "list_batches": "/batches?limit=1",
        "get_batch": f"/batches/{batch_id}",
        "list_calls": f"/batches/{batch_id}/calls?state=final&limit=2",
        "get_call": f"/batches/{batch_id}/calls/1",
        "find_calls": "/calls?phone_number=(617)%20555-1299",
        "list_callbacks": f"/callbacks?batch_id={batch_id}&limit=2",
        "export_calls_csv": f"/batches/{batch_id}/calls.csv",
        "export_calls_ndjson": f"/batches/{batch_id}/calls.ndjson",
        "export_skipped_csv": f"/batches/{batch_id}/skipped.csv",
        "export_every_call_csv": "/calls.csv?outcome=failed",
        "export_every_call_ndjson": "/calls.ndjson?outcome=failed",
        "get_summary": f"/summary?batch_id={batch_id}&interval=hour",
        "get_breakdown": f"/summary/breakdown?by=area&batch_id={batch_id}",
    }.items():
        answers.keep(operation, 200, client.get(f"/api/v1{path}"))
    oldest = client.get(f"/api/v1/callbacks?batch_id={batch_id}").json["callbacks"][-1]["id"]  # type: ignore[index]  # if it is missing, the test fails
    answers.keep("get_callback", 200, client.get(f"/api/v1/callbacks/{oldest}"))
    _suppress(answers, client)
    acknowledged = client.post("/api/v1/callbacks/acknowledge", json={"state": "unreadable", "note": "A test."})
    answers.keep("acknowledge_callbacks", 200, acknowledged)
    replay = client.post("/api/v1/callbacks/replay", json={"state": "duplicate", "dry_run": True})
    answers.keep("replay_callbacks", 200, replay)


def _follow(answers: Answers, client: FlaskClient, conn: Connection) -> None:
    conn.execute("update feed set epoch = 1")  # it is random, and a part of each cursor
    conn.commit()
    give_all(conn)
    answers.keep("list_results", 200, client.get("/api/v1/results?limit=1"))
    expired = client.get("/api/v1/results?cursor=now").get_json()["next_cursor"]
    conn.execute("update feed set epoch = 2")
    conn.commit()
    answers.keep_problem(410, "cursor_expired", client.get(f"/api/v1/results?cursor={expired}"))


PACED: dict[str, Any] = {
    "name": "Paced",
    "external_id": "crm-2041",
    "labels": '{"team": "north"}',
    "calls_per_minute": "1",
    "application_id": "8",
}


def _control(answers: Answers, clients: dict[str, FlaskClient], conn: Connection) -> None:
    """A batch whose first call is released while it is queued, and whose others are held back."""
    queuer, admin = clients["queue"], clients["admin"]
    contacts = "destination\n6175551234\n6175551299\n6175550188\n"
    batch_id = post_csv(queuer, contacts, file_name="paced.csv", **PACED).get_json()["id"]
    path = f"/api/v1/batches/{batch_id}"
    answers.keep_problem(409, "external_id_used", post_csv(queuer, contacts, **PACED))
    answer_submissions(conn, lambda _: UNKNOWN)
    answers.keep("list_submissions", 200, queuer.get(f"{path}/submissions?limit=2"))
    answers.keep("pause_batch", 200, queuer.post(f"{path}/pause", json={"note": "The text has a mistake."}))
    answers.keep("resume_batch", 200, queuer.post(f"{path}/resume"))
    problem = queuer.patch(path, json={"calling_hours": "09:00-21:00"})
    answers.keep_problem(409, "not_cut_by_zone", problem)
    answers.keep("change_batch", 200, queuer.patch(path, json={"calls_per_minute": 60, "labels": {"team": "south"}}))
    said = {"queued": True, "note": "The provider's page lists it."}
    answers.keep("resolve_submission", 200, queuer.post(f"{path}/submissions/1/resolve", json=said))
    answers.keep_problem(409, "not_in_doubt", queuer.post(f"{path}/submissions/1/resolve", json=said))
    path_of_deployment = "/api/v1/deployments/8/3/cancel"
    answers.keep("cancel_deployment", 200, admin.post(path_of_deployment, json={"dry_run": True}))
    answers.keep("acknowledge_batch", 200, queuer.post(f"{path}/acknowledge", json={"note": "Seen."}))
    answers.keep("cancel_batch", 200, queuer.post(f"{path}/cancel", json={"note": "Wrong file."}))
    answers.keep_problem(409, "nothing_unreleased", queuer.patch(path, json={"calls_per_minute": 1}))

    other = make_batch(conn, [phone_number(0)], send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    answers.keep("resolve_batch", 200, queuer.post(f"/api/v1/batches/{other}/resolve", json=said))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "SENDING_SECONDS", 0.0)  # there is no worker
        answers.keep_problem(409, "sending", admin.post("/api/v1/deployments/7/3/cancel"))


def _suppress(answers: Answers, client: FlaskClient) -> None:
    path = "/api/v1/suppressions"
    given = {"phone_number": "(617) 555-1299", "reason": "opted_out", "note": "Asked by e-mail."}
    suppressed = client.post(path, json=given)
    answers.keep("suppress", 201, suppressed)
    csv = b"phone_number,reason\n+16175551299,opted_out\n+16175550147,opted_out\n555,opted_out\n"
    answers.keep("suppress", 200, client.post(path, data={"csv": (BytesIO(csv), "numbers.csv")}))
    answers.keep("list_suppressions", 200, client.get(f"{path}?limit=1"))
    assert client.delete(f"{path}/{(suppressed.json or {})['id']}").status_code == 204
    answers.keep("list_audit", 200, client.get("/api/v1/audit?limit=2"))


def _remove(answers: Answers, client: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(77)])
    erased = client.post("/api/v1/erasures", json={"phone_number": f"+{phone_number(77)}"})
    answers.keep("erase_number", 200, erased)
    answers.keep("get_erasure", 200, client.get(erased.headers["Location"]))
    purge = {"batch_id": batch_id}
    answers.keep_problem(409, "not_ended", client.post("/api/v1/purges", json=purge))
    purged = client.post("/api/v1/purges", json={**purge, "force": True})
    answers.keep("purge", 200, purged)
    answers.keep("get_purge", 200, client.get(purged.headers["Location"]))
    journal(conn, make_callback(1, result_body(phone_number(78))))
    answers.keep_problem(409, "in_use", client.post("/api/v1/erasures", json={"phone_number": f"+{phone_number(78)}"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "LONGEST_WAIT_SECONDS", 0)
        patch.setattr(threading.Thread, "start", lambda _: None)
        for operation, path, body in (
            ("erase_number", "erasures", {"phone_number": "+16175550199"}),
            ("purge", "purges", {"batch_id": batch_id}),
        ):
            answers.keep(operation, 202, client.post(f"/api/v1/{path}", json=body))


def _make_keys(answers: Answers, client: FlaskClient) -> None:
    given = {"name": "dashboard", "scope": "read", "expires_at": "2099-12-01T22:00:00Z"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "choice", lambda letters: letters[0])
        patch.setattr(secrets, "token_urlsafe", lambda _: "A" * 43)
        answers.keep("create_key", 201, client.post("/api/v1/keys", json=given))
    answers.keep_problem(409, "key_name_taken", client.post("/api/v1/keys", json=given))
    answers.keep("list_keys", 200, client.get("/api/v1/keys?limit=1"))


def _deliver_events(answers: Answers, client: FlaskClient, conn: Connection) -> None:
    """Of an endpoint that nobody can reach from here. So its name and the attempt are made up."""
    path = "/api/v1/endpoints"
    given = {"url": "https://crm.example.com/results", "description": "CRM", "events": ["call.result", "batch.ended"]}
    attempt = Attempt(datetime.now(UTC), 200, 0, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoints, "check_url", lambda *_: None)
        patch.setattr(endpoints, "_new_secret", lambda: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
        patch.setattr(endpoints_api, "send_test", lambda *_: attempt)
        answers.keep("create_endpoint", 201, client.post(path, json=given))
        events = Events()
        events.replace("call.result", [(1, 1)])
        events.write(conn)
        conn.commit()
        answers.keep("list_endpoints", 200, client.get(path))
        [endpoint] = (client.get(path).json or {})["endpoints"]
        path += f"/{endpoint['id']}"
        answers.keep("get_endpoint", 200, client.get(path))
        answers.keep("change_endpoint", 200, client.patch(path, json={"enabled": False}))
        answers.keep("rotate_endpoint", 200, client.post(f"{path}/rotate"))
        answers.keep("test_endpoint", 200, client.post(f"{path}/test"))
        answers.keep("list_deliveries", 200, client.get(f"{path}/deliveries?state=waiting"))
        answers.keep("retry_deliveries", 200, client.post(f"{path}/retry", json={"state": "given_up"}))
        answers.keep("acknowledge_given_up", 200, client.post(f"{path}/acknowledge", json={"note": "Its outage."}))


def _fail(answers: Answers, app: Flask, without_database: Flask, clients: dict[str, FlaskClient]) -> None:
    reader, queuer = clients["read"], clients["queue"]
    answers.keep_problem(401, "unauthorized", app.test_client().get("/api/v1/batches"))
    answers.keep_problem(403, "forbidden", post_csv(reader))
    answers.keep_problem(404, "not_found", reader.get("/api/v1/batches/99"))
    answers.keep_problem(405, "method_not_allowed", reader.delete("/api/v1/batches/1"))
    answers.keep_problem(406, "not_acceptable", reader.get("/api/v1/batches", headers={"Accept": "text/html"}))
    answers.keep_problem(415, "unsupported_media_type", queuer.post("/api/v1/batches", json={}))
    answers.keep_problem(422, "invalid_parameters", post_csv(queuer, max_attempts="11", retries="3"))
    large = queuer.post(
        "/api/v1/batches",
        input_stream=BytesIO(b"--B--\r\n"),
        content_type="multipart/form-data; boundary=B",
        environ_overrides={"CONTENT_LENGTH": str(2 << 30)},
    )
    answers.keep_problem(413, "too_large", large)
    without_database.add_url_rule("/api/v1/fail", "fail", _raise)
    client = without_database.test_client()
    answers.keep_problem(500, "internal_error", client.get("/api/v1/fail"))
    key = {"Authorization": "Bearer rr_abcdefgh_" + "A" * 43}
    answers.keep_problem(503, "database_unavailable", client.get("/api/v1/batches", headers=key))


def _raise() -> str:
    raise RuntimeError("of a fault in the code")
