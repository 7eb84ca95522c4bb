"""Calls over REST: those of a batch, those of a phone number, and one call with its callbacks."""

import json

from flask.testing import FlaskClient

from receiver.database.pool import Connection
from tests.factories import (
    REFUSED,
    answer_submissions,
    call_fields,
    deliver,
    make_batch,
    phone_number,
    result_body,
)
from tests.queueing.queueing import csv_of, queue
from tests.web.asking import faults_of, problem_of, shape_of

CALL_SHAPE = {
    "batch_id": "int",
    "row": "int",
    "phone_number": "str",
    "destination": "str",
    "variables": {"name": "str"},
    "state": "str",
    "outcome": "str",
    "provider_status": "str",
    "attempts": "int",
    "max_attempts": "int",
    "queued_at": "time",
    "started_at": "time",
    "ended_at": "time",
    "duration_seconds": "int",
    "events": [{"event": "str", "at": "time"}],
    "events_total": "int",
    "result_received_at": "time",
    "result_source": "str",
    "withdrawn_reason": "NoneType",
    "follows": "NoneType",
    "followed_by": "NoneType",
}
"""The contract's example, in the same order."""


def rows(client: FlaskClient, path: str) -> list[int]:
    page = client.get(path).get_json()
    assert page["next_cursor"] is None
    return [call["row"] for call in page["calls"]]


def test_call_has_the_fields_of_the_contracts_example(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, ["tel:+16175550000;ani=8009957586", phone_number(1)])
    at = 1772366400
    events = [("queued", at), ("dialing", at + 5), ("connected", at + 10), ("disconnected", at + 42)]
    body = result_body(
        16175550000,
        duration=32,
        attempts="2",
        queued_timestamp=str(at),
        events=[{"event": event, "timestamp": when} for event, when in events],
    )
    ids = deliver(conn, batch_id, body, body)
    answer = reader.get(f"/api/v1/batches/{batch_id}/calls/1")
    call = answer.get_json()
    assert list(call) == [*CALL_SHAPE, "callbacks"]
    assert [list(callback) for callback in call["callbacks"]] == [["id", "received_at", "state"]] * 2
    assert [(callback["id"], callback["state"]) for callback in call.pop("callbacks")] == [
        (ids[0], "applied"),
        (ids[1], "duplicate"),
    ]
    assert shape_of(call) == CALL_SHAPE
    assert (call["phone_number"], call["destination"]) == ("+16175550000", "tel:+16175550000;ani=8009957586")
    assert (call["state"], call["outcome"], call["result_source"]) == ("final", "completed", "callback")
    assert (call["attempts"], call["max_attempts"], call["duration_seconds"]) == (2, 3, 32)
    assert [event["event"] for event in call["events"]] == [name for name, _ in events]
    assert (call["started_at"], call["ended_at"]) == ("2026-03-01T12:00:10Z", "2026-03-01T12:00:42Z")
    assert reader.get(f"/api/v1/batches/{batch_id}/calls?state=final").get_json()["calls"] == [call]


def test_call_without_a_result_has_all_fields(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    (call,) = reader.get(f"/api/v1/batches/{batch_id}/calls").get_json()["calls"]
    assert list(call) == list(CALL_SHAPE)
    common = {"batch_id": batch_id, "row": 1, "phone_number": "+16175550000", "destination": "16175550000"}
    nothing = dict.fromkeys(CALL_SHAPE)
    assert call == {
        **nothing,
        **common,
        "variables": {"name": "Ana"},
        "state": "pending",
        "events": [],
        "events_total": 0,
    }
    assert reader.get(f"/api/v1/batches/{batch_id}/calls/1").get_json() == {**call, "callbacks": []}


def test_call_with_only_steps_has_no_result(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(phone_number(0), "ringing"), result_body(phone_number(0), "answered"))
    for call in (
        reader.get(f"/api/v1/batches/{batch_id}/calls/1").get_json(),
        reader.get(f"/api/v1/batches/{batch_id}/calls").get_json()["calls"][0],
        json.loads(reader.get(f"/api/v1/batches/{batch_id}/calls.ndjson").data),
    ):
        assert (call["state"], call["outcome"], call["provider_status"]) == ("pending", None, "answered")
        assert (call["result_received_at"], call["result_source"]) == (None, None)
    batch = reader.get(f"/api/v1/batches/{batch_id}").get_json()
    assert (batch["first_result_at"], batch["last_result_at"]) == (None, None)
    assert (batch["counts"]["pending"], batch["callbacks"]["applied"], batch["callbacks"]["duplicate"]) == (1, 1, 1)


def test_filters_of_a_batch_combine(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(6)])
    deliver(
        conn,
        batch_id,
        result_body(phone_number(0)),
        result_body(phone_number(2), "failed"),
        result_body(phone_number(3), "voicemail"),
        result_body(phone_number(4), "completed"),
        result_body(phone_number(5), "dialing"),
    )
    path = f"/api/v1/batches/{batch_id}/calls"
    assert rows(reader, path) == [1, 2, 3, 4, 5, 6]
    assert rows(reader, f"{path}?state=pending") == [2, 6]
    assert rows(reader, f"{path}?state=overdue") == rows(reader, f"{path}?state=refused") == []
    assert rows(reader, f"{path}?state=final") == [1, 3, 4, 5]
    assert rows(reader, f"{path}?outcome=completed") == [1, 5]
    assert rows(reader, f"{path}?outcome=other&state=final") == [4]
    assert rows(reader, f"{path}?outcome=completed&state=pending") == []
    number = "phone_number=%28617%29%20555-0004"
    assert rows(reader, f"{path}?{number}") == [5]
    assert rows(reader, f"{path}?{number}&outcome=completed&state=final") == [5]
    assert rows(reader, f"{path}?{number}&outcome=failed") == rows(reader, f"{path}?{number}&state=pending") == []


