"""Requests and checks that the web tests share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from receiver.config import Config
from receiver.database.pool import Connection
from receiver.intake.token import ResultTokens
from receiver.model import SubmissionKey

SECRET = "a secret of the tests and of nobody else"
CSV = "destination,first_name\n6175551234,Ana\ntel:+16175551299,Björn\n"
WANTED = {"application_id": "7", "deployment_id": "3"}

# Nothing is released in the last ten minutes of a day's hours, so midnight is far away in this zone.
OPEN_HOURS: dict[str, Any] = {
    "calling_hours": "00:00-24:00",
    "time_zone": "Etc/UTC" if 6 <= datetime.now(UTC).hour < 18 else "Etc/GMT+12",
}
"""Calling hours that are open now."""


def config_for(data_dir: Path, database_url: str) -> Config:
    return Config(
        data_dir=data_dir,
        public_url="http://127.0.0.1:9",  # the discard port: nobody receives what the simulator posts
        port=8000,
        database_url=database_url,
        secret_keys=(SECRET,),
        plum_user="team@example.com",
        plum_key="the key of nobody",
    )


def results_path(batch_id: int = 1, submission_no: int = 1, secret: str = SECRET) -> str:
    """The path of a submission's `result_url`."""
    return "/results/" + ResultTokens([secret]).sign(SubmissionKey(batch_id, submission_no))


def post_csv(
    client: FlaskClient,
    csv: str | bytes = CSV,
    *,
    headers: Mapping[str, str] | None = None,
    file_name: str = "contacts.csv",
    path: str = "/api/v1/batches",
    **fields: Any,
) -> TestResponse:
    """Queue a CSV like a form, without waiting until a worker has sent it."""
    content = csv.encode() if isinstance(csv, str) else csv
    return client.post(
        path,
        data={**WANTED, **fields, "csv": (BytesIO(content), file_name)},
        headers={"Prefer": "wait=0", **(headers or {})},
    )


def post_parts(client: FlaskClient, parts: Sequence[tuple[str, bytes]], **headers: str) -> TestResponse:
    """A handwritten multipart request. Parts: (the Content-Disposition after `form-data; `, the content)."""
    body = b"".join(
        b"--B\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"
        for disposition, content in parts
    )
    sent = Headers({"Content-Type": "multipart/form-data; boundary=B", "Prefer": "wait=0", **headers})
    return client.post("/api/v1/batches", data=body + b"--B--\r\n", headers=sent)


def problem_of(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The members of a problem answer. Checks its status and code."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    content: dict[str, Any] = json.loads(answer.data)
    assert list(content)[:5] == ["type", "title", "status", "detail", "code"]
    assert content["type"] == f"urn:result-url-receiver:problem:{code}"
    assert (content["status"], content["code"]) == (status, code)
    assert content["title"] and content["detail"]
    return content


def faults_of(answer: TestResponse, code: str = "invalid_parameters") -> list[tuple[str | int, str]]:
    """(field or row, code) of each error of a validation failure."""
    content = problem_of(answer, 422, code)
    for error in content["errors"]:
        assert set(error) - {"line"} in ({"field", "code", "message"}, {"row", "code", "message"})
        assert "row" in error or "line" not in error
        assert error["message"]
    assert len(content["errors"]) == min(content["errors_total"], 100)
    return [(error.get("field", error.get("row")), error["code"]) for error in content["errors"]]


def shape_of(value: Any) -> Any:
    """Names in order and types of values: what a program relies on. Times differ from other texts."""
    if isinstance(value, dict):
        return {name: shape_of(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    if isinstance(value, str) and len(value) >= 20 and value.endswith("Z") and value[10] == "T":
        return "time"
    return type(value).__name__


def count_batches(conn: Connection) -> int:
    row = conn.execute("select count(*) from batch").fetchone()
    conn.rollback()
    assert row is not None
    return int(row[0])
