"""Endpoints over REST, to the letter of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.changes.events import Events
from receiver.config import Config
from receiver.database.pool import Connection
from receiver.logs import redact
from receiver.model import EVENT_TYPES
from tests.factories import make_batch
from tests.relay.endpoint_server import EndpointServer, receiving
from tests.web.asking import faults_of
from tests.web.conftest import ClientFor

PATH = "/api/v1/endpoints"
PUBLIC = "https://93.184.215.14/hook"


@pytest.fixture
def config(config: Config) -> Config:
    return replace(config, relay_networks=(ip_network("127.0.0.0/8"),))


@pytest.fixture
def admin(client_for: ClientFor) -> FlaskClient:
    return client_for("admin")


def made(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"url": PUBLIC, **fields})
    assert answer.status_code == 201 and answer.json is not None, answer.text
    endpoint: dict[str, Any] = answer.json
    return endpoint


def owe(conn: Connection, *calls: tuple[int, int]) -> None:
    events = Events()
    events.replace("call.result", calls)
    events.write(conn)
    conn.commit()


def end(conn: Connection, state: str, rows: int) -> None:
    """End the oldest waiting events, as the relay does."""
    conn.execute(
        "with gone as (delete from owed_event where event_id in (select event_id from owed_event order by 1 limit %s)"
        " returning *), ended as (insert into delivery (endpoint_id, event_id, slot, event, batch_id, subject,"
        " owed_at, state) select endpoint_id, event_id, slot, event, batch_id, subject, owed_at, %s from gone"
        " returning state) update endpoint_count set delivered = delivered + (select count(*) from ended"
        " where state = 'delivered'), given_up = given_up + (select count(*) from ended where state = 'given_up')"
        " where part = (select min(part) from endpoint_count)",
        (rows, state),
    )
    conn.commit()


def listed(client: FlaskClient, endpoint_id: int, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(f"{PATH}/{endpoint_id}/deliveries{query}")
    assert answer.status_code == 200 and answer.json is not None, answer.text
    found: list[dict[str, Any]] = answer.json["deliveries"]
    return found


def test_endpoint_is_made_and_its_secret_is_shown_only_once(admin: FlaskClient, conn: Connection) -> None:
    answer = admin.post(PATH, json={"url": PUBLIC, "description": "CRM", "label": "team:north:west"})
    assert answer.status_code == 201 and answer.json is not None, answer.text
    endpoint = answer.json
    assert answer.headers["Location"] == f"{PATH}/{endpoint['id']}"
    secret = endpoint.pop("secret")
    assert secret.startswith("whsec_") and secret not in redact(f"secret {secret}")
    assert endpoint.pop("created_at").endswith("Z")
    assert endpoint == {
        "id": endpoint["id"], "url": PUBLIC, "description": "CRM",
        "events": [event for event in EVENT_TYPES if event != "endpoint.disabled"],
        "application_id": None, "deployment_id": None, "label": "team:north:west", "enabled": True,
        "disabled_at": None, "disabled_reason": None, "failing_since": None,
        "unseen_given_up": 0, "events_owed": {"delivered": 0, "waiting": 0, "given_up": 0},
    }  # fmt: skip
    for text in (admin.get(PATH).text, admin.get(f"{PATH}/{endpoint['id']}").text):
        assert secret not in text and '"secret"' not in text
    [change] = list_changes(conn, ChangeFilter(action="create_endpoint"), 10)
    assert change.details["host"] == "93.184.215.14" and secret not in str(change)


def test_endpoint_gets_only_the_events_that_it_wants(admin: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn)
    wanted = made(admin, application_id=7, deployment_id=3, events=["call.result"])["id"]
    unwanted: list[dict[str, Any]] = [{"events": ["batch.ended"]}, {"application_id": 8}, {"label": "a:b"}]
    others = [made(admin, **fields)["id"] for fields in unwanted]
    owe(conn, (batch_id, 1))
    owed = {each["id"]: each["events_owed"]["waiting"] for each in admin.get(PATH).json["endpoints"]}  # type: ignore[index]
    assert owed == {wanted: 1} | dict.fromkeys(others, 0)


def test_endpoints_are_paged_newest_first(admin: FlaskClient) -> None:
    ids = [made(admin)["id"] for _ in range(3)]
    first = admin.get(f"{PATH}?limit=2").json
    assert first is not None and [each["id"] for each in first["endpoints"]] == [ids[2], ids[1]]
    rest = admin.get(f"{PATH}?limit=2&cursor={first['next_cursor']}").json
    assert rest is not None and [each["id"] for each in rest["endpoints"]] == [ids[0]] and rest["next_cursor"] is None


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/",
        "https://localhost.localdomain:444/", "http://93.184.215.14/", "https://93.184.215.14:8443/", "https://0/",
    ],
)  # fmt: skip
def test_address_in_a_private_network_is_refused(admin: FlaskClient, url: str) -> None:
    answer = admin.post(PATH, json={"url": url})
    assert answer.status_code == 422 and faults_of(answer) == [("url", "address_not_allowed")]
    endpoint_id = made(admin)["id"]
    assert faults_of(admin.patch(f"{PATH}/{endpoint_id}", json={"url": url})) == [("url", "address_not_allowed")]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/", "https://", "hook", "https://u:p@a.example/", "https://a.example/#a", "https://a b/",
        "https://a.example\\.b.example/", "https://a%2eexample/", "https://a(b)/", "https://a[::1]/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(admin: FlaskClient, url: str) -> None:
    assert faults_of(admin.post(PATH, json={"url": url})) == [("url", "invalid")]


def test_wrong_fields_are_named(admin: FlaskClient) -> None:
    assert faults_of(admin.post(PATH, json={})) == [("url", "required")]
    assert faults_of(admin.post(PATH, json={"url": PUBLIC, "secret": "a"})) == [("secret", "unknown_field")]
    assert faults_of(admin.post(PATH, json={"url": PUBLIC, "label": "north"})) == [("label", "invalid")]
    for events in ([], ["call.made", "call.won"], ["endpoint.disabled"]):
        answer = admin.post(PATH, json={"url": PUBLIC, "events": events})
        assert [field for field, _ in faults_of(answer)] == ["events"]
        assert answer.json is not None
        assert answer.json["errors"][0]["message"].startswith(("Must be one of: ", "Name at least one"))


def test_endpoint_is_changed_disabled_and_enabled(admin: FlaskClient, conn: Connection) -> None:
    path = f"{PATH}/{made(admin, label='a:b')['id']}"
    changed = admin.patch(path, json={"description": "CRM", "label": None, "enabled": False}).json
    assert changed is not None
    assert (changed["description"], changed["label"], changed["enabled"]) == ("CRM", None, False)
    assert changed["disabled_reason"] == "user" and changed["disabled_at"]
    assert admin.patch(path, json={"enabled": False}).json == changed
    owe(conn, (make_batch(conn), 1))
    conn.execute("update endpoint set failing_since = now()")
    conn.execute("update owed_event set next_try_at = now() + interval '1 day'")
    conn.commit()
    enabled = admin.patch(path, json={"enabled": True}).json
    assert enabled is not None and enabled["enabled"] is True
    assert (enabled["disabled_at"], enabled["disabled_reason"], enabled["failing_since"]) == (None, None, None)
    assert admin.patch(path, json={}).json == enabled == admin.get(path).json
    assert conn.execute("select from owed_event where next_try_at > now()").fetchall() == []


def test_deleted_endpoint_is_gone_with_what_is_owed_to_it(admin: FlaskClient, conn: Connection) -> None:
    path = f"{PATH}/{made(admin)['id']}"
    owe(conn, (make_batch(conn), 1))
    assert admin.delete(path).status_code == 204
    answers = [admin.get(path), admin.delete(path), admin.patch(path, json={}), admin.get(f"{path}/deliveries")]
    answers += [admin.post(f"{path}/{each}") for each in ("rotate", "test")]
    answers += [admin.post(f"{path}/retry", json={"state": "waiting"})]
    assert [answer.status_code for answer in answers] == [404] * 7
    assert conn.execute("select from endpoint_count").fetchall() == []


def test_deliveries_are_listed_by_state_and_paged(admin: FlaskClient, conn: Connection) -> None:
    endpoint_id, batch_id = made(admin)["id"], make_batch(conn, range(16175550000, 16175550006))
    owe(conn, *((batch_id, row) for row in range(1, 7)))
    end(conn, "delivered", 2)
    end(conn, "given_up", 1)
    rows = {state: [each["row"] for each in listed(admin, endpoint_id, f"?state={state}")] for state in
            ("delivered", "given_up", "waiting")}  # fmt: skip
    assert rows == {"delivered": [2, 1], "given_up": [3], "waiting": [6, 5, 4]}
    pages, query = [], "?limit=4"
    while query:
        page = admin.get(f"{PATH}/{endpoint_id}/deliveries{query}").json
        assert page is not None
        pages.append([each["row"] for each in page["deliveries"]])
        query = f"?limit=4&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert pages == [[6, 5, 4, 3], [2, 1]]
    newest = listed(admin, endpoint_id)[0]
    assert newest["next_try_at"].endswith("Z") and newest["owed_at"].endswith("Z") and newest["id"] > 0
    assert (newest["event"], newest["batch_id"], newest["state"]) == ("call.result", batch_id, "waiting")
    assert (newest["ended_at"], newest["attempts"], newest["submission_id"]) == (None, [], None)
    assert admin.get(f"{PATH}/{endpoint_id}").json["events_owed"] == {"delivered": 2, "waiting": 3, "given_up": 1}  # type: ignore[index]


@pytest.mark.parametrize(
    ("said", "retried", "owed"),
    [
        ({"state": "given_up"}, 2, {"delivered": 2, "waiting": 4, "given_up": 0}),
        ({"state": "waiting"}, 2, {"delivered": 2, "waiting": 2, "given_up": 2}),
        ({"since": "2020-01-01T00:00:00Z"}, 4, {"delivered": 2, "waiting": 4, "given_up": 0}),
        ({"since": 4_000_000_000}, 0, {"delivered": 2, "waiting": 2, "given_up": 2}),
        ({"ids": [1, 3, 6]}, 3, {"delivered": 1, "waiting": 4, "given_up": 1}),
    ],
)
def test_events_are_sent_again(
    admin: FlaskClient, conn: Connection, said: dict[str, Any], retried: int, owed: dict[str, int]
) -> None:
    endpoint_id = made(admin)["id"]
    other_id, batch_id = made(admin)["id"], make_batch(conn, range(16175550000, 16175550006))
    conn.execute("update endpoint set events = '{}' where endpoint_id = %s", (other_id,))
    owe(conn, *((batch_id, row) for row in range(1, 7)))
    end(conn, "delivered", 2)
    end(conn, "given_up", 2)
    conn.execute("update owed_event set next_try_at = now() + interval '1 hour'")
    conn.commit()
    assert admin.post(f"{PATH}/{other_id}/retry", json=said).json == {"retried": 0}
    answer = admin.post(f"{PATH}/{endpoint_id}/retry", json=said)
    assert answer.json == {"retried": retried}, answer.text
    assert admin.get(f"{PATH}/{endpoint_id}").json["events_owed"] == owed  # type: ignore[index]
    due = conn.execute("select count(*) from owed_event where next_try_at <= now()").fetchone()
    assert due == (retried,)


def test_given_up_events_are_acknowledged(admin: FlaskClient, conn: Connection) -> None:
    path = f"{PATH}/{made(admin)['id']}"
    batch_id = make_batch(conn, range(16175550000, 16175550003))
    owe(conn, *((batch_id, row) for row in range(1, 4)))
    end(conn, "given_up", 2)
    conn.commit()
    for unseen in (2, 0):
        endpoint = admin.get(path).json
        assert endpoint and (endpoint["unseen_given_up"], endpoint["events_owed"]["given_up"]) == (unseen, 2)
        answer = admin.post(f"{path}/acknowledge", json={"note": "Its outage."})
        assert answer.json == endpoint | {"unseen_given_up": 0}, answer.text
    [change] = list_changes(conn, ChangeFilter(action="acknowledge"), 10)  # the second time, nothing changed
    assert (change.note, change.details["given_up_events"]) == ("Its outage.", 2)


def test_retry_needs_exactly_one_choice(admin: FlaskClient) -> None:
    path = f"{PATH}/{made(admin)['id']}/retry"
    for said in ({}, {"ids": [1], "state": "waiting"}):
        assert faults_of(admin.post(path, json=said)) == [("ids", "required")]
    assert [field for field, _ in faults_of(admin.post(path, json={"state": "delivered"}))] == ["state"]
    assert [field for field, _ in faults_of(admin.post(path, json={"ids": []}))] == ["ids"]


@pytest.fixture
def service() -> Iterator[EndpointServer]:
    with receiving() as server:
        yield server


def test_test_event_is_sent_at_once_and_signed(admin: FlaskClient, service: EndpointServer) -> None:
    endpoint = made(admin, url=service.url)
    admin.patch(f"{PATH}/{endpoint['id']}", json={"enabled": False})
    answer = admin.post(f"{PATH}/{endpoint['id']}/test")
    assert answer.status_code == 200 and answer.json is not None, answer.text
    seen = {name: answer.json[name] for name in ("status", "error", "delivered")}
    assert seen == {"status": 200, "error": None, "delivered": True}
    assert set(answer.json) - set(seen) == {"at", "duration_seconds"} and answer.json["at"].endswith("Z")
    [request] = service.requests
    content = request.verified(endpoint["secret"])
    assert (content["type"], content["data"]) == ("endpoint.test", {"endpoint_id": endpoint["id"]})
    assert request.headers["content-type"] == "application/json"
    service.answer = lambda _: (500, {}, b"no number 6175551234 here")
    failed = admin.post(f"{PATH}/{endpoint['id']}/test").json
    assert failed is not None
    assert (failed["delivered"], failed["status"], failed["error"]) == (False, 500, "no number ********34 here")


def test_earlier_secrets_sign_for_a_day_after_a_rotation(
    admin: FlaskClient, service: EndpointServer, conn: Connection
) -> None:
    endpoint = made(admin, url=service.url)
    path = f"{PATH}/{endpoint['id']}"
    rotated = admin.post(f"{path}/rotate")
    assert rotated.status_code == 200 and rotated.json is not None, rotated.text
    assert rotated.json["secret"] != endpoint["secret"]
    admin.post(f"{path}/test")
    for secret in (endpoint["secret"], rotated.json["secret"]):
        service.requests[0].verified(secret)
    again = admin.post(f"{path}/rotate")
    admin.post(f"{path}/test")
    assert again.json is not None
    for secret in (endpoint["secret"], rotated.json["secret"], again.json["secret"]):
        service.requests[1].verified(secret)
    for later, signing in (("23 hours 30 minutes", 3), ("30 minutes", 1)):
        conn.execute("update endpoint set previous_until = previous_until - %s::interval", (later,))
        conn.commit()
        admin.post(f"{path}/test")
        service.requests[-1].verified(again.json["secret"])
        assert len(service.requests[-1].headers["webhook-signature"].split()) == signing, later


def test_people_are_no_endpoint(admin: FlaskClient, conn: Connection) -> None:
    row = conn.execute("insert into endpoint (events, secret) values ('{}', '') returning endpoint_id").fetchone()
    conn.commit()
    assert row is not None and admin.get(f"{PATH}/{row[0]}").status_code == 404
    assert admin.get(PATH).json == {"endpoints": [], "next_cursor": None}


def test_only_an_admin_has_endpoints(client_for: ClientFor, stranger: FlaskClient, admin: FlaskClient) -> None:
    path = f"{PATH}/{made(admin)['id']}"
    queuer = client_for("queue")
    for client, status in ((queuer, 403), (stranger, 401)):
        answers = [client.get(PATH), client.post(PATH, json={})]
        answers += [client.get(path), client.patch(path), client.delete(path)]
        answers += [client.post(f"{path}/{each}") for each in ("rotate", "test", "retry", "acknowledge")]
        answers.append(client.get(f"{path}/deliveries"))
        assert [answer.status_code for answer in answers] == [status] * 10


def test_changes_are_in_the_audit_trail(admin: FlaskClient, conn: Connection) -> None:
    path = f"{PATH}/{made(admin)['id']}"
    for _ in range(2):
        admin.patch(path, json={"enabled": False})  # the second time, nothing changes
    admin.post(f"{path}/rotate")
    admin.post(f"{path}/retry", json={"state": "given_up"})
    admin.delete(path)
    changes = list_changes(conn, ChangeFilter(actor="admin key"), 10)
    actions = [change.action for change in changes]
    assert actions == ["delete_endpoint", "retry_deliveries", "rotate_endpoint", "change_endpoint", "create_endpoint"]
