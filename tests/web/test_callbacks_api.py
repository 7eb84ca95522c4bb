"""Callbacks over REST."""

import base64

from flask.testing import FlaskClient

from receiver.database.pool import Connection
from tests.factories import deliver, journal, make_batch, make_callback, phone_number, result_body
from tests.web.asking import shape_of

CALLBACK_SHAPE = {
    "id": "int",
    "received_at": "time",
    "state": "str",
    "batch_id": "int",
    "submission_id": "int",
    "reason": "str",
    "row": "int",
    "acknowledged_at": "NoneType",
    "content_type": "str",
}


def ids(client: FlaskClient, query: str = "") -> list[int]:
    page = client.get(f"/api/v1/callbacks?{query}").get_json()
    assert page["next_cursor"] is None
    return [callback["id"] for callback in page["callbacks"]]


def test_callback_has_its_state_reason_and_body(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    body = result_body(phone_number(0))
    applied, duplicate = deliver(conn, batch_id, body, body)
    callback = reader.get(f"/api/v1/callbacks/{duplicate}").get_json()
    assert shape_of(callback) == {**CALLBACK_SHAPE, "body": "str"}
    assert list(callback) == [*CALLBACK_SHAPE, "body"]
    assert callback["body"] == body.decode()
    assert (callback["state"], callback["row"], callback["batch_id"], callback["submission_id"]) == (
        "duplicate",
        1,
        batch_id,
        1,
    )
    assert callback["content_type"] == "application/json"
    first = reader.get(f"/api/v1/callbacks/{applied}").get_json()
    assert (first["state"], first["reason"]) == ("applied", None)


def test_body_that_is_not_utf_8_is_base64(reader: FlaskClient, conn: Connection) -> None:
    body = b"\xff\x00Gr\xfc\xdfe"
    (callback_id,) = deliver(conn, make_batch(conn), body)
    callback = reader.get(f"/api/v1/callbacks/{callback_id}").get_json()
    assert base64.b64decode(callback["body_base64"], validate=True) == body
    assert "body" not in callback


def test_hostile_text_bodies_are_answered_unchanged(reader: FlaskClient, conn: Connection) -> None:
    bodies = ["\0", "\u2028</script>", "\\ud800", "\ufeff{}", "null", "\x7f\x1b[31m"]
    for body, callback_id in zip(bodies, deliver(conn, make_batch(conn), *(b.encode() for b in bodies)), strict=True):
        assert reader.get(f"/api/v1/callbacks/{callback_id}").get_json()["body"] == body


def test_list_is_newest_first_without_bodies(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    made = deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(0)), b"nonsense")
    page = reader.get("/api/v1/callbacks").get_json()
    assert [list(callback) for callback in page["callbacks"]] == [list(CALLBACK_SHAPE)] * 3
    assert [callback["id"] for callback in page["callbacks"]] == made[::-1]
    assert [callback["state"] for callback in page["callbacks"]] == ["unreadable", "duplicate", "applied"]


def test_filters_combine(reader: FlaskClient, conn: Connection) -> None:
    first, second = make_batch(conn, [phone_number(0)]), make_batch(conn, [phone_number(0), phone_number(1)])
    body, later = result_body(phone_number(0)), result_body(phone_number(0), "failed", last_event=90)
    applied, duplicate, unmatched, unreadable = deliver(conn, first, body, body, result_body(phone_number(5)), b"{")
    conflicted, winner, other = deliver(conn, second, body, later, result_body(phone_number(1)))
    (waiting,) = journal(conn, make_callback(second, body))
    everything = [waiting, other, winner, conflicted, unreadable, unmatched, duplicate, applied]
    assert ids(reader) == everything
    assert ids(reader, f"batch_id={first}") == everything[4:]
    assert ids(reader, "state=applied") == [other, winner, applied]
    assert ids(reader, f"state=applied&batch_id={second}") == [other, winner]
    assert ids(reader, "state=conflict") == ids(reader, f"state=conflict&batch_id={second}") == [conflicted]
    for state, callback_id, batch_id in (
        ("duplicate", duplicate, first),
        ("unmatched", unmatched, first),
        ("unreadable", unreadable, first),
        ("waiting", waiting, second),
    ):
        assert ids(reader, f"state={state}") == ids(reader, f"state={state}&batch_id={batch_id}") == [callback_id]
        assert ids(reader, f"state={state}&batch_id={first + second - batch_id}") == []


def test_pages_of_each_state_hold_each_callback_once(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    made = deliver(conn, batch_id, *[result_body(phone_number(0))] * 4, b"{", b"[")
    made += journal(conn, make_callback(batch_id), make_callback(batch_id), make_callback(batch_id))
    expected = {"": made, "state=duplicate": made[1:4], "state=unreadable": made[4:6], "state=waiting": made[6:]}
    for query, wanted in expected.items():
        seen: list[int] = []
        path: str | None = f"/api/v1/callbacks?{query}&limit=2"
        while path is not None:
            page = reader.get(path).get_json()
            seen += [callback["id"] for callback in page["callbacks"]]
            cursor = page["next_cursor"]
            path = cursor and f"/api/v1/callbacks?{query}&limit=2&cursor={cursor}"
        assert seen == wanted[::-1], query


def test_callback_of_a_purged_batch_is_still_found(reader: FlaskClient, conn: Connection) -> None:
    (callback_id,) = deliver(conn, 987654321, result_body(phone_number(0)))
    assert reader.get(f"/api/v1/callbacks/{callback_id}").get_json()["state"] == "unmatched"
    assert ids(reader, "batch_id=987654321") == [callback_id]
