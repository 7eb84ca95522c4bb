"""`POST /api/v1/erasures` and `POST /api/v1/purges`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.database.jobs import end_job
from receiver.database.locks import STRIPES, own_results
from receiver.database.pool import Connection, connect
from tests.factories import deliver, differences, journal, make_batch, make_callback, phone_number, result_body
from tests.waiting import eventually
from tests.web.asking import count_batches, faults_of, problem_of
from tests.web.conftest import ClientFor

ERASURES, PURGES = "/api/v1/erasures", "/api/v1/purges"


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def audited(client: FlaskClient, action: str) -> list[dict[str, Any]]:
    entries = client.get(f"/api/v1/audit?action={action}").get_json()["audit"]
    return [{name: entry[name] for name in ("actor", "batch_id", "details")} for entry in entries]


def test_number_is_erased_after_a_dry_run(admin: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)])
    deliver(conn, batch_id, result_body(phone_number(0)))
    asked = {"phone_number": "(617) 555-0000"}
    counted = admin.post(ERASURES, json={**asked, "dry_run": True})
    assert counted.status_code == 200, counted.text
    assert [counted.get_json()[name] for name in ("state", "dry_run", "calls", "callbacks")] == ["done", True, 1, 1]
    assert audited(admin, "erase") == []
    assert admin.get("/api/v1/calls?phone_number=6175550000").get_json()["calls"] != []

    erased = admin.post(ERASURES, json=asked)
    content = erased.get_json()
    assert (content["dry_run"], content["error"], content["requested_by"]) == (False, None, "admin key")
    found = {name: content[name] for name in content if type(content[name]) is int and content[name]}
    assert found == {"id": content["id"], "calls": 1, "callbacks": 1, "searched": 1}
    assert admin.get(erased.headers["Location"]).get_json() == content
    assert admin.get("/api/v1/calls?phone_number=6175550000").get_json()["calls"] == []
    assert audited(admin, "erase") == [
        {"actor": "admin key", "batch_id": None, "details": {"phone_number": "*********00"}}
    ]
    assert differences(conn) == []


def test_number_in_use_is_409(admin: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    answer = admin.post(ERASURES, json={"phone_number": f"+{phone_number(0)}"})
    assert "Nothing was erased" in problem_of(answer, 409, "in_use")["detail"]


def test_batch_that_has_not_ended_is_purged_only_with_force(admin: FlaskClient, conn: Connection) -> None:
    batch_id, other = make_batch(conn, [phone_number(0), phone_number(1)]), make_batch(conn, [phone_number(2)])
    unreleased = make_batch(conn, [phone_number(3)], send=False)
    for each in (batch_id, unreleased):
        problem_of(admin.post(PURGES, json={"batch_id": each}), 409, "not_ended")
    assert count_batches(conn) == 3
    deliver(conn, other, result_body(phone_number(2)))
    for wanted, counts in (({"batch_id": other}, [1, 1, 1]), ({"batch_id": batch_id, "force": True}, [1, 2, 0])):
        counted = admin.post(PURGES, json={**wanted, "dry_run": True}).get_json()
        purged = admin.post(PURGES, json=wanted).get_json()
        for answer in (counted, purged):
            assert [answer[name] for name in ("batches", "calls", "callbacks")] == counts
        assert (counted["batches_removed"], purged["batches_removed"]) == (0, 1)
        assert purged["rows_removed"] > 0
        problem_of(admin.get(f"/api/v1/batches/{wanted['batch_id']}"), 404, "not_found")
    assert count_batches(conn) == 1
    problem_of(admin.post(PURGES, json={"batch_id": other}), 404, "not_found")
    assert [entry["batch_id"] for entry in audited(admin, "purge")] == [batch_id, other]


def test_old_and_simulated_batches_are_purged(admin: FlaskClient, conn: Connection) -> None:
    old, new = make_batch(conn, [phone_number(0)]), make_batch(conn, [phone_number(1)])
    simulated = make_batch(conn, [phone_number(2)], simulated=True)
    conn.execute(
        "update batch set created_at = now() - %s, due_at = now() - %s where batch_id = %s",
        (timedelta(days=31), timedelta(days=31), old),
    )
    conn.commit()
    assert admin.post(PURGES, json={"older_than_days": 30}).get_json()["batches_removed"] == 1
    assert admin.post(PURGES, json={"simulated": True}).get_json()["batches_removed"] == 1
    assert [batch["id"] for batch in admin.get("/api/v1/batches").get_json()["batches"]] == [new]
    assert simulated != new


def test_work_that_takes_long_continues_after_the_answer(
    admin: FlaskClient, conn: Connection, database_url: str
) -> None:
    make_batch(conn, [phone_number(0)])
    with connect(database_url, name="test") as other:
        own_results(other, range(STRIPES))  # the erasure waits for these locks
        answer = admin.post(ERASURES, json={"phone_number": f"+{phone_number(0)}"}, headers={"Prefer": "wait=0"})
        assert (answer.status_code, answer.get_json()["state"]) == (202, "running")
        other.rollback()
    where = answer.headers["Location"]
    eventually(lambda: admin.get(where).get_json()["state"] == "done")
    assert admin.get(where).get_json()["calls"] == 1


def test_work_whose_process_has_ended_is_interrupted(admin: FlaskClient, conn: Connection) -> None:
    where = admin.post(PURGES, json={"simulated": True}).headers["Location"]
    conn.execute("update job set ended_at = null, seen_at = now() - interval '2 minutes'")
    conn.commit()
    assert admin.get(where).get_json()["state"] == "interrupted"
    end_job(conn, int(where.rpartition("/")[2]), "in_use", "It is in use.")
    conn.commit()
    assert [admin.get(where).get_json()[name] for name in ("state", "error")] == ["failed", "It is in use."]
    problem_of(admin.get(where.replace("purges", "erasures")), 404, "not_found")


def test_only_eight_removals_run_at_a_time(admin: FlaskClient, conn: Connection) -> None:
    running = "insert into job (kind, requested_by, content) select 'purge', 'test', '{}' from generate_series(1, 8)"
    conn.execute(running)
    conn.commit()
    for path, body in ((ERASURES, {"phone_number": "+16175551234"}), (PURGES, {"simulated": True})):
        answer = admin.post(path, json=body)
        problem_of(answer, 429, "rate_limited")
        assert int(answer.headers["Retry-After"]) > 0
    conn.execute("update job set seen_at = now() - interval '2 minutes' where job_id = 1")  # its process has ended
    conn.commit()
    assert admin.post(PURGES, json={"simulated": True}).status_code == 200


def test_wrong_removals_are_refused(admin: FlaskClient, client_for: ClientFor) -> None:
    assert faults_of(admin.post(ERASURES, json={"phone_number": "12"})) == [("phone_number", "destination_invalid")]
    assert faults_of(admin.post(ERASURES, json={})) == [("phone_number", "required")]
    for body in ({}, {"simulated": False}, {"simulated": True, "batch_id": 1}, {"batch_id": 1, "older_than_days": 1}):
        assert faults_of(admin.post(PURGES, json=body)) == [("older_than_days", "required")]
    assert faults_of(admin.post(PURGES, json={"older_than_days": -1})) == [("older_than_days", "out_of_range")]
    queuer = client_for("queue")
    for path in (ERASURES, PURGES):
        problem_of(queuer.post(path, json={"simulated": True}), 403, "forbidden")