def test_overdue_and_refused_calls_are_found_by_their_state(reader: FlaskClient, conn: Connection) -> None:
    overdue = make_batch(conn, [phone_number(0), phone_number(1)], past_due=True)
    deliver(conn, overdue, result_body(phone_number(1)))
    refused = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    assert rows(reader, f"/api/v1/batches/{overdue}/calls?state=overdue") == [1]
    assert rows(reader, f"/api/v1/batches/{overdue}/calls?state=pending") == []
    assert rows(reader, f"/api/v1/batches/{refused}/calls?state=refused") == [1]
    assert reader.get(f"/api/v1/batches/{refused}/calls/1").get_json()["state"] == "refused"
    assert reader.get(f"/api/v1/batches/{overdue}/calls/1").get_json()["state"] == "overdue"


def test_pages_of_a_filtered_list_hold_each_call_once(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(7)])
    deliver(conn, batch_id, *(result_body(phone_number(index)) for index in range(0, 7, 2)))
    for query, expected in (("state=final", [1, 3, 5, 7]), ("state=pending", [2, 4, 6]), ("outcome=failed", [])):
        seen: list[int] = []
        path: str | None = f"/api/v1/batches/{batch_id}/calls?{query}&limit=2"
        while path is not None:
            page = reader.get(path).get_json()
            seen += [call["row"] for call in page["calls"]]
            cursor = page["next_cursor"]
            path = cursor and f"/api/v1/batches/{batch_id}/calls?{query}&limit=2&cursor={cursor}"
        assert seen == expected


def test_calls_of_a_number_in_all_batches_are_listed_newest_first(reader: FlaskClient, conn: Connection) -> None:
    number = phone_number(0)
    first = make_batch(conn, [number, phone_number(1)])
    second = make_batch(conn, [phone_number(2), number, f"{number};postd=1"])
    expected = [(second, 2), (second, 3), (first, 1)]
    path = "/api/v1/calls?phone_number=%2B1-617-555-0000"
    page = reader.get(path).get_json()
    assert list(page["calls"][0]) == list(CALL_SHAPE)
    assert [(call["batch_id"], call["row"]) for call in page["calls"]] == expected
    seen = []
    for _ in expected:
        page = reader.get(f"{path}&limit=1" + (f"&cursor={page['next_cursor']}" if page["next_cursor"] else ""))
        page = page.get_json()
        seen += [(call["batch_id"], call["row"]) for call in page["calls"]]
    assert seen == expected
    assert page["next_cursor"] is None
    assert reader.get("/api/v1/calls?phone_number=6175550009").get_json() == {"calls": [], "next_cursor": None}


def test_number_is_required_to_search_all_batches(reader: FlaskClient) -> None:
    assert faults_of(reader.get("/api/v1/calls")) == [("phone_number", "required")]


def test_skipped_row_is_not_a_call(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, ["12", phone_number(0)], on_invalid="skip")
    problem_of(reader.get(f"/api/v1/batches/{batch_id}/calls/1"), 404, "not_found")
    assert reader.get(f"/api/v1/batches/{batch_id}/calls/2").status_code == 200


def test_variables_keep_the_order_and_spelling_of_the_columns(reader: FlaskClient, conn: Connection) -> None:
    content = csv_of([["6175550000", "=1+1", "a\r\nb", ' "x" ']], ["zeta", "Größe", " alpha "])
    batch_id = queue(conn, content)
    answer = reader.get(f"/api/v1/batches/{batch_id}/calls/1")
    assert list(answer.get_json()["variables"].items()) == [("zeta", "=1+1"), ("Größe", "a\r\nb"), (" alpha ", ' "x" ')]
    assert "Größe".encode() in answer.data


def test_hostile_event_names_and_times_do_not_fail(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    names = ["\ud800", "a\0b", "\udfff\ud800", "\u202e", "x" * 10_000]
    times = ["NaN", "9" * 30, "-1", None, "99999999999"]
    events = [{"event": name, "timestamp": time} for name, time in zip(names, times, strict=True)]
    deliver(conn, batch_id, result_body(phone_number(0), "vo\ud800ice\0mail", events=events, extra={"\ud800": "\0"}))
    answer = reader.get(f"/api/v1/batches/{batch_id}/calls/1")
    assert answer.status_code == 200
    call = answer.get_json()
    assert call["state"] == "final" and call["outcome"] == "other"
    assert answer.data.decode()  # valid UTF-8
    assert len(call["events"]) == len(names)


def test_events_of_wrapped_and_form_bodies_are_shown(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    fields = call_fields(phone_number(0), "canceled")
    deliver(conn, batch_id, b'{"call_details": ' + result_body(phone_number(0), "canceled") + b"}")
    events = reader.get(f"/api/v1/batches/{batch_id}/calls/1").get_json()["events"]
    assert [event["event"] for event in events] == [event["event"] for event in fields["events"]]
