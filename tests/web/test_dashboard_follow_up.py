"""Following up a batch on its pages: choice, preview, confirmation."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from io import StringIO
from typing import Any

import pytest
from flask import Flask
from psycopg.types.json import Json

from receiver.database.pool import Connection
from receiver.model import rfc3339
from receiver.queueing.follow_ups import LEFT_OUT
from receiver.queueing.suppressions import suppress
from receiver.summary.batches import get_batch
from tests.factories import (
    answer_submissions,
    deliver,
    differences,
    make_batch,
    make_overdue,
    purge_batch,
    result_body,
)
from tests.web.browsing import Browser, text_of, visitor
from tests.web.drafting import button, count
from tests.web.page_rules import HOSTILE, broken_rules, numbers

NUMBERS = numbers(6)
STATUSES = ("completed", "failed", "failed", "rejected", "canceled")


@pytest.fixture
def batch_id(conn: Connection) -> int:
    """A batch with a completed, two failed, a rejected and a canceled call, and one without a result."""
    batch_id = make_batch(conn, NUMBERS, name="May & June", labels={"team": HOSTILE})
    deliver(conn, batch_id, *(result_body(each, status) for each, status in zip(NUMBERS, STATUSES, strict=False)))
    return batch_id


def fields_of(page: str, form_with: str) -> dict[str, list[str]]:
    """The hidden fields of the form that contains this text."""
    (form,) = [each for each in re.findall(r"<form.*?</form>", page, re.DOTALL) if form_with in each]
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form):
        found.setdefault(unescape(name), []).append(unescape(value))
    return found


def check(browser: Browser, batch_id: int, *, outcomes: Any = ("failed", "rejected"), **fields: Any) -> str:
    """The preview with these choices."""
    here = f"/batches/{batch_id}/follow-up"
    sent = {"csrf_token": browser.token(here), "outcomes": list(outcomes), **fields}
    answer = browser.client.post(here, data=sent)
    assert answer.status_code == 200, text_of(answer.text)
    assert broken_rules(answer.text) == []
    return answer.text


def confirm(browser: Browser, batch_id: int, page: str) -> Any:
    return browser.client.post(f"/batches/{batch_id}/follow-up", data=fields_of(page, "primary big"))


def table_of(page: str) -> dict[str, int]:
    """The first table of a page with two columns."""
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th><td class="figure">([\d,]+)</td></tr>', page)
    return {words: int(number) for words, number in rows}


def test_calls_are_chosen_checked_and_queued_again(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    here = f"/batches/{batch_id}"
    page = queuer_at.get(here)
    assert broken_rules(page) == [] and f'href="{here}/follow-up"' in page
    page = queuer_at.get(f"{here}/follow-up")
    assert broken_rules(page) == [] and button(page) is None
    assert re.findall(r'name="(?:outcomes|include)" value="(\w+)" checked', page) == ["failed", "rejected"]
    assert "Failed 2 calls" in text_of(page) and 'value="May &amp; June, follow-up"' in page
    page = check(queuer_at, batch_id)
    assert button(page) == "Make 3 calls again"
    completed, not_chosen = "Completed, by this call or an earlier one", "Ended with an outcome that was not chosen"
    assert table_of(page) == {"Chosen": 3, completed: 1, "Pending": 1, not_chosen: 1, "All": 6}
    assert count(conn, "batch") == 1
    answer = confirm(queuer_at, batch_id, page)
    assert (answer.status_code, answer.location) == (303, "/batches/2")
    batch = get_batch(conn, 2)
    assert (batch.follows, batch.name, batch.labels) == (batch_id, "May & June, follow-up", {"team": HOSTILE})
    assert (batch.counts["rows"], batch.created_by) == (3, "queue of a person")
    assert differences(conn) == []


def test_confirmed_twice_it_is_queued_once(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    page = check(queuer_at, batch_id)
    assert confirm(queuer_at, batch_id, page).location == "/batches/2"
    # Another call can be followed up now, but the form that was sent before must not queue it.
    deliver(conn, batch_id, result_body(NUMBERS[5], "failed"))
    assert confirm(queuer_at, batch_id, page).location == "/batches/2"
    assert count(conn, "batch") == 2


def test_nothing_left_to_choose_is_no_batch(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    first, second = check(queuer_at, batch_id), check(queuer_at, batch_id)
    confirm(queuer_at, batch_id, first)
    answer = confirm(queuer_at, batch_id, second)
    assert answer.status_code == 422 and "The calls have changed since the check" in answer.text
    assert broken_rules(answer.text) == [] and count(conn, "batch") == 2
    page = check(queuer_at, batch_id)
    assert button(page) is None and "No call is chosen." in page
    assert table_of(page)["Followed up before"] == 3
    assert button(check(queuer_at, batch_id, outcomes=())) is None


def test_each_reason_is_in_words(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    suppress(conn, NUMBERS[1], by="Ana")
    conn.commit()
    make_overdue(conn, batch_id)
    page = check(queuer_at, batch_id, outcomes=("failed",))
    assert table_of(page)["The number is suppressed"] == table_of(page)["Overdue"] == 1
    page = check(queuer_at, batch_id, outcomes=("failed",), include=["overdue"])
    assert "Overdue" not in table_of(page) and button(page) == "Make 2 calls again"
    conn.execute("update batch set follows = 1, left_out = %s", (Json(dict.fromkeys(LEFT_OUT, 1)),))
    conn.commit()
    lineage = queuer_at.get(f"/batches/{batch_id}").partition('id="lineage"')[2]
    table = table_of(lineage.split("<table")[3].partition("</table>")[0])
    assert len(table) == len(LEFT_OUT) + 2 and not set(table) & set(LEFT_OUT)


def test_parameters_are_those_of_the_earlier_batch_and_can_be_changed(queuer_at: Browser, conn: Connection) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    earlier = make_batch(
        conn, NUMBERS[:1], max_attempts=3, reattempt_wait=300, end_timestamp=end, calling_hours=(0, 1440),
        time_zone="America/New_York", calls_per_minute=60, external_id="crm 1", is_pci=True,
    )  # fmt: skip
    answer_submissions(conn)
    deliver(conn, earlier, result_body(NUMBERS[0], "failed"))
    page = queuer_at.get(f"/batches/{earlier}/follow-up")
    values = dict(re.findall(r'<input id="[^"]*" name="([^"]*)" type="[^"]*" value="([^"]*)"', page))
    assert values["max_attempts"] == "3" and values["calling_hours"] == "00:00-24:00" and values["calls_per_minute"]
    assert values["end_timestamp"] == values["external_id"] == "" and "destination_column" not in values
    assert len(re.findall(r'name="calling_days" value="\w+" checked', page)) == 7
    page = check(queuer_at, earlier)
    confirm(queuer_at, earlier, page)
    taken, before = get_batch(conn, 2).parameters, get_batch(conn, earlier).parameters
    conn.rollback()
    assert taken == before | {"end_timestamp": None, "calling_days": "mon,tue,wed,thu,fri,sat,sun"}
    deliver(conn, 2, result_body(NUMBERS[0], "failed"))
    without = {"calling_hours": "", "time_zone": "", "calls_per_minute": "", "max_attempts": "", "reattempt_wait": ""}
    later = rfc3339(end)
    page = check(queuer_at, earlier, fields="1", end_timestamp=later, external_id="crm 2", labels="a: b", **without)
    page = check(queuer_at, 2, fields="1", end_timestamp=later, external_id="crm 2", labels="a: b", **without)
    assert confirm(queuer_at, 2, page).location == "/batches/3"
    batch = get_batch(conn, 3)
    assert (batch.external_id, batch.labels, batch.parameters["end_timestamp"]) == ("crm 2", {"a": "b"}, end)
    assert batch.parameters["calling_hours"] is batch.parameters["calls_per_minute"] is None
    assert batch.parameters["is_pci"] is False


def test_faults_are_shown_at_their_fields(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    make_batch(conn, external_id="used")
    for fields, name in (({"max_attempts": "2"}, "reattempt-wait"), ({"external_id": "used"}, "external-id")):
        answer = queuer_at.post(f"/batches/{batch_id}/follow-up", outcomes="failed", fields="1", **fields)
        assert answer.status_code == 422 and f'id="{name}-fault"' in answer.text
        assert broken_rules(answer.text) == [] and button(answer.text) is None
        assert re.findall(r'name="outcomes" value="(\w+)" checked', answer.text) == ["failed"]


def test_numbers_called_in_another_batch_are_asked_about(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    other = make_batch(conn, NUMBERS[1:2], name="Other")
    page = check(queuer_at, batch_id)
    assert button(page) is None and f"Batch {other}</a> <bdi>Other</bdi>" in page
    fields = fields_of(page, 'name="on_recent" value="skip"')
    page = queuer_at.client.post(f"/batches/{batch_id}/follow-up", data=fields | {"on_recent": "skip"}).text
    assert button(page) == "Make 2 calls again" and table_of(page)["The number was queued recently"] == 1
    page = queuer_at.client.post(f"/batches/{batch_id}/follow-up", data=fields | {"on_recent": "allow"}).text
    assert button(page) == "Make 3 calls again" and "will be called again" in page


def test_rows_without_hours_are_asked_about(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBERS[0], 18005550199])
    deliver(conn, batch_id, *(result_body(each, "failed") for each in (NUMBERS[0], 18005550199)))
    page = check(queuer_at, batch_id, fields="1", calling_hours="09:00-20:00", calling_days="mon")
    assert button(page) is None and "1 row cannot be called. Leave it out, or change the calling hours" in text_of(page)
    fields = fields_of(page, 'name="on_invalid" value="skip"') | {"on_invalid": "skip"}
    page = queuer_at.client.post(f"/batches/{batch_id}/follow-up", data=fields).text
    assert button(page) == "Make 1 call again"
    confirm(queuer_at, batch_id, page)
    counts = get_batch(conn, 2).counts
    assert (counts["rows"], counts["skipped"]) == (2, 1)


def test_it_needs_a_key_of_scope_queue_and_a_batch(
    app: Flask, queuer_at: Browser, conn: Connection, batch_id: int
) -> None:
    reader = visitor(app, conn, "read")
    assert "You need a key of scope queue." in text_of(reader.get(f"/batches/{batch_id}"))
    reader.get(f"/batches/{batch_id}/follow-up", 403)
    queuer_at.get("/batches/99/follow-up", 404)
    answer = queuer_at.client.post(f"/batches/{batch_id}/follow-up", data={"outcomes": "failed", "once": "x"})
    assert answer.status_code == 403 and count(conn, "batch") == 1


# Lineage ---------------------------------------------------------------------------------------------


def followed(browser: Browser, batch_id: int) -> int:
    """Follow up a batch's failed and rejected calls. Returns the new batch."""
    return int(confirm(browser, batch_id, check(browser, batch_id)).location.rpartition("/")[2])


