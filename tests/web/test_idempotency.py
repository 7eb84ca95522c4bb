"""`Idempotency-Key`: a repeated request returns the same batch, so nobody is called twice."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, tzinfo
from io import BytesIO

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.queueing import parameters
from receiver.queueing.acceptance import request_digest
from tests.waiting import eventually
from tests.web.asking import CSV, WANTED, count_batches, faults_of, post_csv, problem_of
from tests.web.conftest import ClientFor


def test_same_idempotency_key_and_content_return_the_same_batch(queuer: FlaskClient, conn: Connection) -> None:
    key = {"Idempotency-Key": "Dezember \u00fc 1"}
    first, second = post_csv(queuer, headers=key), post_csv(queuer, headers=key)
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert (second.status_code, second.json) == (202, first.json)
    assert second.headers["Location"] == first.headers["Location"]
    assert count_batches(conn) == 1


def test_same_idempotency_key_with_other_content_is_refused(queuer: FlaskClient, conn: Connection) -> None:
    key = {"Idempotency-Key": "once"}
    post_csv(queuer, headers=key)
    for answer in (post_csv(queuer, CSV + "6175551298,Cid\n", headers=key), post_csv(queuer, headers=key, is_pci="1")):
        problem_of(answer, 422, "idempotency_key_reused")
    assert count_batches(conn) == 1


DEFAULTS = {
    **{"on_invalid": "refuse", "on_duplicate": "refuse", "on_recent": "allow", "recent_hours": "24", "is_pci": "false"},
    **{"dry_run": "0", "default_region": "US", "labels": "{}", "name": "contacts.csv", "external_id": ""},
}


def test_same_request_may_write_out_defaults(queuer: FlaskClient, conn: Connection) -> None:
    for key, fields in (("short first", [{}, DEFAULTS]), ("long first", [DEFAULTS, {}])):
        first, second = (post_csv(queuer, headers={"Idempotency-Key": key}, **each) for each in fields)
        assert "Idempotency-Replayed" not in first.headers
        assert second.headers["Idempotency-Replayed"] == "true", second.text
        assert post_csv(queuer, headers={"Idempotency-Key": key}, default_region="us").headers["Idempotency-Replayed"]
        for name, text in (("name", "{}"), ("on_invalid", "skip"), ("is_pci", "1"), ("default_region", "GB")):
            answer = post_csv(queuer, headers={"Idempotency-Key": key}, **{name: text})
            problem_of(answer, 422, "idempotency_key_reused")
    assert count_batches(conn) == 2


@pytest.mark.parametrize("stored", ["1", "true", "True"])
def test_same_request_may_spell_a_flag_differently(queuer: FlaskClient, conn: Connection, stored: str) -> None:
    key = {"Idempotency-Key": "once"}
    post_csv(queuer, headers=key, is_pci=stored)
    for text in ("true", "1", "True"):
        assert post_csv(queuer, headers=key, is_pci=text).headers["Idempotency-Replayed"] == "true", text
    problem_of(post_csv(queuer, headers=key, is_pci="0"), 422, "idempotency_key_reused")
    assert count_batches(conn) == 1


def test_request_matches_the_digest_that_an_earlier_release_stored(queuer: FlaskClient, conn: Connection) -> None:
    key = {"Idempotency-Key": "before the upgrade"}
    sent = {"on_invalid": "refuse", "is_pci": "true"}
    post_csv(queuer, headers=key, **sent)
    # Earlier releases hashed the fields as they were sent.
    as_sent = request_digest(BytesIO(CSV.encode()), {**WANTED, **sent})
    conn.execute("update idempotency set digest = %s", (as_sent,))
    conn.commit()
    assert post_csv(queuer, headers=key, **sent).headers["Idempotency-Replayed"] == "true"


def test_idempotency_keys_of_two_api_keys_are_independent(client_for: ClientFor, conn: Connection) -> None:
    for client in (client_for("queue"), client_for("admin")):
        answer = post_csv(client, headers={"Idempotency-Key": "once"})
        assert "Idempotency-Replayed" not in answer.headers
    assert count_batches(conn) == 2


def test_refused_request_does_not_use_up_its_idempotency_key(queuer: FlaskClient) -> None:
    key = {"Idempotency-Key": "once"}
    assert post_csv(queuer, "destination\n12\n", headers=key).status_code == 422
    assert post_csv(queuer, headers=key).status_code == 202


def test_concurrent_identical_requests_make_one_batch(queuer: FlaskClient, conn: Connection) -> None:
    answers = []

    def post() -> None:
        answers.append(post_csv(queuer, headers={"Idempotency-Key": "once"}))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202] * 6
    assert len({answer.get_json()["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 5
    assert count_batches(conn) == 1


def test_unusable_idempotency_keys_are_refused(queuer: FlaskClient, conn: Connection) -> None:
    for key in ("", "x" * 256, "tab\there", "\x85"):
        for fields in ({}, {"dry_run": "1"}):
            answer = post_csv(queuer, headers={"Idempotency-Key": key}, **fields)
            assert faults_of(answer) == [("Idempotency-Key", "invalid")], key
    assert count_batches(conn) == 0


def test_request_that_failed_in_the_database_can_be_repeated_with_its_key(
    queuer: FlaskClient, conn: Connection
) -> None:
    key = {"Idempotency-Key": "once"}
    answers = []
    thread = threading.Thread(target=lambda: answers.append(post_csv(queuer, headers=key)))
    conn.execute("lock table batch in exclusive mode")
    thread.start()
    # Terminate the session that waits for our lock: the request, in the middle of writing its batch.
    end = "select pg_terminate_backend(pid) from pg_locks where relation = 'batch'::regclass and not granted"
    eventually(lambda: conn.execute(end).fetchone() is not None)
    thread.join()
    conn.rollback()
    assert "same Idempotency-Key" in problem_of(answers[0], 503, "database_unavailable")["detail"]
    assert int(answers[0].headers["Retry-After"]) > 0
    assert post_csv(queuer, headers=key).status_code == 202
    assert count_batches(conn) == 1


def test_request_repeated_after_its_times_have_passed_returns_the_same_batch(
    queuer: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return super().now(tz) + timedelta(hours=2)

    key = {"Idempotency-Key": "once"}
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    fields = {"end_timestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    first = post_csv(queuer, headers=key, **fields)
    assert first.status_code == 202
    monkeypatch.setattr(parameters, "datetime", Later)
    again = post_csv(queuer, headers=key, **fields)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.get_json()["id"] == first.get_json()["id"]
    assert faults_of(post_csv(queuer, headers={"Idempotency-Key": "new"}, **fields)) == [
        ("end_timestamp", "in_the_past")
    ]
    assert count_batches(conn) == 1


def test_reused_key_names_the_earlier_batch(queuer: FlaskClient) -> None:
    key = {"Idempotency-Key": "once"}
    batch_id = post_csv(queuer, headers=key).get_json()["id"]
    # Also if the other request is not valid.
    for fields in ({"is_pci": "1"}, {"end_timestamp": "2020-01-01T00:00:00Z"}):
        answer = post_csv(queuer, headers=key, **fields)
        assert problem_of(answer, 422, "idempotency_key_reused")["batch_id"] == batch_id
    assert post_csv(queuer, headers=key, dry_run="1").status_code == 200, "a preview does not use the key"
