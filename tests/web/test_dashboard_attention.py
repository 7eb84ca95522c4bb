"""What needs attention is worked off: each entry has its action, or is marked as seen with a note."""

from __future__ import annotations

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.relay.deliveries import retry_deliveries
from receiver.release.presence import register_worker
from tests.factories import (
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    make_batch,
    phone_number,
    result_body,
)
from tests.web.browsing import text_of, visitor
from tests.web.page_rules import broken_rules
from tests.web.test_dashboard_endpoints import make, owe_calls
from tests.web.test_endpoints_api import end


@pytest.fixture
def troubles(conn: Connection) -> dict[str, int]:
    """One batch of each kind that needs attention, and the id of an unreadable callback."""
    register_worker(conn, "test", 1)
    overdue = make_batch(conn, [phone_number(0)], past_due=True)
    unknown = make_batch(conn, [phone_number(1)], send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    refused = make_batch(conn, [phone_number(2)], send=False)
    answer_submissions(conn, lambda _: REFUSED)
    (unreadable, _) = deliver(conn, make_batch(conn), b"{broken", result_body(phone_number(99)))
    return {"overdue": overdue, "unknown": unknown, "refused": refused, "unreadable": unreadable}


def section(page: str, id: str) -> str:
    return text_of(page.partition(f'id="{id}"')[2].partition("</section>")[0].partition(">")[2])


def test_every_entry_has_its_action(app: Flask, conn: Connection, troubles: dict[str, int]) -> None:
    browser = visitor(app, conn, "admin")
    assert '<a class="button" href="/attention">' in browser.get("/")
    page = browser.get("/attention")
    assert broken_rules(page) == []
    for kind, path in {
        "unknown": f"/batches/{troubles['unknown']}/resolve",
        "overdue": f"/batches/{troubles['overdue']}/follow-up?include=overdue",
        "refused": f"/batches/{troubles['refused']}/follow-up?include=refused",
    }.items():
        assert f'href="{path}"' in page and ("Mark as seen" in section(page, kind)) == (kind != "unknown"), kind
    callbacks = section(page, "callbacks")
    assert callbacks.count("Preview replay") == callbacks.count("Mark as seen: ") == 2
    form = browser.get(f"/batches/{troubles['overdue']}/follow-up?include=overdue")
    assert 'value="overdue" checked' in form and 'value="refused" checked' not in form
    assert "Nothing was marked as seen yet." in page


def test_seen_entries_move_to_the_history_with_their_note(
    app: Flask, conn: Connection, troubles: dict[str, int]
) -> None:
    queuer, reader = visitor(app, conn, "queue"), visitor(app, conn, "read")
    for kind in ("overdue", "refused"):
        path = f"/batches/{troubles[kind]}/acknowledge"
        answer = queuer.post(path, form_at="/attention", note=f"The provider was down: {kind}.", next="/attention")
        assert (answer.status_code, answer.location) == (303, "/attention")
    assert "are marked as seen. Later ones need attention again." in queuer.get("/attention")
    fields = {"state": "unmatched", "reason": "number_not_in_submission", "next": "/attention"}
    queuer.post("/callbacks/acknowledge", form_at="/attention", note="A test of the provider.", **fields)
    assert "1 callback is marked as seen." in queuer.get("/attention")
    queuer.post("/callbacks/acknowledge", form_at="/attention", **fields)
    page = queuer.get("/attention")
    assert "Nothing was changed: these callbacks were marked as seen before" in page
    assert 'id="overdue"' not in page and 'id="refused"' not in page and "unmatched" not in section(page, "callbacks")
    history = section(page, "history")
    assert f"batch {troubles['overdue']}: 1 overdue call" in history and "1 refused submission" in history
    for text in ("The provider was down: overdue.", "A test of the provider.", "1 callback", "queue of a person"):
        assert text in history, text
    # A reader sees what was seen and when, but not who saw it.
    page = reader.get("/attention")
    assert broken_rules(page) == [] and "1 overdue call" in section(page, "history")
    assert "down" not in page and "queue of a person" not in page and "<button>Mark" not in page
    # The remaining entries: one callback, and the unknown submission.
    (unreadable,) = (troubles["unreadable"],)
    assert "Mark as seen" in queuer.get(f"/callbacks/{unreadable}")
    queuer.post("/callbacks/acknowledge", form_at="/attention", ids=str(unreadable), next=f"/callbacks/{unreadable}")
    page = text_of(queuer.get(f"/callbacks/{unreadable}"))
    assert "Marked as seen" in page and "Note (optional)" not in page
    overview = text_of(queuer.get("/"))
    assert "1 submission unknown" in overview and "overdue" not in section(queuer.get("/"), "attention-title")


def test_replay_that_changes_nothing_explains_why_and_what_else_to_do(
    app: Flask, conn: Connection, troubles: dict[str, int]
) -> None:
    browser = visitor(app, conn, "admin")
    fields = {"state": "unreadable", "reason": "malformed_json"}
    answer = browser.post("/callbacks/replay", form_at="/callbacks", **fields)
    assert broken_rules(answer.text) == []
    text = text_of(answer.text)
    assert "Why nothing changes, and what else you can do" in text
    assert "this release cannot read it either" in text and "update this service and replay then" in text
    ids = str(troubles["unreadable"])
    assert f'name="ids" value="{ids}"' in answer.text and 'action="/callbacks/acknowledge"' in answer.text
    answer = browser.post("/callbacks/replay", form_at="/callbacks", state="unmatched")
    assert "The submission still has no call to this number." in text_of(answer.text)


def test_given_up_events_are_retried_or_marked_as_seen(app: Flask, conn: Connection) -> None:
    register_worker(conn, "test", 1)
    browser, reader = visitor(app, conn, "admin"), visitor(app, conn, "read")
    endpoint_id = make(conn, description="CRM")
    owe_calls(conn, 3)
    end(conn, "given_up", 2)
    conn.commit()
    assert "2 events given up: 1 endpoint did not accept them in time." in section(browser.get("/"), "attention-title")
    page = browser.get("/attention")
    assert broken_rules(page) == [] and "CRM" in section(page, "given-up")
    assert f"Retry the given-up events of endpoint {endpoint_id}" in section(page, "given-up")
    page = reader.get("/attention")
    assert broken_rules(page) == [] and "You need a key of scope admin." in section(page, "given-up")
    assert "CRM" not in page
    path = f"/endpoints/{endpoint_id}/acknowledge"
    assert browser.post(path, form_at="/attention", note="Its outage.", next="/attention").location == "/attention"
    page = browser.get("/attention")
    assert 'id="given-up"' not in page
    assert f"endpoint {endpoint_id}: 2 given up events" in section(page, "history") and "Its outage." in page
    assert "given up" not in section(browser.get("/"), "attention-title")
    # Those that are retried in vain, and later ones, need attention again.
    retry_deliveries(conn, endpoint_id, by="Ana", state="given_up")
    end(conn, "given_up", 3)
    conn.commit()
    assert "3 events given up" in section(browser.get("/"), "attention-title")


def test_page_says_that_nothing_needs_attention(app: Flask, conn: Connection) -> None:
    register_worker(conn, "test", 1)
    conn.commit()
    page = visitor(app, conn, "read").get("/attention")
    assert broken_rules(page) == [] and "Nothing needs attention." in page
