"""The page of keys: administrators list, create and revoke them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from receiver.database.api_keys import NAME_LENGTH, create_key, find_key, list_keys
from receiver.database.pool import Connection
from receiver.web.services import FAILED_SIGN_INS_PER_MINUTE
from tests.web.browsing import Browser, text_of, visitor


@pytest.fixture
def browser(app: Flask, conn: Connection) -> Browser:
    return visitor(app, conn, "admin", "Ada")


def shown_key(page: str) -> str:
    found = re.search(r'<code class="key" id="new-key">([^<]+)</code>', page)
    assert found, text_of(page)
    return found[1]


def make_key(browser: Browser, **fields: str) -> TestResponse:
    return browser.post("/keys", **{"name": "Ben", "scope": "read", "own_key": browser.key, **fields})


def test_new_key_is_shown_once_and_works(app: Flask, browser: Browser, conn: Connection) -> None:
    answer = browser.post("/keys", name="Ben", scope="queue", expires_on="", own_key=browser.key)
    key = shown_key(answer.text)
    assert answer.headers["Cache-Control"] == "no-store"
    found = find_key(conn, key)
    assert found is not None and (found.name, found.scope, found.expires_at) == ("Ben", "queue", None)
    assert key not in browser.get("/keys")
    assert Browser(app).sign_in(key).status_code == 303


def test_key_expires_at_the_end_of_its_last_day_in_the_viewers_time_zone(browser: Browser, conn: Connection) -> None:
    browser.post("/time-zone", time_zone="Pacific/Auckland")
    day = (datetime.now(UTC) + timedelta(days=10)).date()
    key = shown_key(make_key(browser, expires_on=day.isoformat()).text)
    found = find_key(conn, key)
    assert found is not None and found.expires_at is not None
    ahead = datetime(day.year, day.month, day.day, 24 - 12, tzinfo=UTC) - found.expires_at
    assert timedelta(0) <= ahead <= timedelta(hours=1)  # one hour more during summer time


def test_faulty_field_is_named_and_no_key_is_made(browser: Browser, conn: Connection) -> None:
    cases = {
        "name": [{"name": ""}, {"name": "Ada"}, {"name": "x" * (NAME_LENGTH + 1)}, {"name": "a\nb"}, {"name": "\0"}],
        "scope": [{"scope": ""}, {"scope": "root"}],
        "expires_on": [{"expires_on": text} for text in ("2020-01-01", "soon", "9999-12-31", "\0", "1e9")],
    }
    for field, forms in cases.items():
        for form in forms:
            answer = make_key(browser, **form)
            identity = field.replace("_", "-")
            assert answer.status_code == 422, form
            assert f'id="{identity}-fault"' in answer.text and "new-key" not in answer.text, form
            assert re.search(rf'aria-describedby="[^"]*{identity}-fault"', answer.text), form
    assert [key.name for key in list_keys(conn)] == ["Ada"]


def test_list_names_each_key_with_its_dates_and_never_the_key(browser: Browser, conn: Connection) -> None:
    key = create_key(conn, "<b>Ben</b>", "read")
    conn.execute("update api_key set expires_at = now() - interval '1 day' where name = '<b>Ben</b>'")
    conn.commit()
    page = browser.get("/keys")
    assert "&lt;b&gt;Ben&lt;/b&gt;" in page and "<b>Ben" not in page
    assert key[:12] in page and key not in page
    text = text_of(page)
    assert "expired" in text and "this session" in text and "never" in text


def test_revoking_asks_for_confirmation_and_ends_the_key(browser: Browser, conn: Connection) -> None:
    key = create_key(conn, "Ben", "read")
    conn.commit()
    prefix = key.split("_")[1]
    assert "Revoke Ben?" in text_of(browser.get(f"/keys/{prefix}/revoke"))
    assert find_key(conn, key) is not None
    conn.commit()
    assert browser.post(f"/keys/{prefix}/revoke", own_key=browser.key).location == "/keys"
    assert "“Ben” is revoked" in text_of(browser.get("/keys"))
    assert find_key(conn, key) is None
    browser.get(f"/keys/{prefix}/revoke", 404)
    for unknown in ("x", "%00", "%F0%9F%92%A3", "x" * 2000):
        browser.get(f"/keys/{unknown}/revoke", 404)


def test_revoking_your_own_key_warns_and_signs_out(browser: Browser, conn: Connection) -> None:
    (own,) = list_keys(conn)
    path = f"/keys/{own.prefix}/revoke"
    assert "you will be signed out" in text_of(browser.get(path))
    browser.post(path, own_key=browser.key)
    assert browser.client.get("/keys").location == "/login?next=/keys"


def test_making_and_revoking_a_key_needs_the_viewers_own_key(browser: Browser, conn: Connection) -> None:
    other = create_key(conn, "another admin", "admin")
    conn.commit()
    revoke = f"/keys/{other.split('_')[1]}/revoke"
    for wrong in ("", "rr_", other, browser.key[:-1], f"{browser.key}x", "\0"):
        for answer in (make_key(browser, own_key=wrong), browser.post(revoke, own_key=wrong)):
            assert answer.status_code == 422, wrong
            assert ('id="own-key-fault"' in answer.text and wrong not in answer.text.split()) or not wrong
        browser.client.application.extensions["receiver"].failed_sign_ins._buckets.clear()
    assert sorted(key.name for key in list_keys(conn)) == ["Ada", "another admin"]
    conn.commit()
    assert make_key(browser, own_key=f" {browser.key}\n").status_code == 200
    assert browser.post(revoke, own_key=browser.key).location == "/keys"
    assert sorted(key.name for key in list_keys(conn)) == ["Ada", "Ben"]


def test_own_key_cannot_be_guessed(browser: Browser, conn: Connection) -> None:
    for _ in range(FAILED_SIGN_INS_PER_MINUTE):
        assert make_key(browser, own_key="rr_guess").status_code == 422
    refused = make_key(browser)
    assert refused.status_code == 429 and "Retry-After" in refused.headers
    assert [key.name for key in list_keys(conn)] == ["Ada"]
