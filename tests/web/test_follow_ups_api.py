"""Follow-ups and lineage over REST."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.queueing.follow_ups import LEFT_OUT
from receiver.release.control import pause_batch
from tests.factories import answer_submissions, deliver, differences, make_batch, phone_number, present, result_body
from tests.web.asking import faults_of, post_csv, problem_of

NUMBERS = [phone_number(index) for index in range(5)]


@pytest.fixture
def batch_id(conn: Connection) -> int:
    """A batch with a completed, two failed and a rejected call, and one without a result."""
    batch_id = make_batch(conn, NUMBERS, name="May", labels={"team": "a"})
    statuses = zip(NUMBERS, ("completed", "failed", "failed", "rejected"), strict=False)
    deliver(conn, batch_id, *(result_body(number, status) for number, status in statuses))
    return batch_id


def ask(client: FlaskClient, batch_id: int, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return client.post(
        f"/api/v1/batches/{batch_id}/follow-ups", json=body, headers={"Prefer": "wait=0", **(headers or {})}
    )


def test_dry_run_says_who_is_called_again_and_stores_nothing(
    queuer: FlaskClient, conn: Connection, batch_id: int
) -> None:
    answer = ask(queuer, batch_id, dry_run=True, outcomes=["failed"])
    assert answer.status_code == 200, answer.text
    seen = answer.get_json()
    assert (seen["chosen"], seen["rows"], list(seen["left_out"])) == (2, 2, sorted(LEFT_OUT, key=LEFT_OUT.index))
    assert present(seen["left_out"]) == {"completed": 1, "pending": 1, "not_chosen": 1}
    nothing = ask(queuer, batch_id, dry_run=True, outcomes=["other"])
    assert (nothing.status_code, nothing.get_json()["chosen"]) == (200, 0)
    assert conn.execute("select from batch").rowcount == 1


def test_unusable_idempotency_key_is_refused(queuer: FlaskClient, batch_id: int) -> None:
    for dry_run in (False, True):
        assert faults_of(ask(queuer, batch_id, {"Idempotency-Key": ""}, dry_run=dry_run)) == [
            ("Idempotency-Key", "invalid")
        ]


def test_follow_up_is_queued_with_the_parameters_of_its_batch(
    queuer: FlaskClient, conn: Connection, batch_id: int
) -> None:
    answer = ask(queuer, batch_id)
    assert answer.status_code == 202, answer.text
    batch = answer.get_json()
    assert (batch["name"], batch["labels"], batch["follows"]) == ("May", {"team": "a"}, batch_id)
    assert batch["chosen"] + sum(batch["left_out"].values()) == 5
    assert queuer.get(f"/api/v1/batches/{batch_id}").get_json()["follow_ups"] == [batch["id"]]
    call = queuer.get(f"/api/v1/batches/{batch['id']}/calls/3").get_json()
    assert (call["follows"], call["followed_by"]) == ({"batch_id": batch_id, "row": 4}, None)
    (listed,) = queuer.get(f"/api/v1/batches/{batch_id}/calls?outcome=rejected").get_json()["calls"]
    assert listed["followed_by"] == {"batch_id": batch["id"], "row": 3}
    again = ask(queuer, batch_id)
    problem = problem_of(again, 422, "nothing_to_follow_up")
    assert present(problem["left_out"]) == {"completed": 1, "pending": 1, "followed_up": 3}
    assert differences(conn) == []


def test_provider_is_waited_for(queuer: FlaskClient, conn: Connection, batch_id: int) -> None:
    key = {"Idempotency-Key": "one"}
    ask(queuer, batch_id, key)
    answer_submissions(conn)
    answer = ask(queuer, batch_id, {**key, "Prefer": "wait=10"})
    assert (answer.status_code, answer.headers["Idempotency-Replayed"]) == (201, "true")


def test_null_means_without_the_parameter(queuer: FlaskClient, batch_id: int) -> None:
    nothing: dict[str, Any] = {"default_region": None, "labels": None, "max_attempts": None, "reattempt_wait": None}
    answer = ask(queuer, batch_id, name=None, **nothing)
    assert (answer.status_code, answer.get_json()["labels"]) == (202, {}), answer.text


def test_null_is_other_content_than_an_absent_field(queuer: FlaskClient, batch_id: int) -> None:
    key = {"Idempotency-Key": "one"}
    ask(queuer, batch_id, key)
    replayed = ask(queuer, batch_id, key, external_id=None, on_duplicate="keep", recent_hours=24)
    assert replayed.headers["Idempotency-Replayed"] == "true"
    problem_of(ask(queuer, batch_id, key, max_attempts=None), 422, "idempotency_key_reused")


def test_flag_may_be_spelled_differently_in_a_repeated_request(queuer: FlaskClient, batch_id: int) -> None:
    key = {"Idempotency-Key": "one"}
    ask(queuer, batch_id, key, is_pci=True)
    assert ask(queuer, batch_id, key, is_pci=1).headers["Idempotency-Replayed"] == "true"
    problem_of(ask(queuer, batch_id, key, is_pci=0), 422, "idempotency_key_reused")


def test_repeated_request_gets_the_same_batch_and_figures(queuer: FlaskClient, conn: Connection, batch_id: int) -> None:
    key = {"Idempotency-Key": "one"}
    first = ask(queuer, batch_id, key)
    deliver(conn, batch_id, result_body(NUMBERS[4], "failed"))
    again = ask(queuer, batch_id, key, outcomes=["rejected", "failed"], include=[], on_recent="allow")
    assert again.headers["Idempotency-Replayed"] == "true"
    for name in ("id", "chosen", "left_out"):
        assert again.get_json()[name] == first.get_json()[name]
    problem_of(ask(queuer, batch_id, key, outcomes=["failed"]), 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"outcomes": ["completed"]}, "outcomes", "invalid"),
        ({"include": ["pending"]}, "include", "invalid"),
        ({"csv": "x"}, "csv", "unknown_field"),
        ({"max_attempts": 11}, "max_attempts", "out_of_range"),
        ({"max_attempts": 2}, "reattempt_wait", "required"),
        ({"on_duplicate": "skip"}, "on_duplicate", "invalid"),
        ({"application_id": "7"}, "application_id", "invalid"),
        ({"recent_hours": "24"}, "recent_hours", "invalid"),
        ({"is_pci": "1"}, "is_pci", "invalid"),
        ({"dry_run": "true"}, "dry_run", "invalid"),
        ({"dry_run": "maybe"}, "dry_run", "invalid"),
        ({"labels": '{"team": "a"}'}, "labels", "invalid"),
    ],
)
def test_wrong_fields_are_refused(
    queuer: FlaskClient, batch_id: int, body: dict[str, Any], field: str, code: str
) -> None:
    answer = ask(queuer, batch_id, **body)
    assert (answer.status_code, faults_of(answer)) == (422, [(field, code)])


def test_key_and_batch_are_checked(reader: FlaskClient, queuer: FlaskClient, batch_id: int) -> None:
    problem_of(ask(reader, batch_id), 403, "forbidden")
    problem_of(ask(queuer, 99), 404, "not_found")
    problem_of(queuer.get("/api/v1/batches/99/lineage"), 404, "not_found")


def test_lineage_shows_what_the_list_came_to(queuer: FlaskClient, conn: Connection, batch_id: int) -> None:
    followed = ask(queuer, batch_id).get_json()["id"]
    pause_batch(conn, followed, by="Ana")
    conn.commit()
    deliver(conn, batch_id, result_body(NUMBERS[1], "completed", last_event=90))
    found = queuer.get(f"/api/v1/batches/{followed}/lineage").get_json()
    assert [batch["id"] for batch in found["batches"]] == [batch_id, followed]
    assert found["batches"][1] == queuer.get(f"/api/v1/batches/{followed}").get_json()
    assert present(found["latest"]) == {"rows": 5, "pending": 3, "final": 2, "completed": 2}


def test_files_show_what_each_row_came_to(queuer: FlaskClient, conn: Connection, batch_id: int) -> None:
    ask(queuer, batch_id)
    answer_submissions(conn)
    deliver(conn, batch_id + 1, result_body(NUMBERS[1]), result_body(NUMBERS[2], "rejected"))
    files = f"/api/v1/batches/{batch_id}/calls"
    rows = list(csv.DictReader(StringIO(queuer.get(f"{files}.csv?latest=1").text, newline="")))
    came_to = ["completed", "completed", "rejected", "", ""]
    assert [row["outcome"] for row in rows] == came_to
    lines = queuer.get(f"{files}.ndjson?latest=true").text.splitlines()
    assert [json.loads(line)["outcome"] or "" for line in lines] == came_to
    own = queuer.get(f"{files}.csv?latest=1&columns=own&outcome=completed").text
    assert own == f"destination,name\r\n{NUMBERS[0]},Ana\r\n{NUMBERS[1]},Ana\r\n"
    assert queuer.get(f"{files}.ndjson?latest=0&outcome=completed").text.count("\n") == 1
    assert faults_of(queuer.get(f"{files}.csv?latest=x")) == [("latest", "invalid")]


def test_preview_shows_recent_numbers_and_queueing_refuses_them(queuer: FlaskClient, batch_id: int) -> None:
    text = f"destination\n{NUMBERS[0]}\n{phone_number(9)}\n"
    seen = post_csv(queuer, text, dry_run="1").get_json()
    ((recent),) = seen["recent"]["batches"]
    assert (seen["recent"]["rows"], recent["id"], recent["name"], recent["rows"]) == (1, batch_id, "May", 1)
    answer = post_csv(queuer, text, on_recent="refuse", recent_hours="1")
    assert faults_of(answer, "invalid_csv") == [(1, "recent")]
    answer = post_csv(queuer, text, on_recent="skip")
    assert answer.get_json()["counts"]["skipped"] == 1


def test_text_that_cannot_be_a_number_is_refused(queuer: FlaskClient, batch_id: int) -> None:
    for path in ("/calls", f"/batches/{batch_id}/calls"):
        answer = queuer.get(f"/api/v1{path}?phone_number=nobody")
        assert (answer.status_code, faults_of(answer)) == (422, [("phone_number", "invalid")])
