"""Queueing over REST without the provider, and reading batches."""

import csv
import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.release.answer import Answer
from receiver.release.control import resume_batch
from tests.factories import answer_submissions, deliver, make_batch, phone_number, result_body
from tests.web.asking import CSV, count_batches, faults_of, post_csv, problem_of, shape_of

BATCH_SHAPE = {
    "id": "int",
    "name": "str",
    "external_id": "NoneType",
    "labels": {},
    "application_id": "int",
    "deployment_id": "int",
    "state": "str",
    "phase": "str",
    "simulated": "bool",
    "follows": "NoneType",
    "follow_ups": [],
    "created_by": "str",
    "parameters": {
        "start_timestamp": "NoneType",
        "end_timestamp": "time",
        "max_attempts": "int",
        "reattempt_wait": "int",
        "is_pci": "bool",
        "calls_per_minute": "NoneType",
        "calling_hours": "NoneType",
        "calling_days": "NoneType",
        "time_zone": "NoneType",
    },
    "created_at": "time",
    "queued_at": "time",
    "due_at": "time",
    "due_at_estimated": "bool",
    "paused_at": "NoneType",
    "ended_at": "NoneType",
    "submissions_total": "int",
    "submissions": [
        {
            "id": "int",
            "state": "str",
            "calls": "int",
            "calls_queued": "NoneType",
            "provider_status": "int",
            "error": "NoneType",
            "error_code": "NoneType",
            "time_zone": "NoneType",
            "release_at": "time",
            "due_at": "time",
        }
    ],
    "counts": dict.fromkeys(
        "rows skipped refused withdrawn pending overdue final completed failed canceled rejected other".split(), "int"
    ),
    "callbacks": dict.fromkeys(
        ["received", "waiting", "applied", "duplicate", "conflict", "unmatched", "unreadable"], "int"
    ),
    "attempts": "int",
    "duration_seconds": "int",
    "progress": "float",
    "first_result_at": "time",
    "last_result_at": "time",
}
"""The contract's example, in the same order."""


def end_in(hours: int) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_batch_has_the_fields_of_the_contracts_example(queuer: FlaskClient, conn: Connection) -> None:
    fields: dict[str, Any] = {
        "end_timestamp": end_in(5),
        "max_attempts": "3",
        "reattempt_wait": "300",
        "name": "December reminders",
    }
    queued = post_csv(queuer, CSV + "911,Eve\n", on_invalid="skip", **fields)
    assert queued.status_code == 202
    batch_id = queued.get_json()["id"]
    answer_submissions(conn)
    deliver(conn, batch_id, result_body(16175551234, duration=79), result_body(16175551234, duration=79))
    answer = queuer.get(queued.headers["Location"])
    assert shape_of(answer.json) == {**BATCH_SHAPE, "loss_rate": "NoneType"}
    assert list(answer.get_json()) == [*BATCH_SHAPE, "loss_rate"]
    batch = answer.get_json()
    assert batch["parameters"]["end_timestamp"] == fields["end_timestamp"]
    assert (batch["state"], batch["progress"], batch["duration_seconds"]) == ("queued", 0.5, 79)
    assert {name: number for name, number in batch["counts"].items() if number} == {
        "rows": 3,
        "skipped": 1,
        "pending": 1,
        "final": 1,
        "completed": 1,
    }
    assert batch["callbacks"] == {**dict.fromkeys(batch["callbacks"], 0), "received": 2, "applied": 1, "duplicate": 1}
    assert queuer.get("/api/v1/batches").get_json()["batches"] == [batch]


def test_batch_that_is_not_sent_yet_is_202_with_its_location(queuer: FlaskClient) -> None:
    answer = post_csv(queuer, file_name="Größe für Björn.csv")
    assert answer.status_code == 202
    batch = answer.get_json()
    assert answer.headers["Location"] == f"/api/v1/batches/{batch['id']}"
    assert (batch["state"], batch["name"], batch["queued_at"]) == ("queueing", "Größe für Björn.csv", None)
    assert batch["submissions"][0]["state"] == "pending"
    assert queuer.get(answer.headers["Location"]).get_json() == batch


