"""Search from every page: numbers, last digits, batches, and what is neither."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.queueing.suppressions import suppress
from receiver.summary import calls as calls_module
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.web.browsing import Browser, text_of, visitor
from tests.web.page_rules import HOSTILE, broken_rules, numbers


def found(browser: Browser, text: str, *, at: str = "/batches") -> str:
    """The page with the results of a search, which begins on another page."""
    answer = browser.post("/search", form_at=at, text=text)
    assert answer.status_code == 303
    digits = re.sub(r"\D", "", text)
    assert len(digits) < 4 or digits not in str(answer.location)
    page = browser.get(str(answer.location))
    assert broken_rules(page) == [], text
    return page


def calls_in(page: str) -> list[str]:
    return re.findall(r'<th scope="row" class="nowrap"><a href="(/batches/\d+/calls/\d+)">', page)


def batches_in(page: str) -> list[int]:
    return [int(batch) for batch in re.findall(r'class="primary-cell"><a href="/batches/(\d+)"', page)]


@pytest.fixture
def three(conn: Connection) -> None:
    make_batch(conn, numbers(3), name="December reminders")
    make_batch(conn, numbers(2), name="Spring", external_id="CRM-77", on_recent="allow")
    make_batch(conn, [phone_number(9999)], name="Spring again", labels={"campaign": "winter sale"})
    deliver(conn, 1, result_body(phone_number(1)))


def test_number_is_found_in_any_spelling_over_all_batches(queuer_at: Browser, conn: Connection, three: None) -> None:
    suppress(conn, phone_number(1), by="Ana", reason="opted_out")
    conn.commit()
    spellings = ("+1 (617) 555-0001", "617.555.0001", "16175550001", "tel:+16175550001", "001 617 555 0001")
    for spelling in spellings[:4]:
        page = found(queuer_at, spelling)
        assert calls_in(page) == ["/batches/2/calls/2", "/batches/1/calls/2"], spelling
        assert "+16175550001 is suppressed since" in text_of(page) and "opted_out" in page
        assert "December reminders" in page and "completed" in page
    nobody = text_of(found(queuer_at, "+1 617 555 8888"))
    assert "No call to this number in any batch. A number without a country code is read as one of US." in nobody


def test_last_four_digits_find_masked_numbers(reader_at: Browser, three: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for spelling in ("0001", "••0001", "+•••••••0001"):
        page = found(reader_at, spelling)
        assert calls_in(page) == ["/batches/2/calls/2", "/batches/1/calls/2"], spelling
        assert "16175550001" not in page and "•0001" in page
    assert "No call to a number that ends in these digits." in text_of(found(reader_at, "7777"))
    # Of very many calls, the search goes on where the last page ended.
    monkeypatch.setattr(calls_module, "SEARCHED_CALLS", 2)
    listed: list[str] = []
    page, pages = found(reader_at, "0000"), 0
    while link := re.search(r'<a class="button" rel="next" href="([^"]+)"', page):
        listed += calls_in(page)
        page, pages = reader_at.get(link[1].replace("&amp;", "&")), pages + 1
        assert broken_rules(page) == []
    assert [*listed, *calls_in(page)] == ["/batches/2/calls/1", "/batches/1/calls/1"] and pages > 0


def test_batch_is_found_by_its_name_ids_and_labels(reader_at: Browser, three: None) -> None:
    for text, expected in {
        "december": [1],
        "spring": [3, 2],
        "crm-7": [2],
        "WINTER": [3],
        "campaign: winter sale": [3],
        "campaign:winter": [3],
        "2": [2],
        "batch #3": [3],
    }.items():
        assert batches_in(found(reader_at, text)) == expected, text


def test_nonsense_is_reported(reader_at: Browser, three: None) -> None:
    for text, sentence in {
        "12345": "12345 is not a phone number, and no batch is called that. Enter all digits of a number",
        "@@@": "@@@ is not a phone number, and no batch is called that.",
        "autumn": "No batch has autumn in its name, your id or its labels.",
        "1" * 30: "is not a phone number",
        "a\0b": "without control characters",
        " ": "Enter what you look for",
    }.items():
        assert sentence in text_of(found(reader_at, text)), text
    assert "<script>alert" not in found(reader_at, HOSTILE[:60])
    page = text_of(reader_at.get("/search?of=another"))
    assert "only the browser that searched knows it" in page
    assert "This page of the list does not exist." in text_of(reader_at.get("/search?after=x"))


def test_every_page_has_the_field_and_no_page_without_a_session(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read")
    for path, status in (("/", 200), ("/search", 200), ("/keys", 403), ("/nowhere", 404)):
        assert 'action="/search" role="search"' in browser.get(path, status), path
    assert 'action="/search"' not in Browser(app).get("/login")
