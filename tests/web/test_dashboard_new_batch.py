"""A new batch: upload, preview, and changed parameters."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.queueing.drafts import get_draft
from receiver.summary.batches import get_batch
from tests.web.browsing import Browser, visitor
from tests.web.drafting import FAULTY, button, confirm, count, drafted, key_id, upload


@pytest.fixture
def browser(app: Flask, conn: Connection) -> Browser:
    return visitor(app, conn, "queue")


def test_upload_is_previewed_and_then_queued(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, name="December reminders", max_attempts="3", reattempt_wait="300", is_pci="1")
    page = browser.get(path)
    assert button(page) == "Call 2 people"
    assert "Nobody has been called yet" in page
    assert count(conn, "batch") == 0
    answer = confirm(browser, path)
    assert (answer.status_code, answer.location) == (303, "/batches/1")
    batch = get_batch(conn, 1)
    assert (batch.name, batch.application_id, batch.deployment_id) == ("December reminders", 7, 3)
    assert batch.parameters == {
        "start_timestamp": None,
        "end_timestamp": None,
        "max_attempts": 3,
        "reattempt_wait": 300,
        "is_pci": True,
        "calls_per_minute": None,
        "calling_hours": None,
        "calling_days": None,
        "time_zone": None,
    }
    assert conn.execute("select line from call order by row").fetchall() == [
        ("6175551234,Ana",),
        ("tel:+16175551299,Björn",),
    ]
    assert browser.client.get(path).location == "/batches/1"
    assert count(conn, "draft_chunk") == 0
    assert 'value="7"' in browser.get("/batches/new")


def test_batch_without_a_name_gets_the_file_name(browser: Browser, conn: Connection) -> None:
    confirm(browser, drafted(browser))
    assert get_batch(conn, 1).name == "contacts.csv"


def test_one_person_is_singular(browser: Browser) -> None:
    assert button(browser.get(drafted(browser, "destination\n6175551234\n"))) == "Call 1 person"


def test_invalid_rows_are_listed_and_block_the_batch_until_they_are_skipped(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, FAULTY)
    page = browser.get(path)
    assert button(page) is None
    reasons = {"2": "is not a valid US phone number", "4": "emergency", "3": "Same destination as an earlier row"}
    for row, reason in reasons.items():
        assert re.search(rf'<th scope="row" class="figure">{row}</th><td>[^<]*{reason}', page), row
    assert browser.post(path, on_invalid="skip").location == path
    page = browser.get(path)
    assert button(page) is None and "2 rows cannot be called and will be left out" in page
    browser.post(path, on_duplicate="keep")
    assert button(browser.get(path)) == "Make 3 calls to 2 people"
    browser.post(path, on_duplicate="skip")
    assert button(browser.get(path)) == "Call 2 people"
    confirm(browser, path)
    counts = get_batch(conn, 1).counts
    assert (counts["rows"], counts["skipped"]) == (5, 3)


def test_country_of_local_numbers_changes_what_is_valid(browser: Browser) -> None:
    path = drafted(browser, "destination\n020 7946 0958\n")
    assert button(browser.get(path)) is None
    browser.post(path, default_region="gb")
    assert button(browser.get(path)) == "Call 1 person"


def test_fault_is_shown_at_its_field_and_the_file_is_kept(browser: Browser) -> None:
    path = drafted(browser, application_id="x", max_attempts="3", end_timestamp="soon", default_region="Mars")
    page = browser.get(path)
    for field in ("application-id", "reattempt-wait", "end-timestamp", "default-region"):
        assert f'id="{field}-fault"' in page and re.search(rf'aria-describedby="[^"]*{field}-fault"', page), field
    assert 'id="deployment-id-fault"' not in page and button(page) is None
    assert "you do not need to upload it again" in page
    browser.post(path, application_id="7", reattempt_wait="60", end_timestamp="", default_region="US", fields="1")
    assert button(browser.get(path)) == "Call 2 people"


def test_form_without_a_file_is_shown_again_with_its_values(browser: Browser, conn: Connection) -> None:
    answer = browser.post("/batches/new", application_id="", deployment_id="3", name="Ana's", fields="1")
    assert answer.status_code == 422
    assert 'id="csv-fault"' in answer.text and 'id="application-id-fault"' in answer.text
    assert 'value="Ana&#39;s"' in answer.text
    assert count(conn, "draft") == 0


def test_file_that_is_not_a_csv_of_contacts_is_a_fault(browser: Browser) -> None:
    for content in (b"", b"name,number\nAna,1\n", b"PK\x03\x04" + b"\0" * 100, b'destination\n"617', b"\xff\xfe\x00"):
        page = browser.get(drafted(browser, content))
        assert "The file cannot be read." in page and button(page) is None, content


def test_file_whose_rows_are_all_skipped_calls_nobody(browser: Browser) -> None:
    path = drafted(browser, "destination\n555\n", on_invalid="skip")
    page = browser.get(path)
    assert button(page) is None and "No row is left to call." in page


def test_times_are_in_the_viewers_time_zone(browser: Browser, conn: Connection) -> None:
    browser.post("/time-zone", time_zone="America/New_York")
    day = (datetime.now(UTC) + timedelta(days=400)).strftime("%Y-07-04")
    path = drafted(browser, start_timestamp=f"{day}T09:30", end_timestamp=f"{day}T21:00:15Z")
    page = browser.get(path)
    assert f'value="{day}T09:30"' in page and f'value="{day}T17:00"' in page
    # The field does not show the seconds, but they are kept when the form is sent again.
    browser.post(path, start_timestamp=f"{day}T09:30", end_timestamp=f"{day}T17:00", fields="1")
    confirm(browser, path)
    parameters = get_batch(conn, 1).parameters
    assert parameters["start_timestamp"].isoformat() == f"{day}T13:30:00+00:00"
    assert parameters["end_timestamp"].isoformat() == f"{day}T21:00:15+00:00"


def test_draft_whose_time_has_passed_is_not_queued(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, end_timestamp=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    page = browser.get(path)
    conn.execute("update draft set form = form || jsonb_build_object('end_timestamp', '2020-01-01T00:00:00Z')")
    conn.commit()
    version = get_draft(conn, key_id(conn), UUID(path[-36:])).version
    page = re.sub(r'(name="version" value=")[^"]+', rf"\g<1>{version}", page)
    answer = confirm(browser, path, page)
    assert (answer.status_code, answer.location) == (303, path)
    assert "It is in the past" in browser.get(path)
    assert count(conn, "batch") == 0


HOSTILE = [
    "<script>alert(1)</script>",
    "\" onmouseover=\"x' '{{7*7}}",
    "\u202edlrow\u202c",
    "🎉" * 50,
    "\0\x01",
    "\ud800",
    "",
    " ",
    "%s%n",
]


def test_hostile_text_in_the_form_is_shown_as_text_or_refused(browser: Browser, conn: Connection) -> None:
    for text in HOSTILE:
        name = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        path = drafted(browser, name=name)
        page = browser.get(path)
        assert "<script>alert" not in page and ' onmouseover="x' not in page and "49" not in button_and_name(page)
    path = drafted(browser, name="x" * 10_000)
    assert "Longer than maximum length 200" in browser.get(path)
    answer = upload(browser, file_name="<script>'\u202e" + "x" * 200 + ".csv")
    assert "<bdi>&lt;script&gt;&#39;\u202e" + "x" * 200 + ".csv</bdi>" in browser.get(str(answer.location))


def button_and_name(page: str) -> str:
    return (button(page) or "") + "".join(re.findall(r"<bdi>(.*?)</bdi>", page))


def test_field_that_the_form_does_not_have_changes_nothing(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, dry_run="1", created_at="x", key_id="1")
    assert confirm(browser, path).location == "/batches/1"


def test_missing_draft_is_404(browser: Browser) -> None:
    for path in ("/batches/new/x", "/batches/new/1", "/batches/new/00000000-0000-0000-0000-000000000000"):
        browser.get(path, 404)