def test_submissions_are_listed_in_order_as_stored(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, map(phone_number, range(12)), submission_rows=1, send=False)
    text = "\"Größe\" \\ \t\r\n\u2028 \x7f </script> \U0001f4de {'a': [null]}"
    while answer_submissions(conn, lambda _: Answer("refused", provider_status=400, error=text)):
        resume_batch(conn, batch_id, by="test")  # each refusal pauses it
    batch = reader.get(f"/api/v1/batches/{batch_id}").get_json()
    fixed = {"calls": 1, "calls_queued": None, "provider_status": 400, "error": text, "error_code": None}
    assert [
        {name: value for name, value in submission.items() if name not in ("time_zone", "release_at", "due_at")}
        for submission in batch["submissions"]
    ] == [{"id": number, "state": "refused", **fixed} for number in range(1, 13)]
    assert reader.get("/api/v1/batches").get_json()["batches"] == [batch]


def test_text_is_utf_8_and_not_escaped(queuer: FlaskClient) -> None:
    assert "Björn ☎".encode() in post_csv(queuer, name="Björn ☎").data


def test_dry_run_is_a_preview_and_stores_nothing(queuer: FlaskClient, conn: Connection) -> None:
    csv = CSV + "911,Eve\n6175551234,Ana again\n"
    answer = post_csv(queuer, csv, dry_run="1", end_timestamp="2035-01-01T00:00:00Z")
    assert (answer.status_code, count_batches(conn)) == (200, 0)
    preview = answer.get_json()
    errors = preview.pop("errors")
    assert [row["destination"] for row in preview.pop("sample")][2:] == ["911", "6175551234"]
    assert list(preview.items()) == [
        ("rows", 4),
        ("valid", 3),
        ("invalid", 1),
        ("duplicates", 1),
        ("suppressed", 0),
        ("recent", {"rows": 0, "batches": []}),
        ("submissions", 1),
        ("zones", []),
        ("due_at", "2035-01-01T01:00:00Z"),
        ("warnings", []),
        ("errors_total", 2),
    ]
    assert [(error["row"], error["code"]) for error in errors] == [(3, "destination_emergency"), (4, "duplicate")]


def test_preview_reports_an_exported_file(queuer: FlaskClient) -> None:
    answer = post_csv(queuer, "destination,row,code,message\n6175551234,2,duplicate,x\n", dry_run="1")
    (warning,) = answer.json["warnings"] if answer.json else []
    assert (warning["field"], warning["code"]) == ("csv", "exported_file")
    assert "exported by this service" in warning["message"]


def test_invalid_rows_are_named_and_nothing_is_stored(queuer: FlaskClient, conn: Connection) -> None:
    answer = post_csv(queuer, "destination\n6175551234\n5551234\n\n6175551234\n,,x\n")
    assert faults_of(answer, "invalid_csv") == [(2, "destination_invalid"), (3, "duplicate"), (4, "too_many_cells")]
    assert count_batches(conn) == 0


def test_first_hundred_faults_are_listed_and_all_are_counted(queuer: FlaskClient) -> None:
    content = problem_of(post_csv(queuer, "destination\n" + "12\n" * 250), 422, "invalid_csv")
    assert [error["row"] for error in content["errors"]] == list(range(1, 101))
    assert content["errors_total"] == 250
    query = "&".join(f"unknown_{index}=1" for index in range(150))
    content = problem_of(queuer.get(f"/api/v1/batches?{query}"), 422, "invalid_parameters")
    assert (len(content["errors"]), content["errors_total"]) == (100, 150)


