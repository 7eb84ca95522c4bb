"""A new batch: upload, preview, and changed parameters."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from html import escape
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.queueing.drafts import get_draft
from receiver.queueing.suppressions import suppress
from receiver.summary.batches import get_batch
from receiver.web.dashboard import batch_fields
from receiver.web.dashboard.batch_fields import clock, is_night
from tests.factories import answer_submissions
from tests.queueing.workbooks import xlsx
from tests.web.asking import CSV, WANTED
from tests.web.browsing import Browser, text_of, visitor
from tests.web.drafting import FAULTY, button, confirm, count, drafted, key_id, upload
from tests.web.page_rules import broken_rules


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
    parameters = {name: given for name, given in batch.parameters.items() if given is not None}
    assert parameters == {"max_attempts": 3, "reattempt_wait": 300, "is_pci": True}
    assert conn.execute("select line from call order by row").fetchall() == [
        ("6175551234,Ana",),
        ("tel:+16175551299,Björn",),
    ]
    assert browser.client.get(path).location == "/batches/1"
    assert count(conn, "draft_chunk") == 0
    page = browser.get("/batches/new")
    assert broken_rules(page) == [] and 'value="7"' in page
    assert '<option value="3" label="3: of application 7, last for December reminders"></option>' in page


def test_batch_without_a_name_gets_the_file_name(browser: Browser, conn: Connection) -> None:
    confirm(browser, drafted(browser))
    assert get_batch(conn, 1).name == "contacts.csv"


def test_one_person_is_singular(browser: Browser) -> None:
    assert button(browser.get(drafted(browser, "destination\n6175551234\n"))) == "Call 1 person"


def test_invalid_rows_are_listed_and_block_the_batch_until_they_are_skipped(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, FAULTY)
    page = browser.get(path)
    assert button(page) is None
    reasons = {"2": "is not a valid US phone number", "4": "emergency", "3": "Same number as row 1"}
    for row, reason in reasons.items():
        assert re.search(
            rf'class="figure">{row}</th><td class="figure">{int(row) + 1}</td><td><bdi>\d+</bdi></td><td>[^<]*{reason}',
            page,
        ), row
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
    for content in (b"", b"name,number\nAna,1\n", b'destination\n"617', b"\xff\xfe\x00"):
        page = browser.get(drafted(browser, content))
        assert "The file cannot be read." in page and button(page) is None, content
    answer = upload(browser, b"PK\x03\x04" + b"\0" * 100)
    assert answer.status_code == 422 and "not a complete .xlsx or .ods workbook" in answer.text


def test_column_of_the_numbers_is_chosen_on_the_page(browser: Browser, conn: Connection) -> None:
    table: list[list[Any]] = [["name", "mobile", "office"], ["Björn", 6175551234, 555], ["Ana", 6175551299, 6175550188]]
    path = drafted(browser, xlsx(table))
    page = browser.get(path)
    assert button(page) is None and "Which column contains the numbers?" in page and "cannot be read" not in page
    assert '<details id="change">' in page, "the other parameters need no decision"
    assert '<button name="destination_column" value="mobile"><bdi>mobile</bdi> (2 of 2 cells are valid)' in page
    assert '<button name="destination_column" value="office"><bdi>office</bdi> (1 of 2 cells are valid)' in page
    browser.post(path, destination_column="mobile")
    page = browser.get(path)
    assert button(page) == "Call 2 people" and "<bdi>Björn</bdi>" in page and broken_rules(page) == []
    assert re.search(r"Numbers column mobile ?, change", text_of(page))
    chosen = '<option value="mobile" selected>mobile (2 of 2 cells are valid)</option>'
    assert chosen in page and '<option value="office">office (1 of 2 cells are valid)</option>' in page
    # A column that cannot be the numbers is not a dead end.
    browser.post(path, destination_column="no such column")
    browser.post(path, destination_column="")
    browser.post(path, destination_column="mobile")
    assert conn.execute("select content from draft_chunk").fetchall() == [
        (b"sep=,\r\nname,mobile,office\r\nBj\xc3\xb6rn,6175551234,555\r\nAna,6175551299,6175550188\r\n",)
    ]
    conn.rollback()
    confirm(browser, path)
    assert conn.execute("select line from call order by row").fetchall() == [
        ("6175551234,Björn,555",),
        ("6175551299,Ana,6175550188",),
    ]


def test_list_uploaded_again_is_queued_only_after_a_choice(browser: Browser, conn: Connection) -> None:
    confirm(browser, drafted(browser, name="First & last"))
    path = drafted(browser, CSV + "6175551300,Cleo\n")
    for _ in ("a new preview", "the stored one"):
        page = browser.get(path)
        assert broken_rules(page) == [] and button(page) is None
        text = text_of(page)
        assert "2 rows have numbers that were queued recently. The earlier calls were released within the last" in text
        assert "Batch 1 First & last, created" in text and ": 2 rows" in text and '<a href="/batches/1">' in page
        assert "Decide above what to do with the numbers that were queued recently." in text
    browser.post(path, on_recent="allow")
    page = browser.get(path)
    assert button(page) == "Call 3 people" and "will be called again" in page
    browser.post(path, on_recent="skip")
    page = browser.get(path)
    assert button(page) == "Call 1 person" and "and will be left out" in page
    assert confirm(browser, path).location == "/batches/2"
    assert conn.execute("select code from skipped").fetchall() == [("recent",), ("recent",)]


def test_list_whose_numbers_are_all_recent_leaves_nobody_to_call(browser: Browser) -> None:
    confirm(browser, drafted(browser))
    page = browser.get(drafted(browser, on_recent="skip", recent_hours="1"))
    assert button(page) is None and "No row is left to call." in page


def test_numbers_may_be_called_again_after_the_hours_that_count(browser: Browser, conn: Connection) -> None:
    confirm(browser, drafted(browser))
    answer_submissions(conn)
    conn.execute("update submission set released_at = now() - interval '3 hours'")
    conn.commit()
    path = drafted(browser, recent_hours="4")
    assert button(browser.get(path)) is None
    browser.post(path, recent_hours="2")
    assert button(browser.get(path)) == "Call 2 people"


def test_sample_shows_only_the_first_columns(browser: Browser) -> None:
    header = "destination," + ",".join(f"column {number}" for number in range(400))
    page = browser.get(drafted(browser, f"{header}\n6175551234,{'x,' * 399}x\n"))
    assert broken_rules(page) == [] and "column 19" in page and "column 20" not in page
    assert "And 380 more columns." in page


def test_faulty_rows_are_downloaded(browser: Browser) -> None:
    path = drafted(browser, FAULTY)
    assert f'href="{path}/errors.csv"' in browser.get(path)
    lines = browser.get(f"{path}/errors.csv").splitlines()
    assert lines[0] == "destination,name,row,line,code,message"
    assert [line.split(",")[:5] for line in lines[1:]] == [
        ["555", "Ben", "2", "3", "destination_invalid"],
        ["6175551234", "Chloé", "3", "4", "duplicate"],
        ["911", "Dev", "4", "5", "destination_emergency"],
    ]


def test_nothing_typed_is_lost_when_another_file_is_chosen(browser: Browser, conn: Connection) -> None:
    first = drafted(browser, FAULTY, name="December", calls_per_minute="60", labels="team: north")
    assert "change=1#change" in browser.get(first)
    page = browser.get(f"{first}?change=1")
    assert broken_rules(page) == [] and '<details id="change" open>' in page
    answer = browser.post(first, csv=(BytesIO(CSV.encode()), "better.csv"), name="January", labels="a: b", fields="1")
    second = str(answer.location)
    assert answer.status_code == 303 and second != first
    browser.get(first, 404)
    page = browser.get(second)
    assert "better.csv" in page and button(page) == "Call 2 people"
    for kept in ('name="name" type="text" value="January"', 'value="60"', "a: b</textarea>"):
        assert kept in page, kept
    # A file that cannot be read does not replace the one before it.
    answer = browser.post(second, csv=(BytesIO(b"PK\x03\x04" + b"\0" * 100), "broken.xlsx"), name="February")
    assert answer.location == second
    page = browser.get(second)
    assert "The other file was not taken over." in page and "not a complete .xlsx or .ods" in page
    assert 'value="February"' in page and button(page) == "Call 2 people"
    assert count(conn, "draft") == 1


def test_uploads_that_are_not_queued_can_be_continued_or_discarded(browser: Browser) -> None:
    assert "Uploads that are not queued yet" not in browser.get("/batches/new")
    path = drafted(browser, name="December")
    page = browser.get("/batches/new")
    assert broken_rules(page) == [] and f'<a href="{path}"><bdi>December</bdi></a>' in page
    assert "Discard the upload" in browser.get(path)
    browser.post(path, discard="1")
    assert path not in browser.get("/batches/new")


def test_sample_file_can_be_queued_as_it_is(browser: Browser) -> None:
    assert 'href="/batches/new/sample.csv"' in browser.get("/batches/new")
    assert button(browser.get(drafted(browser, browser.get("/batches/new/sample.csv")))) == "Call 4 people"


def test_time_zones_are_shown_without_calling_hours_too(browser: Browser) -> None:
    csv = "destination\n6175551234\n6175551235\n3105551234\n+18005551234\n"
    path = drafted(browser, csv)
    for _ in ("a new preview", "the stored one"):
        page = browser.get(path)
        assert broken_rules(page) == []
        zones = re.findall(r'<th scope="row">([\w/, ]+)</th><td class="figure"[^>]*>(\d)</td><td[^>]*>(.*?)</td>', page)
        assert [zone[:2] for zone in zones[:2]] == [("America/New_York", "2"), ("America/Los_Angeles", "1")]
        assert re.fullmatch(r"\d\d:\d\d", zones[0][2])
        assert "everybody is called at once, at any local time" in text_of(page)
    browser.post(path, calling_hours="09:00-20:00", time_zone="UTC")
    assert "at any local time" not in browser.get(path)


def test_preview_warns_before_people_are_called_at_night(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    path = drafted(browser, "destination\n6175551234\n6175551235\n3105551234\n")
    set_time(monkeypatch, "2026-07-02T03:30:00Z")
    page = browser.get(path)
    assert broken_rules(page) == []
    assert "It is night for 2 numbers: 23:30 in America/New_York." in text_of(page)
    set_time(monkeypatch, "2026-07-02T00:59:00Z")
    assert "It is night" not in text_of(browser.get(path))
    set_time(monkeypatch, "2026-07-02T15:00:00Z")
    assert "It is night" not in text_of(browser.get(path))
    set_time(monkeypatch, "2026-07-02T14:59:00Z")
    assert "It is night for 1 number: 07:59 in America/Los_Angeles." in text_of(browser.get(path))
    browser.post(path, calling_hours="09:00-20:00")
    assert "It is night" not in text_of(browser.get(path))


def test_preview_warns_if_midnight_is_between_the_zones_of_a_number(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drafted(browser, "destination\n+79161234567\n")
    set_time(monkeypatch, "2026-07-02T19:30:00Z")
    assert "It is night for 1 number: 22:30 to 07:30 in " in text_of(browser.get(path))
    # Midnight is between these zones, and it is day in the first and the last of them.
    set_time(monkeypatch, "2026-07-02T00:00:00Z")
    assert clock("Etc/GMT+8,UTC,Etc/GMT-8") == "16:00 to 08:00" and is_night("Etc/GMT+8,UTC,Etc/GMT-8")


def set_time(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the form's clock show this moment."""

    class At(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> At:
            return cls.fromtimestamp(datetime.fromisoformat(text).timestamp(), tz)

    monkeypatch.setattr(batch_fields, "datetime", At)


def test_usual_hours_and_pace_are_one_click_away(browser: Browser, conn: Connection) -> None:
    path = drafted(browser)
    browser.post(path, calling_hours="09:00-20:00", calling_days="mon,tue,wed,thu,fri")
    page = browser.get(path)
    assert broken_rules(page) == [] and "America/New_York" in page and "Call at any time" in page
    browser.post(path, calls_per_minute="60")
    assert "60 calls a minute" in text_of(browser.get(path))
    for removed in ("calling_hours", "calls_per_minute"):
        browser.post(path, **{removed: ""})
    assert "Pace no limit Calling hours at any time" in text_of(browser.get(path))


def test_cells_of_faulty_rows_are_hidden_from_those_who_do_not_see_numbers(browser: Browser) -> None:
    path = drafted(browser, "destination\n6175551234x\n")
    assert "<td><bdi>6175551234x</bdi></td>" in browser.get(path)
    browser.post("/numbers", form_at="/", whole="0")
    page = browser.get(path)
    assert "6175551234" not in page and "<td><bdi>••••••1234x</bdi></td>" in page


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


def typed(browser: Browser, path: str, days: list[str], **fields: str) -> str:
    """Save the form of a draft with these days; the draft's page."""
    data = {"csrf_token": browser.token(path), "fields": "1", **WANTED, **fields, "calling_days": days}
    assert browser.client.post(path, data=data).location == path
    return browser.get(path)


def test_form_offers_weekdays_and_hours_and_nothing_is_held_back_unless_they_are_chosen(browser: Browser) -> None:
    page = browser.get("/batches/new")
    assert broken_rules(page) == []
    assert re.findall(r'value="(\w+)" checked', page) == ["mon", "tue", "wed", "thu", "fri"]
    for preset in ("09:00-20:00", "600", "America/New_York"):
        assert f'<option value="{preset}"></option>' in page
    text = text_of(browser.get(drafted(browser)))
    assert "Dialing begins at once. This cannot be undone." in text
    assert "Pace no limit Calling hours at any time" in text


def test_pace_hours_zone_and_names_are_previewed_and_queued(browser: Browser, conn: Connection) -> None:
    csv = "destination,zone\n6175551234,\n2125551234,\n3105551234,Asia/Tokyo\n"
    path = drafted(browser, csv)
    given = {
        "calls_per_minute": "60",
        "calling_hours": "09:00-20:00",
        "time_zone": "America/Chicago",
        "time_zone_column": "zone",
        "external_id": "crm 7",
        "labels": "team: north: a\n\n size:L",
    }
    page = typed(browser, path, ["mon", "tue"], **given)
    assert broken_rules(page) == []
    zones = re.findall(r'<th scope="row">([\w/]+)</th><td class="figure"[^>]*>(\d)</td><td[^>]*>(.*?)</td>', page)
    assert [zone[:2] for zone in zones] == [("America/Chicago", "2"), ("Asia/Tokyo", "1")]
    assert all("<time" in opens or opens == "now" for *_, opens in zones)
    text = text_of(page)
    assert "Results due about" in text and "Calling hours 09:00-20:00, Mon, Tue" in text
    assert "60 calls a minute" in text and "in the zone of the column “zone”, else in America/Chicago" in text
    assert "team: north: a\nsize: L</textarea>" in page and "Calls that are not released yet can be canceled" in text
    assert re.findall(r'value="(\w+)" checked', page) == ["mon", "tue"]
    assert confirm(browser, path).location == "/batches/1"
    batch = get_batch(conn, 1)
    assert (batch.external_id, batch.labels) == ("crm 7", {"team": "north: a", "size": "L"})
    parameters = batch.parameters
    assert (parameters["calls_per_minute"], parameters["calling_hours"]) == (60, "09:00-20:00")
    assert (parameters["calling_days"], parameters["time_zone"]) == ("mon,tue", "America/Chicago")
    assert batch.created_by == "queue of a person"


def test_faulty_pace_hours_zone_or_label_is_shown_at_its_field_and_kept(browser: Browser) -> None:
    path = drafted(browser)
    every = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    hours = {"calling_hours": "09:00-17:00"}
    for days, fields, field, message in [
        (every, {"calls_per_minute": "0"}, "calls_per_minute", "Must be greater than or equal to 1"),
        (every, {"calling_hours": "9-17"}, "calling_hours", "Write a time span such as"),
        (every, {"time_zone": "UTC"}, "calling_hours", "They are required with a time zone."),
        (every, {**hours, "time_zone": "Mars/Base"}, "time_zone", "Write an IANA name"),
        (every, {**hours, "time_zone_column": "zone"}, "time_zone_column", 'The file has no column "zone".'),
        ([], hours, "calling_days", "Choose at least one day."),
        (every, {"labels": "a: b\na: c"}, "labels", "Use each name once"),
        (every, {"labels": "<b>"}, "labels", "Write each label on its own line"),
    ]:
        absent = {"calling_hours": "", "time_zone": "", "time_zone_column": "", "labels": "", "calls_per_minute": ""}
        page = typed(browser, path, days, **absent | fields)
        assert broken_rules(page) == [], fields
        fault = f"{field.replace('_', '-')}-fault"
        assert f'id="{fault}"' in page and f'<a href="#{fault}">1 field</a> is not valid.' in page, fields
        assert message in text_of(page), fields
        # The only button to send it is in the bar that stays visible.
        (main_button,) = re.findall(r"<button[^>]*>Save and check again", page.partition('class="main-actions"')[2])
        assert 'form="parameters"' in main_button and page.count("Save and check again") == 1
        for value in fields.values():
            assert f'value="{value}"' in page or f">\n{escape(value)}</textarea>" in page, fields
        assert button(page) is None


def test_upload_without_a_file_keeps_what_was_typed(browser: Browser) -> None:
    answer = browser.post("/batches/new", fields="1", calling_days="sat", labels="team: north", calling_hours="x")
    assert answer.status_code == 422
    assert re.findall(r'value="(\w+)" checked', answer.text) == ["sat"]
    assert "team: north</textarea>" in answer.text and 'value="x"' in answer.text


def test_own_id_that_is_used_already_is_a_fault_before_and_after_the_preview(
    browser: Browser, conn: Connection
) -> None:
    late = drafted(browser, external_id="crm 7")
    page = browser.get(late)
    assert confirm(browser, drafted(browser, external_id="crm 7")).location == "/batches/1"
    assert confirm(browser, late, page).location == late
    page = browser.get(late)
    assert 'id="external-id-fault"' in page and "Batch 1 has this external_id." in text_of(page)
    assert button(page) is None and count(conn, "batch") == 1


def test_suppressed_numbers_are_counted_left_out_and_not_called(browser: Browser, conn: Connection) -> None:
    suppress(conn, 16175551299, by="Ana")
    conn.commit()
    path = drafted(browser)
    page = browser.get(path)
    assert button(page) == "Call 1 person"
    text = text_of(page)
    assert "Suppressed 1 not called" in text and "1 row has a suppressed number and will be left out." in text
    confirm(browser, path)
    assert get_batch(conn, 1).counts["skipped"] == 1
    suppress(conn, 16175551234, by="Ana")
    conn.commit()
    page = browser.get(drafted(browser))
    assert button(page) is None and "No row is left to call." in page


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
    assert "<script>'U+202E" + "x" * 200 + ".csv" in text_of(browser.get(str(answer.location)))


def button_and_name(page: str) -> str:
    return (button(page) or "") + "".join(re.findall(r"<bdi>(.*?)</bdi>", page))


def test_field_that_the_form_does_not_have_changes_nothing(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, dry_run="1", created_at="x", key_id="1")
    assert confirm(browser, path).location == "/batches/1"


def test_missing_draft_is_404(browser: Browser) -> None:
    for path in ("/batches/new/x", "/batches/new/1", "/batches/new/00000000-0000-0000-0000-000000000000"):
        browser.get(path, 404)
