"""Pace, calling hours and the user's own names of a batch over REST: what is taken, refused, shown and found."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from receiver.database.pool import Connection, connect
from receiver.queueing.suppressions import digest_of, get_key
from receiver.release.control import pause_batch
from receiver.web.api import batches
from tests.factories import answer_submissions, make_batch, phone_number
from tests.waiting import PATIENCE_SECONDS, eventually
from tests.web.asking import CSV, OPEN_HOURS, count_batches, faults_of, post_csv, problem_of


def suppress(conn: Connection, number: int) -> None:
    conn.execute(
        "insert into suppression (phone_number, digest, created_by) values (%s, %s, 'test')",
        (number, digest_of(get_key(conn), number)),
    )
    conn.commit()


def closed_hours() -> dict[str, Any]:
    """Hours that are closed now, and open in a few hours."""
    opens = (datetime.now(UTC) + timedelta(hours=3)).hour
    return {"calling_hours": f"{opens:02}:00-{opens:02}:45", "time_zone": "Etc/UTC"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"calls_per_minute": "0"}, ("calls_per_minute", "out_of_range")),
        ({"calls_per_minute": "100001"}, ("calls_per_minute", "out_of_range")),
        ({"calls_per_minute": "many"}, ("calls_per_minute", "invalid")),
        ({"calling_hours": "21:00-09:00"}, ("calling_hours", "invalid")),
        ({"calling_hours": "09:00-24:01"}, ("calling_hours", "invalid")),
        ({"calling_hours": "9-21"}, ("calling_hours", "invalid")),
        ({"calling_hours": "09:00-09:29"}, ("calling_hours", "invalid")),
        ({"calling_days": "mon,tue"}, ("calling_hours", "required")),
        ({"time_zone": "America/New_York"}, ("calling_hours", "required")),
        ({"time_zone_column": "zone"}, ("calling_hours", "required")),
        ({"calling_hours": "09:00-21:00", "calling_days": "monday"}, ("calling_days", "invalid")),
        ({"calling_hours": "09:00-21:00", "time_zone": "Mars/Base"}, ("time_zone", "invalid")),
        ({"calling_hours": "09:00-21:00", "time_zone_column": "zone"}, ("time_zone_column", "unknown_column")),
        ({"external_id": "x" * 256}, ("external_id", "too_long")),
        ({"external_id": "a\x00b"}, ("external_id", "invalid")),
        ({"labels": "[]"}, ("labels", "invalid")),
        ({"labels": "{"}, ("labels", "invalid")),
        ({"labels": '{"a:b": "c"}'}, ("labels", "invalid")),
        ({"labels": '{"a": 1}'}, ("labels", "invalid")),
        ({"labels": '{"a": ""}'}, ("labels", "invalid")),
        ({"labels": json.dumps({str(number): "x" for number in range(11)})}, ("labels", "invalid")),
    ],
    ids=str,
)
def test_field_that_cannot_be_taken_is_named_with_its_code(
    queuer: FlaskClient, conn: Connection, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert faults_of(post_csv(queuer, **fields)) == [expected]
    assert count_batches(conn) == 0


def test_labels_may_be_a_json_part_as_browsers_send_it(queuer: FlaskClient) -> None:
    part = (io.BytesIO(b'{"team": "north"}'), "blob", "application/json")
    assert post_csv(queuer, labels=part).get_json()["labels"] == {"team": "north"}
    assert faults_of(post_csv(queuer, labels=(io.BytesIO(b"\xff"), "blob"))) == [("labels", "invalid")]


def test_hours_that_never_open_in_the_window_are_refused(queuer: FlaskClient, conn: Connection) -> None:
    ends = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = post_csv(queuer, end_timestamp=ends, **closed_hours())
    assert faults_of(answer) == [("calling_hours", "outside_calling_hours")]
    assert count_batches(conn) == 0


def test_rows_without_a_known_zone_or_common_hours_are_named(queuer: FlaskClient, conn: Connection) -> None:
    csv = "destination,zone\n6175551234,Mars/Base\n8005551234,\n6175551299,America/New_York\n6175550147,\n"
    fields: dict[str, Any] = {"calling_hours": "09:00-10:00", "time_zone_column": "zone"}
    expected = [(1, "time_zone_unknown"), (2, "no_common_hours")]
    assert faults_of(post_csv(queuer, csv, **fields), "invalid_csv") == expected
    assert count_batches(conn) == 0
    batch = post_csv(queuer, csv, **fields, on_invalid="skip").get_json()
    assert (batch["counts"]["skipped"], batch["counts"]["pending"]) == (2, 2)
    skipped = queuer.get(f"/api/v1/batches/{batch['id']}/skipped.csv").text
    assert ",1,time_zone_unknown," in skipped and ",2,no_common_hours," in skipped


def test_preview_has_zones_suppressed_numbers_and_retries_that_do_not_fit(
    queuer: FlaskClient, conn: Connection
) -> None:
    suppress(conn, 16175551299)
    csv = CSV + "2125551234,Eve\n3105551234,Fay\n"
    fields: dict[str, Any] = {
        "calling_hours": "09:00-10:00",
        "max_attempts": "3",
        "reattempt_wait": "3600",
        "dry_run": "1",
    }
    preview = post_csv(queuer, csv, **fields).get_json()
    assert [preview[name] for name in ("rows", "valid", "suppressed", "submissions")] == [4, 3, 1, 2]
    assert [(zone["time_zone"], zone["rows"]) for zone in preview["zones"]] == [
        ("America/New_York", 2),
        ("America/Los_Angeles", 1),
    ]
    for zone in preview["zones"]:
        assert datetime.fromisoformat(zone["opens_at"]) < datetime.now(UTC) + timedelta(days=1)
    assert [(warning["field"], warning["code"]) for warning in preview["warnings"]] == [
        ("reattempt_wait", "retries_do_not_fit")
    ]
    assert [(error["row"], error["code"]) for error in preview["errors"]] == [(2, "suppressed")]
    batch = post_csv(queuer, csv, calling_hours="09:00-10:00").get_json()
    assert (batch["counts"]["skipped"], batch["counts"]["pending"]) == (1, 3)
    assert ",2,suppressed," in queuer.get(f"/api/v1/batches/{batch['id']}/skipped.csv").text


def test_batch_shows_its_gates_and_names_and_is_found_by_them(queuer: FlaskClient, conn: Connection) -> None:
    labels = {"team": "north: a", "größe": "L"}
    fields: dict[str, Any] = {"external_id": "crm 7", "labels": json.dumps(labels), "calls_per_minute": "60"}
    answer = post_csv(
        queuer, **fields, **closed_hours(), calling_days="sun,mon,tue,wed,thu,fri,sat", headers={"Idempotency-Key": "k"}
    )
    assert answer.status_code == 202
    batch = answer.get_json()
    assert (batch["external_id"], batch["labels"], batch["created_by"]) == ("crm 7", labels, "queue key")
    assert (batch["state"], batch["phase"], batch["due_at_estimated"]) == ("queueing", "scheduled", True)
    parameters = batch["parameters"]
    assert (parameters["calls_per_minute"], parameters["time_zone"]) == (60, "Etc/UTC")
    assert parameters["calling_hours"] == closed_hours()["calling_hours"]
    assert parameters["calling_days"] == "mon,tue,wed,thu,fri,sat,sun"
    (submission,) = batch["submissions"]
    assert submission["time_zone"] == "Etc/UTC" and submission["due_at"] is None
    assert datetime.fromisoformat(submission["release_at"]) > datetime.now(UTC)

    make_batch(conn)  # another one, which no filter finds
    for query in (
        "external_id=crm 7",
        "label=team:north: a",
        "label=größe:L",
        "idempotency_key=k",
        "phase=scheduled",
        "name=contacts",
    ):
        found = queuer.get(f"/api/v1/batches?{query}").get_json()["batches"]
        assert [each["id"] for each in found] == [batch["id"]], query
    for query in ("external_id=crm", "label=team:north", "idempotency_key=K", "phase=paused"):
        assert queuer.get(f"/api/v1/batches?{query}").get_json()["batches"] == [], query
    for query, name in (("label=team", "label"), ("label=:x", "label"), ("phase=dialing", "phase")):
        assert faults_of(queuer.get(f"/api/v1/batches?{query}")) == [(name, "invalid")], query


def test_external_id_that_is_used_is_409_and_names_its_batch(queuer: FlaskClient, conn: Connection) -> None:
    first = post_csv(queuer, external_id="crm 7").get_json()
    more: list[dict[str, Any]] = [{}, {"dry_run": "1"}]
    for fields in more:
        content = problem_of(post_csv(queuer, external_id="crm 7", **fields), 409, "external_id_used")
        assert content["batch_id"] == first["id"]
    assert count_batches(conn) == 1


def count_waiting(conn: Connection) -> int:
    """Sessions that wait for another one's lock."""
    row = conn.execute(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    ).fetchone()
    conn.rollback()
    assert row is not None
    return int(row[0])


