"""Uploading a CSV in a browser, and confirming its draft."""

from __future__ import annotations

import re
from io import BytesIO

from werkzeug.test import TestResponse

from receiver.database.pool import Connection
from tests.web.asking import CSV, WANTED
from tests.web.browsing import Browser, text_of, token_in

FAULTY = "destination,name\n6175551234,Ana\n555,Ben\n6175551234,Chloé\n911,Dev\n+442079460958,Eve\n"
"""Two invalid rows, and one repeated destination."""


def upload(browser: Browser, csv: str | bytes = CSV, file_name: str = "contacts.csv", **fields: str) -> TestResponse:
    content = csv.encode() if isinstance(csv, str) else csv
    return browser.post("/batches/new", csv=(BytesIO(content), file_name), **{**WANTED, "fields": "1", **fields})


def drafted(browser: Browser, csv: str | bytes = CSV, **fields: str) -> str:
    """The path of a new draft."""
    answer = upload(browser, csv, **fields)
    assert answer.status_code == 303, text_of(answer.text)
    path = str(answer.location)
    assert re.fullmatch(r"/batches/new/[0-9a-f-]{36}", path)
    return path


def confirm(browser: Browser, path: str, page: str | None = None) -> TestResponse:
    """Confirm a draft on its current page, or on `page`, an earlier version."""
    page = page or browser.get(path)
    version = re.search(r'name="version" value="([^"]+)"', page)
    assert version, text_of(page)
    return browser.client.post(f"{path}/queue", data={"csrf_token": token_in(page), "version": version[1]})


def button(page: str) -> str | None:
    found = re.search(r'<button class="primary big"[^>]*>([^<]*)</button>', page)
    return found[1] if found else None


def count(conn: Connection, table: str) -> int:
    conn.rollback()
    row = conn.execute(f"select count(*) from {table}").fetchone()  # noqa: S608
    assert row is not None
    return int(row[0])


def key_id(conn: Connection, name: str = "queue of a person") -> int:
    row = conn.execute("select key_id from api_key where name = %s", (name,)).fetchone()
    assert row is not None
    return int(row[0])
