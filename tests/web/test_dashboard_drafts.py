"""Drafts: each is kept for a day, visible only to its key, and queued once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from uuid import UUID

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.queueing import drafts
from receiver.queueing.drafts import MOST_DRAFTS, forget_drafts, get_draft, open_csv
from receiver.summary.batches import get_batch
from tests.web.asking import CSV, config_for
from tests.web.browsing import Browser, text_of, visitor
from tests.web.conftest import patient_app
from tests.web.drafting import FAULTY, button, confirm, count, drafted, key_id, upload


@pytest.fixture
def browser(app: Flask, conn: Connection) -> Browser:
    return visitor(app, conn, "queue")


def test_draft_confirmed_twice_is_queued_once(app: Flask, browser: Browser, conn: Connection) -> None:
    path = drafted(browser)
    first, second = browser.get(path), browser.get(path)
    assert confirm(browser, path, first).location == "/batches/1"
    assert confirm(browser, path, first).location == "/batches/1"
    assert confirm(browser, path, second).location == "/batches/1"
    assert count(conn, "batch") == 1 and count(conn, "call") == 2
    assert conn.execute("select created_by from batch").fetchone() == ("queue of a person",)


def test_draft_confirmed_concurrently_is_queued_once(app: Flask, browser: Browser, conn: Connection) -> None:
    path = drafted(browser, "destination\n" + "".join(f"+1617555{number:04d}\n" for number in range(2000)))
    page = browser.get(path)
    cookie = browser.client.get_cookie("receiver")
    assert cookie is not None

    def press(_: int) -> str | None:
        tab = Browser(app)
        tab.client.set_cookie("receiver", cookie.value)
        return confirm(tab, path, page).location

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(press, range(12))) == {"/batches/1"}
    assert count(conn, "batch") == 1 and count(conn, "call") == 2000


def test_draft_changed_after_the_preview_is_not_queued(browser: Browser, conn: Connection) -> None:
    path = drafted(browser, FAULTY, on_invalid="skip", on_duplicate="skip")
    before = browser.get(path)
    assert button(before) == "Call 2 people"
    browser.post(path, on_duplicate="keep")
    assert confirm(browser, path, before).location == path
    assert count(conn, "batch") == 0
    assert "changed after this page was opened" in browser.get(path)
    assert confirm(browser, path).location == "/batches/1"


def test_queued_draft_cannot_be_changed(browser: Browser, conn: Connection) -> None:
    path = drafted(browser)
    token = browser.token(path)
    confirm(browser, path)
    browser.client.post(path, data={"csrf_token": token, "name": "another", "application_id": "8"})
    assert browser.client.get(path).location == "/batches/1"
    assert get_batch(conn, 1).application_id == 7


def test_file_uploaded_again_is_another_draft(browser: Browser, conn: Connection) -> None:
    for number in (1, 2):
        assert confirm(browser, drafted(browser, on_recent="allow")).location == f"/batches/{number}"


def test_draft_whose_numbers_were_queued_meanwhile_is_not_queued(browser: Browser, conn: Connection) -> None:
    first, second = drafted(browser), drafted(browser)
    assert button(browser.get(second)) == "Call 2 people"
    confirm(browser, first)
    assert confirm(browser, second).location == second
    assert count(conn, "batch") == 1
    page = browser.get(second)
    assert "Nobody was called. Check the batch again." in page and button(page) is None
    assert "2 rows have numbers that were queued recently." in text_of(page)


def test_discarded_draft_is_deleted_with_its_file(browser: Browser, conn: Connection) -> None:
    path, kept = drafted(browser), drafted(browser)
    assert browser.post(path, discard="1").location == "/batches/new"
    assert "The upload was discarded. Nobody was called." in browser.get("/batches/new")
    browser.get(path, 404)
    browser.get(kept)
    assert count(conn, "draft") == count(conn, "draft_chunk") == 1


def test_queued_draft_cannot_be_discarded(browser: Browser, conn: Connection) -> None:
    path = drafted(browser)
    token = browser.token(path)
    confirm(browser, path)
    for data in ({"discard": "1"}, {"csv": (BytesIO(CSV.encode()), "other.csv")}):
        assert browser.client.post(path, data={"csrf_token": token, **data}).location == path
    assert browser.client.get(path).location == "/batches/1"
    assert count(conn, "draft") == 1


# Storage -------------------------------------------------------------------------------------------


def test_draft_is_visible_only_to_its_owner(app: Flask, browser: Browser, conn: Connection) -> None:
    path = drafted(browser)
    other = visitor(app, conn, "admin", "Ben")
    assert "This upload has expired" in text_of(other.get(path, 404))
    token = other.token("/")
    assert other.client.post(path, data={"csrf_token": token, "name": "x"}).status_code == 404
    assert other.client.post(f"{path}/queue", data={"csrf_token": token, "version": "x"}).status_code == 404


def test_another_machine_reads_the_same_file(
    app: Flask, browser: Browser, conn: Connection, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = ("destination,note\n" + "".join(f"+1617555{n:04d},{'é' * 400}\n" for n in range(4000))).encode()
    path = drafted(browser, content)
    with open_csv(conn, UUID(path[-36:])) as csv:
        assert csv.read() == content
    assert count(conn, "draft_chunk") == 4
    cookie = browser.client.get_cookie("receiver")
    assert cookie is not None
    with patient_app(config_for(tmp_path_factory.mktemp("second"), database_url), database_url) as second:
        other_browser = Browser(second)
        other_browser.client.set_cookie("receiver", cookie.value)
        assert button(other_browser.get(path)) == "Call 4,000 people"
        assert confirm(other_browser, path).location == "/batches/1"


def test_file_larger_than_a_draft_may_be_is_refused(
    browser: Browser, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "DRAFT_BYTES", 2_000_000)
    answer = upload(browser, b"destination\n" + b"6175551234\n" * 200_000)
    assert answer.status_code == 422 and "It is larger than" in answer.text
    assert count(conn, "draft") == count(conn, "draft_chunk") == 0


def test_drafts_are_deleted_after_a_day(browser: Browser, conn: Connection) -> None:
    old, queued, young = drafted(browser), drafted(browser), drafted(browser)
    confirm(browser, queued)
    conn.execute(
        "update draft set created_at = now() - interval '25 hours' where draft_id = any(%s)",
        ([UUID(old[-36:]), UUID(queued[-36:])],),
    )
    conn.commit()
    browser.get(old, 404)
    assert browser.client.get(queued).location == "/batches/1"
    assert forget_drafts(conn) == 2
    conn.commit()
    assert count(conn, "draft") == count(conn, "draft_chunk") == 1
    browser.get(young)
    assert count(conn, "batch") == 1


def test_oldest_draft_of_a_key_is_deleted_at_the_limit(app: Flask, browser: Browser, conn: Connection) -> None:
    other = drafted(visitor(app, conn, "queue", "Ben"))
    queued = drafted(browser)
    confirm(browser, queued)
    paths = [drafted(browser) for _ in range(MOST_DRAFTS + 1)]
    browser.get(paths[0], 404)
    for path in paths[1:]:
        browser.get(path)
    assert browser.client.get(queued).status_code == 303
    with pytest.raises(NotFound):
        get_draft(conn, key_id(conn), UUID(other[-36:]))
    assert count(conn, "draft") == MOST_DRAFTS + 2


def test_preview_reads_the_file_only_once(
    app: Flask, browser: Browser, monkeypatch: pytest.MonkeyPatch, conn: Connection
) -> None:
    path = drafted(browser, FAULTY)
    first = browser.get(path)

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("receiver.web.dashboard.new_batch.open_csv", fail)
    again = browser.get(path)
    assert text_of(again) == text_of(first)