def test_same_request_sent_twice_at_once_is_one_batch_though_it_has_an_external_id(
    queuer: FlaskClient, app: Flask, database_url: str, conn: Connection
) -> None:
    """The second one finds the external id taken, by the first."""
    authorization = queuer.environ_base["HTTP_AUTHORIZATION"]
    answers: list[Any] = []

    def send() -> None:
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = authorization
        answers.append(post_csv(client, external_id="crm 7", headers={"Idempotency-Key": "k"}))

    with connect(database_url, name="blocking") as blocking:
        # Both wait at the last table that the first one writes, or at the external id.
        blocking.execute("lock table idempotency in exclusive mode")
        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: count_waiting(conn) == 2)
        blocking.rollback()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    assert [answer.status_code for answer in answers] == [202, 202]
    assert sorted(answer.headers.get("Idempotency-Replayed", "") for answer in answers) == ["", "true"]
    assert count_batches(conn) == 1


class Asked(threading.Thread):
    """A request that waits for the provider as long as it takes."""

    def __init__(self, client: FlaskClient, csv: str = CSV, **fields: Any) -> None:
        super().__init__(daemon=True)
        self._client, self._csv, self._fields = client, csv, fields
        self._answers: list[TestResponse] = []
        self.start()

    def run(self) -> None:
        self._answers.append(post_csv(self._client, self._csv, headers={"Prefer": "wait=9999"}, **self._fields))

    def answer(self) -> TestResponse:
        self.join(PATIENCE_SECONDS)
        return self._answers[0]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LONGEST_WAIT_SECONDS", 9999)


