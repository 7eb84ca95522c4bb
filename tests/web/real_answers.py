"""Real answers of the API for a batch from its dry run to its results: the examples of the description.

`EXAMPLES_WRITE=1 pytest tests/web/test_openapi.py` writes them into receiver/web/reference/examples.json.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.release.answer import Answer
from tests.factories import NOON, REFUSED, answer_submissions, deliver, journal, make_callback, result_body, settle_all
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
    _fail(answers, app, without_database, clients)
    client = limited.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = clients["read"].environ_base["HTTP_AUTHORIZATION"]
    client.get("/api/v1/batches")
    answers.keep_problem(429, "rate_limited", client.get("/api/v1/batches"))
    return answers.gathered


def _queue(answers: Answers, client: FlaskClient, conn: Connection) -> int:
    answers.keep("queue_batch", 200, _post(client, {**PARAMETERS, "dry_run": "1"}))
    answers.keep_problem(422, "invalid_csv", _post(client, PARAMETERS))
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
    return batch_id


def _post(client: FlaskClient, fields: dict[str, str], headers: dict[str, str] | None = None) -> TestResponse:
    return post_csv(client, CONTACTS, headers=headers, file_name="contacts.csv", **fields)


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
        "get_summary": f"/summary?batch_id={batch_id}&interval=hour",
    }.items():
        answers.keep(operation, 200, client.get(f"/api/v1{path}"))
    oldest = client.get(f"/api/v1/callbacks?batch_id={batch_id}").json["callbacks"][-1]["id"]  # type: ignore[index]  # a test that fails is told
    answers.keep("get_callback", 200, client.get(f"/api/v1/callbacks/{oldest}"))
    replay = client.post("/api/v1/callbacks/replay", json={"state": "duplicate", "dry_run": True})
    answers.keep("replay_callbacks", 200, replay)


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
    away = without_database.test_client()
    answers.keep_problem(500, "internal_error", away.get("/api/v1/fail"))
    key = {"Authorization": "Bearer rr_abcdefgh_" + "A" * 43}
    answers.keep_problem(503, "database_unavailable", away.get("/api/v1/batches", headers=key))


def _raise() -> str:
    raise RuntimeError("of a fault in the code")
