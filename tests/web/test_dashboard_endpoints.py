"""The pages of endpoints, as an admin uses them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from flask import Flask
from psycopg.types.json import Json

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.config import Config
from receiver.database.pool import Connection
from receiver.relay import deliveries
from receiver.relay.deliveries import LATE
from receiver.relay.endpoints import (
    ENDPOINT_EVENTS,
    change_endpoint,
    create_endpoint,
    get_endpoint,
    get_secrets,
    list_endpoints,
)
from tests.factories import make_batch, phone_number
from tests.relay.endpoint_server import EndpointServer, receiving
from tests.web.browsing import Browser, text_of, visitor
from tests.web.page_rules import HOSTILE, broken_rules
from tests.web.test_endpoints_api import PUBLIC, end, owe

ATTEMPTS: list[dict[str, Any]] = [
    {"at": "2026-11-01T10:00:00Z", "status": 500, "duration_seconds": 2, "error": "<b>busy</b>"},
    {"at": "2026-11-01T10:00:05.500000Z", "status": None, "duration_seconds": 15, "error": "It took too long."},
]


@pytest.fixture
def config(config: Config) -> Config:
    return replace(config, relay_networks=(ip_network("127.0.0.0/8"),))


@pytest.fixture
def service() -> Iterator[EndpointServer]:
    with receiving() as server:
        yield server


def make(conn: Connection, url: str = PUBLIC, **values: Any) -> int:
    networks = (ip_network("127.0.0.0/8"),)
    made, _ = create_endpoint(conn, {"url": url, **values}, networks, by="Ana")
    conn.commit()
    return made.id


def owe_calls(conn: Connection, count: int) -> int:
    batch_id = make_batch(conn, [phone_number(at) for at in range(count)])
    owe(conn, *((batch_id, row) for row in range(1, count + 1)))
    return batch_id


def fail(conn: Connection) -> None:
    """Let all waiting events have failed twice."""
    conn.execute("update owed_event set attempts = %s, next_try_at = now() + interval '1 hour'", (Json(ATTEMPTS),))
    conn.commit()


def secret_in(page: str) -> str:
    found = re.search(r'<code class="key" id="new-secret">([^<]+)</code>', page)
    assert found, text_of(page)
    return found[1]


def log_of(page: str) -> str:
    return text_of(page.partition('id="log-title"')[2].partition("</section>")[0].partition(">")[2])


def attention_of(page: str) -> str:
    return text_of(page.partition('id="attention-title"')[2].partition("</section>")[0].partition(">")[2])


def numbers_of(page: str) -> list[int]:
    """The events that are listed."""
    return [int(number) for number in re.findall(r'aria-label="Send event (\d+) again"', page)]


def test_endpoint_is_created_and_its_secret_is_shown_once(admin_at: Browser, conn: Connection) -> None:
    assert "There is no endpoint yet." in text_of(admin_at.get("/endpoints"))
    form = {"url": PUBLIC, "description": HOSTILE[:20], "events": "batch.ended", "label": "team:north:west"}
    form |= {"application_id": "7", "deployment_id": "", "own_key": admin_at.key}
    answer = admin_at.post("/endpoints/new", **form)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert broken_rules(answer.text) == []
    [made] = list_endpoints(conn)
    assert get_secrets(conn, made.id) == [secret_in(answer.text)]
    conn.rollback()
    assert (made.url, made.events, made.label) == (PUBLIC, ["batch.ended"], "team:north:west")
    assert (made.application_id, made.deployment_id) == (7, None)
    page = admin_at.get(f"/endpoints/{made.id}")
    assert "Events batch.ended Batches application 7, label team:north:west Created" in text_of(page)
    for text in (page, admin_at.get("/endpoints"), admin_at.get(f"/endpoints/{made.id}/change")):
        assert "whsec_" not in text and "<script>alert" not in text and broken_rules(text) == []


def test_faulty_field_is_named_and_what_was_typed_stays(admin_at: Browser, conn: Connection) -> None:
    good = {"url": PUBLIC, "description": "CRM", "events": "call.result", "own_key": admin_at.key}
    for field, text in (
        ("url", ""),
        ("url", "https://10.0.0.1/"),
        ("url", "hook"),
        ("description", "x" * 501),
        ("description", "a\nb"),
        ("events", "endpoint.disabled"),
        ("application_id", "x"),
        ("deployment_id", "9" * 30),
        ("label", "north"),
        ("own_key", "rr_wrong"),
    ):
        answer = admin_at.post("/endpoints/new", **{**good, field: text})
        identity = field.replace("_", "-")
        assert answer.status_code == 422, field
        assert f'id="{identity}-fault"' in answer.text and broken_rules(answer.text) == [], field
        assert field == "description" or 'value="CRM"' in answer.text
        assert "1 field is not valid." in text_of(answer.text), field
        assert "rr_wrong" not in answer.text
    no_event = admin_at.post("/endpoints/new", url=PUBLIC, own_key=admin_at.key)
    assert no_event.status_code == 422 and "Choose at least one event." in text_of(no_event.text)
    assert list_endpoints(conn) == []


def test_endpoint_is_changed(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn, description="CRM", label=("a", "b"), application_id=7)
    path = f"/endpoints/{endpoint_id}/change"
    page = admin_at.get(path)
    assert 'value="a:b"' in page and 'value="7"' in page and page.count(" checked") == len(ENDPOINT_EVENTS)
    form = {"url": "https://93.184.215.15/", "description": "", "events": "batch.ended", "label": ""}
    assert admin_at.post(path, **form, own_key="").status_code == 422
    assert admin_at.post(path, **form, own_key=admin_at.key).location == f"/endpoints/{endpoint_id}"
    found = get_endpoint(conn, endpoint_id)
    assert (found.url, found.description, found.label) == ("https://93.184.215.15/", None, None)
    assert (found.events, found.application_id) == (["batch.ended"], None)
    assert "The endpoint is changed." in text_of(admin_at.get(f"/endpoints/{endpoint_id}"))
    refused = admin_at.post(path, **{**form, "url": "https://10.0.0.1/"}, own_key=admin_at.key)
    assert refused.status_code == 422 and 'id="url-fault"' in refused.text


def test_list_shows_state_balance_and_last_failure(admin_at: Browser, conn: Connection) -> None:
    endpoint_id, idle = make(conn, description="CRM"), make(conn, events=["batch.ended"])
    owe_calls(conn, 4)
    end(conn, "delivered", 1)
    fail(conn)
    end(conn, "given_up", 1)
    conn.execute("update endpoint set failing_since = now() where endpoint_id = %s", (endpoint_id,))
    conn.execute("update endpoint set disabled_at = now(), disabled_reason = 'gone' where endpoint_id = %s", (idle,))
    conn.commit()
    page = admin_at.get("/endpoints")
    assert broken_rules(page) == [] and "<b>busy" not in page
    rows = [text_of(row) for row in page.partition("<tbody>")[2].split("</tr>")]
    assert f"Endpoint {idle}" in rows[0] and f"{PUBLIC} disabled 0 0 0" in rows[0]
    assert re.search(rf"^CRM {re.escape(PUBLIC)} failing 1 2 1 .* ago, no answer: It took too long. ", rows[1]), rows
    assert rows[0].endswith(f"Enable endpoint {idle}") and rows[1].endswith(f"Test endpoint {endpoint_id}")
    assert f"Retry the given-up events of endpoint {endpoint_id}" in rows[1]
    page = text_of(admin_at.get(f"/endpoints/{endpoint_id}"))
    assert "4 events owed: 1 delivered, 2 waiting, 1 given up." in page and "Every attempt since" in page
    assert "your service answered 410 (gone)" in text_of(admin_at.get(f"/endpoints/{idle}"))


def test_last_failure_is_of_a_given_up_event_if_nothing_waits(admin_at: Browser, conn: Connection) -> None:
    make(conn)
    owe_calls(conn, 1)
    end(conn, "given_up", 1)
    conn.execute("update delivery set attempts = %s", (Json(ATTEMPTS[:1]),))
    conn.commit()
    assert "ago, status 500: <b>busy</b>" in text_of(admin_at.get("/endpoints"))


def test_log_shows_attempts_and_is_filtered(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    first, second = owe_calls(conn, 3), owe_calls(conn, 2)
    end(conn, "delivered", 2)
    fail(conn)
    path = f"/endpoints/{endpoint_id}"
    page = admin_at.get(path)
    log = log_of(page)
    assert broken_rules(page) == [] and len(numbers_of(page)) == 5
    assert "2 attempts, last" in log and "10:00:00, 2 s: status 500: <b>busy</b>" in log and "<b>busy" not in page
    assert "15 s: no answer: It took too long." in log and "next in" in log
    assert f'href="/batches/{first}/calls/1"' in page
    everything = numbers_of(page)
    for query, chosen in (
        ("state=delivered", everything[3:]),
        ("state=waiting", everything[:3]),
        (f"batch_id={second}", everything[:2]),
        (f"state=waiting&batch_id={first}", everything[2:3]),
        ("event=call.result", everything),
        ("event=batch.ended", []),
        ("state=given_up", []),
        (f"before={everything[1]}", everything[2:]),
    ):
        page = admin_at.get(f"{path}?{query}")
        assert numbers_of(page) == chosen, query
        assert chosen or "Nothing matches." in log_of(page)
    for query in ("state=x", "event=x", "batch_id=x", "before=x"):
        page = admin_at.get(f"{path}?{query}")
        assert numbers_of(page) == [] and "Nothing matches." not in page and broken_rules(page) == [], query
    assert "No event was owed to this endpoint yet." in text_of(admin_at.get(f"/endpoints/{make(conn)}"))


def test_log_names_what_each_event_is_about(admin_at: Browser, conn: Connection) -> None:
    endpoint_id, batch_id = make(conn), make_batch(conn)
    for event, subject in (("batch.ended", None), ("submission.unknown", 3), ("callback.unreadable", 12)):
        conn.execute(
            "insert into owed_event (endpoint_id, event, batch_id, subject) values (%s, %s, %s, %s)",
            (endpoint_id, event, batch_id, subject),
        )
    conn.commit()
    log = log_of(admin_at.get(f"/endpoints/{endpoint_id}"))
    assert f"submission.unknown batch {batch_id}, submission 3 waiting" in log
    assert "callback.unreadable callback 12 waiting" in log and f"batch.ended batch {batch_id} waiting" in log


def test_log_has_pages(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    owe_calls(conn, 30)
    tries = [{**ATTEMPTS[0], "error": f"{number} {'x' * 498}"} for number in range(10)]
    conn.execute("update owed_event set attempts = %s", (Json(tries),))
    conn.commit()
    page = admin_at.get(f"/endpoints/{endpoint_id}?state=waiting")
    newest = numbers_of(page)
    assert len(newest) == 20 and broken_rules(page) == []
    assert f"9 {'x' * 498}" in page and "440 more characters" in page
    (older,) = [part.partition('"')[0] for part in page.split('href="') if "before=" in part.partition('"')[0]]
    rest = numbers_of(admin_at.get(older.replace("&amp;", "&").partition("#")[0]))
    assert len(rest) == 10 and max(rest) < min(newest)


def test_search_for_a_batch_goes_through_the_log_piece_by_piece(
    admin_at: Browser, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "SEARCHED", 4)
    endpoint_id = make(conn)
    batch_id, _ = owe_calls(conn, 2), owe_calls(conn, 9)
    path, found, pages = f"/endpoints/{endpoint_id}?batch_id={batch_id}", list[int](), 0
    while path:
        page = admin_at.get(path.partition("#")[0])
        found, pages = found + numbers_of(page), pages + 1
        older = re.findall(r'rel="next" href="([^"]+)"', page)
        assert not older or numbers_of(page) or "Nothing matches among the newest events." in log_of(page)
        path = older[0].replace("&amp;", "&") if older else ""
    assert (len(found), pages) == (2, 3)


def test_test_event_is_sent_and_its_answer_is_shown(
    admin_at: Browser, conn: Connection, service: EndpointServer
) -> None:
    endpoint_id = make(conn, service.url)
    path, here = f"/endpoints/{endpoint_id}/test", f"/endpoints/{endpoint_id}"
    assert admin_at.post(path, form_at=here).location == here
    [request] = service.requests
    assert request.json["type"] == "endpoint.test"
    page = admin_at.get(here)
    assert re.search(r'<p class="flash note good" role="status"><bdi>Test event. Delivered: status 200 after \d+', page)
    service.answer = lambda _: (503, {}, b"<b>closed</b>")
    admin_at.post(path, form_at=here)
    page = admin_at.get(here)
    assert '<p class="flash note warn" role="status"><bdi>Test event. Not delivered: status 503' in page
    assert "&lt;b&gt;closed" in page and len(service.requests) == 2


def test_secret_is_rotated_after_the_own_key_is_entered(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    path = f"/endpoints/{endpoint_id}/rotate"
    [before] = get_secrets(conn, endpoint_id)
    conn.rollback()
    assert broken_rules(admin_at.get(path)) == []
    refused = admin_at.post(path, own_key="rr_wrong")
    assert refused.status_code == 422 and 'id="own-key-fault"' in refused.text
    answer = admin_at.post(path, own_key=admin_at.key)
    assert answer.status_code == 200 and "signs too for 24 hours" in text_of(answer.text)
    assert get_secrets(conn, endpoint_id) == [secret_in(answer.text), before]


def test_endpoint_is_disabled_and_enabled(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    path, here = f"/endpoints/{endpoint_id}/enabled", f"/endpoints/{endpoint_id}"
    assert admin_at.post(path, form_at=here, enabled="0").location == here
    page = text_of(admin_at.get(here))
    assert "The endpoint is disabled." in page and "a person disabled it." in page and "Enable What waits" in page
    admin_at.post(path, form_at=here, enabled="1")
    page = text_of(admin_at.get(here))
    assert "The endpoint is enabled." in page and "Disable Nothing is sent" in page
    assert get_endpoint(conn, endpoint_id).enabled


def test_given_up_events_are_retried_together_or_one_by_one(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    path, here = f"/endpoints/{endpoint_id}/retry", f"/endpoints/{endpoint_id}"
    owe_calls(conn, 4)
    end(conn, "delivered", 1)
    end(conn, "given_up", 3)
    page = admin_at.get(f"{here}?state=given_up")
    assert "3 events are sent again" in text_of(page)
    assert admin_at.post(path, form_at=here, id=str(numbers_of(page)[0])).location == here
    assert "1 event will be sent again now." in text_of(admin_at.get(here))
    assert get_endpoint(conn, endpoint_id).events_owed == {"delivered": 1, "waiting": 1, "given_up": 2}
    conn.rollback()
    for wrong in ("x", "999999", "9" * 40):
        admin_at.post(path, form_at=here, id=wrong)
        assert "There is nothing to retry." in text_of(admin_at.get(here)), wrong
    change_endpoint(conn, endpoint_id, {"enabled": False}, (), by="Ana")
    conn.commit()
    admin_at.post(path, form_at=here)
    assert "2 events will be sent again once it is enabled." in text_of(admin_at.get(here))
    assert get_endpoint(conn, endpoint_id).events_owed == {"delivered": 1, "waiting": 3, "given_up": 0}


def test_endpoint_is_deleted_after_a_confirmation(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    path = f"/endpoints/{endpoint_id}/delete"
    assert "Everything that was owed to it is delivered." in text_of(admin_at.get(path))
    owe_calls(conn, 2)
    page = admin_at.get(path)
    assert "2 events that were not delivered will never be sent." in text_of(page) and broken_rules(page) == []
    assert len(list_endpoints(conn)) == 1
    conn.rollback()
    assert admin_at.post(path).location == "/endpoints"
    assert f"Endpoint {endpoint_id} is deleted." in text_of(admin_at.get("/endpoints"))
    for each in ("", "/change", "/rotate", "/delete"):
        admin_at.get(f"/endpoints/{endpoint_id}{each}", 404)
    for each in ("test", "enabled", "retry"):
        assert admin_at.post(f"/endpoints/{endpoint_id}/{each}", form_at="/endpoints").status_code == 404


def test_long_list_has_pages(admin_at: Browser, conn: Connection) -> None:
    ids = [make(conn) for _ in range(27)]
    page = admin_at.get("/endpoints")
    assert f'href="/endpoints/{ids[2]}"' in page and f'href="/endpoints/{ids[1]}"' not in page
    page = admin_at.get(f"/endpoints?before={ids[2]}")
    assert f'href="/endpoints/{ids[1]}"' in page and f'href="/endpoints/{ids[2]}"' not in page
    assert "Newest" in text_of(page)


def test_only_an_admin_sees_endpoints(app: Flask, conn: Connection, admin_at: Browser) -> None:
    endpoint_id = make(conn)
    assert 'href="/endpoints"' in admin_at.get("/")
    queuer = visitor(app, conn, "queue")
    assert 'href="/endpoints"' not in queuer.get("/")
    for path in ("", "/new", f"/{endpoint_id}", f"/{endpoint_id}/change", f"/{endpoint_id}/delete"):
        queuer.get(f"/endpoints{path}", 403)


def test_disabled_endpoints_and_growing_debts_need_attention(
    app: Flask, admin_at: Browser, reader_at: Browser, conn: Connection
) -> None:
    make(conn)
    owe_calls(conn, 3)
    assert "endpoint" not in attention_of(admin_at.get("/"))
    conn.execute("update owed_event set owed_at = now() - %s - interval '1 minute'", (LATE,))
    conn.commit()
    page = admin_at.get("/")
    assert "1 endpoint behind: 3 events wait, the oldest from 1 h 1 min ago." in attention_of(page)
    assert '<a href="/endpoints">1 endpoint behind</a>' in page
    disabled = make(conn, events=["batch.ended"])
    conn.execute("update endpoint set disabled_at = now() where endpoint_id = %s", (disabled,))
    conn.execute("insert into endpoint (events, secret) values ('{}', '')")  # people
    conn.commit()
    words = attention_of(reader_at.get("/"))
    assert "1 endpoint disabled: 0 events wait. Events are kept for 30 days." in words
    assert "1 endpoint behind: 3 events wait" in words and 'href="/endpoints"' not in reader_at.get("/")


def test_changes_on_pages_are_in_the_audit_trail(admin_at: Browser, conn: Connection) -> None:
    endpoint_id = make(conn)
    conn.execute(
        "insert into delivery (endpoint_id, event_id, slot, event, batch_id, owed_at, state)"
        " values (%s, 1, 1, 'batch.ended', 1, now(), 'given_up')",
        (endpoint_id,),
    )
    conn.commit()
    here = f"/endpoints/{endpoint_id}"
    admin_at.post(f"{here}/enabled", form_at=here, enabled="0")
    admin_at.post(f"{here}/retry", form_at=here)
    admin_at.post(f"{here}/rotate", own_key=admin_at.key)
    admin_at.post(f"{here}/delete")
    changes = list_changes(conn, ChangeFilter(actor="admin of a person"), 10)
    assert [each.action for each in changes] == [
        "delete_endpoint", "rotate_endpoint", "retry_deliveries", "change_endpoint",
    ]  # fmt: skip
    conn.rollback()
    text = text_of(admin_at.get("/audit"))
    for words in ("deleted an endpoint", "rotated an endpoint's secret", "sent events again", "changed an endpoint"):
        assert words in text