@pytest.mark.parametrize(
    ("csv", "code"),
    [
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"destination\n", "no_rows"),
        (b"phone\n6175551234\n", "missing_destination"),
        (b"destination,a,a\n6175551234,,\n", "repeated_column_name"),
        (b"PK\x03\x04", "broken_workbook"),
    ],
)
def test_file_that_is_not_a_csv_of_contacts_is_a_fault(queuer: FlaskClient, csv: bytes, code: str) -> None:
    for dry_run in "01":
        assert faults_of(post_csv(queuer, csv, dry_run=dry_run), "invalid_csv") == [("csv", code)]


def test_all_wrong_parameters_are_reported_together(queuer: FlaskClient, conn: Connection) -> None:
    answer = post_csv(
        queuer,
        application_id="0",
        deployment_id="",
        start_timestamp="yesterday",
        end_timestamp="2020-01-01T00:00:00Z",
        max_attempts="11",
        reattempt_wait="59",
        is_pci="yes",
        default_region="XX",
        on_invalid="keep",
        on_duplicate="ignore",
        dry_run="on",
        name="x" * 201,
        applicaton_id="7",
    )
    found = dict(faults_of(answer))
    assert found.pop("applicaton_id") == "unknown_field"
    assert found.pop("deployment_id") == "required"
    assert found.pop("end_timestamp") == "in_the_past"
    assert found.pop("name") == "too_long"
    assert [found.pop(name) for name in ("application_id", "max_attempts", "reattempt_wait")] == ["out_of_range"] * 3
    assert set(found) == {"start_timestamp", "is_pci", "default_region", "on_invalid", "on_duplicate", "dry_run"}
    assert count_batches(conn) == 0


def test_attempts_without_a_wait_between_them_are_refused(queuer: FlaskClient) -> None:
    assert faults_of(post_csv(queuer, max_attempts="2")) == [("reattempt_wait", "required")]


def test_dry_run_in_the_query_is_refused_and_nobody_is_called(queuer: FlaskClient, conn: Connection) -> None:
    answer = queuer.post("/api/v1/batches?dry_run=1", data={"application_id": "7", "deployment_id": "3"})
    assert faults_of(answer) == [("dry_run", "unknown_field")]
    assert count_batches(conn) == 0


def test_hostile_texts_in_the_form_are_refused_or_stored_but_never_a_server_error(queuer: FlaskClient) -> None:
    for text in ("\0", "NaN", "Infinity", "1e400", "9" * 5000, "-1", "\u0663", "\u202e", "\x7f", "{}", "null"):
        for name in ("application_id", "start_timestamp", "max_attempts", "is_pci", "name", "default_region"):
            fields: dict[str, Any] = {"dry_run": "1", name: text}
            answer = post_csv(queuer, **fields)
            assert answer.status_code in (200, 422), (name, text)
            if answer.status_code == 422:
                assert [field for field, _ in faults_of(answer)] == [name]


def test_list_is_newest_first_and_its_pages_are_complete(reader: FlaskClient, conn: Connection) -> None:
    made = [make_batch(conn, send=False) for _ in range(5)]
    seen, path = [], "/api/v1/batches?limit=2"
    for expected in (2, 2, 1):
        page = reader.get(path).get_json()
        assert len(page["batches"]) == expected
        seen += [batch["id"] for batch in page["batches"]]
        path = f"/api/v1/batches?limit=2&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert seen == made[::-1]


def test_filters_of_the_list_combine(reader: FlaskClient, conn: Connection) -> None:
    sent = make_batch(conn, name="December reminders", application_id=8)
    queueing = make_batch(conn, name="December 100%", application_id=8, deployment_id=4, send=False)
    other = make_batch(conn, name="January", send=False)
    conn.execute("update batch set created_at = '2026-01-31T12:00:00Z' where batch_id = %s", (other,))
    conn.commit()

    def found(query: str) -> list[int]:
        page = reader.get(f"/api/v1/batches?{query}").get_json()
        assert page["next_cursor"] is None
        return [batch["id"] for batch in page["batches"]]

    assert found("state=queued") == [sent]
    assert found("state=queueing") == [other, queueing]
    assert found("application_id=8") == [queueing, sent]
    assert found("application_id=8&state=queueing") == [queueing]
    assert found("application_id=8&deployment_id=3") == [sent]
    assert found("name=decem") == [queueing, sent]
    assert found("name=0%25") == [queueing]
    assert found("name=_") == []
    assert found("created_to=2026-01-31T12:00:01Z") == [other]
    assert found("created_to=2026-01-31T13:00:00%2B01:00") == []
    assert found("created_from=2026-01-31T12:00:00Z&created_to=1769860801") == [other]
    assert found("created_from=2026-02-01T00:00:00Z&name=december&state=queued") == [sent]