@pytest.mark.usefixtures("patient")
def test_answer_does_not_wait_for_calling_hours(queuer: FlaskClient) -> None:
    answer = Asked(queuer, **closed_hours()).answer()
    assert (answer.status_code, answer.get_json()["phase"]) == (202, "scheduled")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_paused", [False, True])
def test_answer_does_not_wait_for_pace_or_pause(queuer: FlaskClient, conn: Connection, is_paused: bool) -> None:
    csv = "destination\n" + "".join(f"{phone_number(index)}\n" for index in range(3))
    asked = Asked(queuer, csv, calls_per_minute="1")
    eventually(lambda: count_batches(conn) == 1)
    if is_paused:
        pause_batch(conn, 1, by="test")
        conn.commit()
    else:
        answer_submissions(conn)
    answer = asked.answer()
    batch = answer.get_json()
    assert (answer.status_code, batch["submissions_total"]) == (202, 3)
    assert batch["phase"] == ("paused" if is_paused else "releasing")


@pytest.mark.usefixtures("patient")
def test_batch_that_is_released_at_once_is_waited_for(queuer: FlaskClient, conn: Connection) -> None:
    asked = Asked(queuer, calls_per_minute="600", **OPEN_HOURS)
    eventually(lambda: bool(answer_submissions(conn)))
    answer = asked.answer()
    assert answer.status_code == 201
    assert answer.get_json()["submissions"][0]["release_at"] is not None
