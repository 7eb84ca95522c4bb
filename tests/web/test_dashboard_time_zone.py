"""The viewer's time zone: chosen, kept, and always known to the database."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.summary.series import time_zones
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.web.browsing import Browser, visitor


def test_chosen_time_zone_is_kept_after_the_session(browser: Browser, key: str) -> None:
    browser.sign_in(key)
    assert "Times in <strong>UTC</strong>" in browser.get("/")
    answer = browser.post("/time-zone", time_zone="Asia/Kathmandu", next="/batches")
    assert (answer.status_code, answer.location) == (303, "/batches")
    assert "Times in <strong>Asia/Kathmandu</strong>" in browser.get("/batches")
    browser.post("/logout", form_at="/")
    browser.sign_in(key)
    assert "Times in <strong>Asia/Kathmandu</strong>" in browser.get("/")


def test_time_zone_of_the_browser_is_used_at_sign_in(browser: Browser, key: str) -> None:
    browser.post("/login", key=key, time_zone="America/New_York")
    assert "Times in <strong>America/New_York</strong>" in browser.get("/")


def test_unknown_time_zone_is_refused(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read")
    for text in ("", "Mars/Olympus", "../../etc/passwd", "\0", "localtime", "+03:00"):
        answer = browser.post("/time-zone", time_zone=text)
        assert answer.status_code == 422
        assert 'id="time-zone-fault"' in answer.text


@pytest.fixture
def zones_without_legacy(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database does not know the old names, as on Debian and Ubuntu without tzdata-legacy."""
    old = {"Asia/Calcutta", "America/Buenos_Aires", "Europe/Kiev"}
    assert old <= time_zones(conn)
    monkeypatch.setattr("receiver.summary.series._known_time_zones", time_zones(conn) - old)


@pytest.mark.usefixtures("zones_without_legacy")
def test_time_zone_that_the_database_does_not_know_cannot_be_chosen(browser: Browser, key: str) -> None:
    browser.post("/login", key=key, time_zone="Asia/Calcutta")
    assert "Times in <strong>UTC</strong>" in browser.get("/")
    answer = browser.post("/time-zone", time_zone="Europe/Kiev")
    assert answer.status_code == 422
    assert "<option>Europe/Kyiv</option>" in answer.text and "Europe/Kiev" not in answer.text
    assert browser.post("/time-zone", time_zone="Europe/Kyiv").status_code == 303


def test_session_whose_time_zone_the_database_does_not_know_is_shown_utc(
    browser: Browser, key: str, conn: Connection, request: pytest.FixtureRequest
) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    deliver(conn, batch_id, result_body(phone_number(0)))
    browser.post("/login", key=key, time_zone="Asia/Calcutta")
    days = "from=2026-02-01&to=2026-04-01"
    pages = (f"/?{days}", f"/?{days}&interval=hour", f"/batches/{batch_id}", f"/batches/{batch_id}/live")
    assert all(
        re.search(r"Asia/Calcutta\.(</p>| <strong>Not shown by)", browser.client.get(path).text) for path in pages
    )
    request.getfixturevalue("zones_without_legacy")
    for path in pages:
        answer = browser.client.get(path)
        assert answer.status_code in (200, 286), path
        assert re.search(r", UTC\.(</p></figcaption>| <strong>Not shown by)", answer.text), path
        assert "Asia/Calcutta" not in answer.text
    browser.post("/logout", form_at="/")
    browser.post("/login", key=key, time_zone="Europe/Berlin")
    assert "Times in <strong>Europe/Berlin</strong>" in browser.get("/")