def test_answered_created_at_filters_to_the_microsecond(reader: FlaskClient, conn: Connection) -> None:
    first, second = make_batch(conn), make_batch(conn)
    conn.execute("update batch set created_at = '2026-01-31T12:00:00.123456Z' where batch_id = %s", (first,))
    conn.execute("update batch set created_at = '2026-01-31T12:00:00.123457Z' where batch_id = %s", (second,))
    conn.commit()

    def found(query: str) -> list[int]:
        return [batch["id"] for batch in reader.get(f"/api/v1/batches?{query}").get_json()["batches"]]

    at = reader.get(f"/api/v1/batches/{second}").get_json()["created_at"]
    assert at == "2026-01-31T12:00:00.123457Z"
    assert found(f"created_from={at}") == [second]
    assert found(f"created_to={at}") == [first]
    assert found("created_from=2026-01-31T13:00:00.123456%2B01:00&created_to=2026-01-31T12:00:00.123458Z") == [
        second,
        first,
    ]


def test_times_have_the_same_form_in_every_format(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)])
    deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(1)))
    conn.execute("update result set received_at = '2026-03-01T12:00:00.000120Z' where row = 1")
    conn.execute("update result set received_at = '2026-03-01T12:00:00Z' where row = 2")
    conn.commit()
    path = f"/api/v1/batches/{batch_id}/calls"
    lists = reader.get(path).get_json()["calls"]
    lines = [json.loads(line) for line in reader.get(f"{path}.ndjson").text.splitlines()]
    cells = list(csv.DictReader(StringIO(reader.get(f"{path}.csv").text)))
    expected = ["2026-03-01T12:00:00.000120Z", "2026-03-01T12:00:00Z"]
    for found in (lists, lines, cells, [reader.get(f"{path}/{row}").get_json() for row in (1, 2)]):
        assert [call["result_received_at"] for call in found] == expected
    for name in ("queued_at", "ended_at"):
        assert [call[name] for call in lists] == [cell[name] for cell in cells]


def test_cursor_keeps_the_filters(reader: FlaskClient, conn: Connection) -> None:
    wanted = [make_batch(conn, name=f"{'even' if number % 2 else 'odd'} {number}", send=False) for number in range(6)]
    first = reader.get("/api/v1/batches?name=even&limit=2").get_json()
    rest = reader.get(f"/api/v1/batches?name=even&limit=2&cursor={first['next_cursor']}").get_json()
    assert [batch["id"] for batch in first["batches"] + rest["batches"]] == wanted[5::-2]
    assert rest["next_cursor"] is None


def test_head_is_get_without_the_body(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    for path in ("/api/v1/batches", f"/api/v1/batches/{batch_id}", f"/api/v1/batches/{batch_id}/calls"):
        head, get = reader.head(path), reader.get(path)
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_csv_without_a_valid_row_is_refused(queuer: FlaskClient, conn: Connection) -> None:
    answer = post_csv(queuer, "destination\n12\n", on_invalid="skip")
    assert faults_of(answer, "invalid_csv")
    assert count_batches(conn) == 0


def test_overdue_calls_are_counted_in_the_balance(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)], past_due=True)
    counts = reader.get(f"/api/v1/batches/{batch_id}").get_json()["counts"]
    assert {name: number for name, number in counts.items() if number} == {"rows": 2, "overdue": 2}