def test_pages_show_what_the_list_came_to_in_the_end(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    assert 'id="lineage"' not in queuer_at.get(f"/batches/{batch_id}")
    second = followed(queuer_at, batch_id)
    answer_submissions(conn)
    deliver(conn, second, result_body(NUMBERS[1], "completed"), result_body(NUMBERS[2], "failed"))
    third = followed(queuer_at, second)
    expected = {"Completed": 2, "Canceled": 1, "Pending": 3, "All": 6}
    for each in (batch_id, second, third):
        page = queuer_at.get(f"/batches/{each}")
        assert broken_rules(page) == []
        part = page.partition('id="lineage"')[2].partition("</section>")[0]
        table, _, left_out = part.partition("</tfoot>")
        assert table_of(table) == expected, each
        assert f"Batch {each}, this one" in part
        assert all(f'href="/batches/{other}"' in part for other in (batch_id, second, third) if other != each)
        if each != batch_id:
            assert sum(table_of(left_out).values()) == 2 * get_batch(conn, each - 1).counts["rows"]
        page = queuer_at.get(f"/batches/{each}/lineage")
        assert broken_rules(page) == [] and table_of(page.partition("</tfoot>")[0]) == expected
    path = f"/batches/{batch_id}/calls.csv?latest=1"
    assert f'href="{path}"' in queuer_at.get(f"/batches/{batch_id}") and path not in queuer_at.get(f"/batches/{third}")
    outcomes = [row["outcome"] for row in csv.DictReader(StringIO(queuer_at.get(path).lstrip("\ufeff")))]
    assert outcomes == ["completed", "completed", "", "", "canceled", ""]
    text = text_of(queuer_at.get(f"/batches/{third}"))
    assert "This batch calls again those who were not reached by batch 2." in text
    assert "was not followed up" in queuer_at.get(f"/batches/{make_batch(conn)}/lineage")


def test_large_follow_ups_are_counted_on_their_own_page(
    queuer_at: Browser, conn: Connection, batch_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed(queuer_at, batch_id)
    monkeypatch.setattr("receiver.web.dashboard.batch.FEW_FOLLOWED", 2)
    page = queuer_at.get(f"/batches/{batch_id}")
    assert (
        f'href="/batches/{batch_id}/lineage">Count the latest result of each row' in page
        and "The latest result of" not in page
    )
    assert broken_rules(page) == []
    assert "The latest result of each row of" in queuer_at.get(f"/batches/{batch_id}/lineage")


def test_purged_batches_are_shown_as_purged(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    second = followed(queuer_at, batch_id)
    answer_submissions(conn)
    deliver(conn, second, *(result_body(number, "failed") for number in NUMBERS[1:4]))
    third = followed(queuer_at, second)
    call = f"/batches/{second}/calls/1"
    assert text_of(queuer_at.get(call)).count("Row 1 of batch 3") == 1
    purge_batch(conn, third)
    assert "in batch 3, which is purged" in text_of(queuer_at.get(call))
    conn.execute("delete from follow_up where batch_id = %s", (batch_id,))
    purge_batch(conn, batch_id)
    page = queuer_at.get(f"/batches/{second}")
    assert broken_rules(page) == [] and f'href="/batches/{batch_id}"' not in page
    text = text_of(page)
    assert "not reached by batch 1, which is purged." in text and "Batch 1 purged" in text
    assert "Batch 1 is purged, so the latest results of its rows are not known." in text


def test_call_links_to_its_earlier_and_its_later_call(queuer_at: Browser, conn: Connection, batch_id: int) -> None:
    second = followed(queuer_at, batch_id)
    page = queuer_at.get(f"/batches/{batch_id}/calls/4")
    assert broken_rules(page) == [] and f'<a href="/batches/{second}/calls/3">Row 3 of batch 2</a>' in page
    page = queuer_at.get(f"/batches/{second}/calls/3")
    assert broken_rules(page) == [] and f'<a href="/batches/{batch_id}/calls/4">Row 4 of batch 1</a>' in page
    assert "Earlier call" not in queuer_at.get(f"/batches/{batch_id}/calls/1")
