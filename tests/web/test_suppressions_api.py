"""Suppressions over REST, to the letter of the contract."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from receiver.database.pool import Connection
from receiver.queueing.suppressions import suppress_all
from tests.factories import phone_number
from tests.results.test_erasure import erase_all
from tests.web.asking import faults_of, post_csv, problem_of
from tests.web.conftest import ClientFor

PATH = "/api/v1/suppressions"
NUMBER = "+16175550000"


def post_file(client: FlaskClient, csv: str | bytes, **fields: Any) -> TestResponse:
    content = csv.encode() if isinstance(csv, str) else csv
    return client.post(PATH, data={**fields, "csv": (BytesIO(content), "numbers.csv")})


def found(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(PATH + query)
    assert answer.status_code == 200, answer.text
    assert set(answer.json or {}) == {"suppressions", "next_cursor"}
    listed: list[dict[str, Any]] = (answer.json or {})["suppressions"]
    return listed


def test_number_is_suppressed_once(queuer: FlaskClient) -> None:
    given = {"phone_number": "(617) 555-0000", "reason": "opted_out", "note": "by mail"}
    answer = queuer.post(PATH, json=given)
    assert answer.status_code == 201, answer.text
    entry = answer.json
    assert entry is not None and entry.pop("created_at").endswith("Z")
    assert entry.pop("id") > 0
    assert entry == {"phone_number": NUMBER, "reason": "opted_out", "note": "by mail", "created_by": "queue key"}
    again = queuer.post(PATH, json={"phone_number": NUMBER, "reason": "other"})
    assert again.status_code == 200 and again.json is not None and again.json["reason"] == "opted_out"
    assert found(queuer) == [again.json]
    alone = queuer.post(PATH, json={"phone_number": "+16175550001"})
    assert alone.status_code == 201 and alone.json is not None
    assert (alone.json["reason"], alone.json["note"]) == (None, None)


def test_suppressed_row_is_skipped_and_the_others_are_queued(queuer: FlaskClient) -> None:
    queuer.post(PATH, json={"phone_number": "6175551234"})
    answer = post_csv(queuer)
    assert answer.status_code == 202 and answer.json is not None
    assert (answer.json["counts"]["rows"], answer.json["counts"]["skipped"]) == (2, 1)
    skipped = queuer.get(f"/api/v1/batches/{answer.json['id']}/skipped.csv").text
    assert ",1,suppressed," in skipped


def test_file_is_suppressed_and_its_faults_are_listed(queuer: FlaskClient) -> None:
    csv = "phone_number,reason\n6175550000,opted_out\n555,x\n+16175550000,twice\n6175550002,\n"
    answer = post_file(queuer, csv)
    assert answer.status_code == 200 and answer.json is not None
    assert {name: answer.json[name] for name in ("added", "present", "invalid")} == {
        "added": 2,
        "present": 1,
        "invalid": 1,
    }
    assert [(fault["row"], fault["code"]) for fault in answer.json["errors"]] == [(2, "destination_invalid")]
    assert set(answer.json) == {"added", "present", "invalid", "errors"}
    assert [(each["phone_number"], each["reason"]) for each in found(queuer)][::-1] == [
        (NUMBER, "opted_out"),
        ("+16175550002", None),
    ]


def test_rows_without_a_reason_get_that_of_the_form(queuer: FlaskClient) -> None:
    assert post_file(queuer, "phone_number\n6175550000\n", reason="May", note="a list").status_code == 200
    assert [(each["reason"], each["note"]) for each in found(queuer)] == [("May", "a list")]


def test_list_is_narrowed_and_paged_newest_first(reader: FlaskClient, conn: Connection) -> None:
    suppress_all(conn, {phone_number(at): "odd" if at % 2 else "even" for at in range(5)}, by="Ana")
    conn.commit()
    assert len(found(reader)) == 5
    assert [each["phone_number"] for each in found(reader, "?phone_number=617-555-0003")] == ["+16175550003"]
    assert [each["phone_number"] for each in found(reader, "?reason=odd")] == ["+16175550003", "+16175550001"]
    assert found(reader, "?reason=od") == [] and found(reader, "?phone_number=6175550009") == []
    seen, cursor = [], ""
    while True:
        page = reader.get(f"{PATH}?limit=2{cursor}").json or {}
        seen += [each["phone_number"] for each in page["suppressions"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [f"+{phone_number(at)}" for at in (4, 3, 2, 1, 0)]


def test_erased_entry_is_found_and_removed(client_for: ClientFor, conn: Connection) -> None:
    admin = client_for("admin")
    admin.post(PATH, json={"phone_number": NUMBER, "reason": "opted_out"})
    erase_all(conn)
    (entry,) = found(admin, f"?phone_number={NUMBER.replace('+', '%2B')}")
    assert (entry["phone_number"], entry["reason"]) == (None, "opted_out")
    assert found(admin, "?reason=opted_out") == [entry]
    assert admin.post(PATH, json={"phone_number": NUMBER}).json == entry
    assert admin.delete(f"{PATH}/{entry['id']}").status_code == 204
    assert found(admin) == []
    assert admin.post(PATH, json={"phone_number": NUMBER}).status_code == 201


def test_scopes(client_for: ClientFor, stranger: FlaskClient) -> None:
    reader, queuer, admin = client_for("read"), client_for("queue"), client_for("admin")
    problem_of(stranger.get(PATH), 401, "unauthorized")
    problem_of(reader.post(PATH, json={"phone_number": NUMBER}), 403, "forbidden")
    entry = queuer.post(PATH, json={"phone_number": NUMBER}).json or {}
    problem_of(queuer.delete(f"{PATH}/{entry['id']}"), 403, "forbidden")
    answer = admin.delete(f"{PATH}/{entry['id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    problem_of(admin.delete(f"{PATH}/{entry['id']}"), 404, "not_found")
    problem_of(admin.delete(PATH), 405, "method_not_allowed")


def test_faults_of_a_number_are_named(queuer: FlaskClient) -> None:
    for given, fault in [
        ({}, ("phone_number", "required")),
        ({"phone_number": "555"}, ("phone_number", "destination_invalid")),
        ({"phone_number": "911"}, ("phone_number", "destination_emergency")),
        ({"phone_number": NUMBER, "reason": "x" * 201}, ("reason", "too_long")),
        ({"phone_number": NUMBER, "note": "x" * 2001}, ("note", "too_long")),
        ({"phone_number": NUMBER, "why": "x"}, ("why", "unknown_field")),
        ({"phone_number": 6175550000}, ("phone_number", "invalid")),
    ]:
        assert faults_of(queuer.post(PATH, json=given)) == [fault], given
    assert faults_of(queuer.post(PATH, data="[]", content_type="application/json")) == [("body", "not_an_object")]
    assert found(queuer) == []


def test_faults_of_a_file_are_named(queuer: FlaskClient) -> None:
    assert faults_of(queuer.post(PATH, data={"reason": "x"}, content_type="multipart/form-data")) == [
        ("csv", "required")
    ]
    csv = "phone_number\n6175550000\n"
    assert faults_of(post_file(queuer, csv, phone_number="1")) == [("phone_number", "unknown_field")]
    assert faults_of(post_file(queuer, csv, reason="x" * 201)) == [("reason", "too_long")]
    twice = {"csv": [(BytesIO(csv.encode()), "a.csv"), (BytesIO(csv.encode()), "b.csv")]}
    assert faults_of(queuer.post(PATH, data=twice)) == [("csv", "repeated_field")]
    other = {"csv": (BytesIO(csv.encode()), "a.csv"), "file": (BytesIO(csv.encode()), "b.csv")}
    assert faults_of(queuer.post(PATH, data=other)) == [("file", "unknown_field")]
    assert faults_of(post_file(queuer, "number\n1\n"), "invalid_csv") == [("csv", "missing_phone_number")]
    broken = queuer.post(PATH, data=b"--B\r\n", content_type="multipart/form-data; boundary=B")
    assert faults_of(broken) == [("body", "broken_form")]
    problem_of(queuer.post(PATH, data="x", content_type="text/csv"), 415, "unsupported_media_type")
    assert found(queuer) == []


def test_faults_of_a_query_are_named(reader: FlaskClient) -> None:
    assert faults_of(reader.get(f"{PATH}?limit=0")) == [("limit", "out_of_range")]
    assert faults_of(reader.get(f"{PATH}?number=1")) == [("number", "unknown_field")]
    assert faults_of(reader.get(f"{PATH}?cursor=x")) == [("cursor", "invalid_cursor")]
    assert faults_of(reader.get(f"{PATH}?reason=%00")) == [("reason", "invalid")]


def test_body_that_is_too_large_is_refused(queuer: FlaskClient) -> None:
    large = queuer.post(
        PATH,
        input_stream=BytesIO(b"--B--\r\n"),
        content_type="multipart/form-data; boundary=B",
        environ_overrides={"CONTENT_LENGTH": str(2 << 30)},
    )
    problem_of(large, 413, "too_large")
