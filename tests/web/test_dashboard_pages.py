"""All pages: scopes, content, failures, and size."""

from __future__ import annotations

import gzip
import re
import time
from itertools import pairwise

import pytest
from flask import Flask

from receiver.database.api_keys import SCOPES
from receiver.database.pool import Connection
from receiver.web.dashboard.assets import STATIC
from tests.factories import make_batch
from tests.web.browsing import Browser, tags_of, text_of, visitor

OPEN = {"dashboard.login", "dashboard.logout", "dashboard.asset"}
"""Pages that need no session."""

PAGES = {
    "/": "read",
    "/batches": "read",
    "/time-zone": "read",
    "/search": "read",
    "/attention": "read",
    "/batches/new": "queue",
    "/batches/new/00000000-0000-0000-0000-000000000000": "queue",
    "/batches/1/cancel": "queue",
    "/batches/1/change": "queue",
    "/batches/1/resolve": "queue",
    "/deployments/7/3/cancel": "admin",
    "/cancellations/1": "admin",
    "/keys": "admin",
    "/keys/abcdefgh/revoke": "admin",
    "/endpoints": "admin",
    "/endpoints/new": "admin",
    "/endpoints/1": "admin",
    "/endpoints/1/change": "admin",
    "/endpoints/1/rotate": "admin",
    "/endpoints/1/delete": "admin",
}
FORMS = {
    "/time-zone": "read",
    "/batches/new": "queue",
    "/batches/new/00000000-0000-0000-0000-000000000000": "queue",
    "/batches/new/00000000-0000-0000-0000-000000000000/queue": "queue",
    "/batches/1/pause": "queue",
    "/batches/1/acknowledge": "queue",
    "/batches/1/resume": "queue",
    "/batches/1/cancel": "queue",
    "/batches/1/change": "queue",
    "/keys": "admin",
    "/keys/abcdefgh/revoke": "admin",
    "/endpoints/new": "admin",
    **{f"/endpoints/1/{form}": "admin" for form in ("change", "test", "enabled", "retry", "rotate", "delete")},
}


def test_every_route_of_the_dashboards_declares_its_scope(app: Flask) -> None:
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules() if rule.endpoint.startswith("dashboard.")}
    assert len(endpoints) > 10
    for endpoint in endpoints:
        scope = getattr(app.view_functions[endpoint], "required_scope", "not declared")
        assert scope is None if endpoint in OPEN else scope in SCOPES, endpoint


def test_every_page_is_a_route_of_the_dashboards(app: Flask) -> None:
    others = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("dashboard.") and not rule.rule.startswith("/api/")
    }
    checks = {"/healthz", "/readyz", "/metrics", "/.well-known/security.txt"}
    assert others <= checks | {"/openapi.json", "/docs", "/docs/<path:name>"}


def test_each_scope_allows_only_its_pages_and_forms(app: Flask, conn: Connection) -> None:
    for scope in SCOPES:
        browser = visitor(app, conn, scope)
        token = browser.token("/")
        for path, needed in PAGES.items():
            allowed = SCOPES.index(scope) >= SCOPES.index(needed)
            status = browser.client.get(path).status_code
            assert (status in (200, 404)) is allowed and (status == 403) is not allowed, (scope, path, status)
        for path, needed in FORMS.items():
            allowed = SCOPES.index(scope) >= SCOPES.index(needed)
            status = browser.client.post(path, data={"csrf_token": token}).status_code
            assert (status in (404, 422)) is allowed and (status == 403) is not allowed, (scope, path, status)


def test_pages_and_forms_show_only_what_the_scope_allows(app: Flask, conn: Connection) -> None:
    reader, queuer, admin = (visitor(app, conn, scope).get("/") for scope in SCOPES)
    assert "/keys" not in reader and "/batches/new" not in reader
    assert "/keys" not in queuer and "/batches/new" in queuer
    assert "/keys" in admin and "/batches/new" in admin


def test_nothing_is_allowed_without_signing_in(app: Flask) -> None:
    browser = Browser(app)
    token = browser.token("/login")
    for path in PAGES:
        assert browser.client.get(path).status_code == 303, path
    for path in FORMS:
        answer = browser.client.post(path, data={"csrf_token": token})
        assert answer.status_code == 303 and answer.location.startswith("/login"), path


def test_form_without_a_token_does_nothing_on_any_route(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "admin")
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("dashboard.") and "POST" in (rule.methods or ()):
            values = {
                "draft_id": "00000000-0000-0000-0000-000000000000",
                **{name: "1" for name in rule.arguments - {"draft_id"}},
            }
            with app.test_request_context():
                path = app.url_map.bind("localhost").build(rule.endpoint, values, method="POST")
            assert browser.client.post(path, data={"version": "1"}).status_code == 403, path


# Content -----------------------------------------------------------------------------------------


def test_pages_have_no_inline_script_or_style_and_are_not_cached(app: Flask, conn: Connection) -> None:
    make_batch(conn)
    browser = visitor(app, conn, "admin")
    for path in ("/", "/batches", "/batches/new", "/keys", "/endpoints/new", "/time-zone", "/nowhere", "/login"):
        answer = browser.client.get(path, follow_redirects=True)
        assert not re.search(r"<[^>]*\s(style|on[a-z]+)\s*=", answer.text), path
        assert not re.search(r"<style|<script(?![^>]* src=)|javascript:|https?://", answer.text), path
        assert "'unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert tags_of(answer.text).count("h1") == 1
        headings = [int(tag[1]) for tag in tags_of(answer.text) if re.fullmatch(r"h[1-6]", tag)]
        assert headings[0] == 1 and all(after <= before + 1 for before, after in pairwise(headings))
        for landmark in ("header", "main", "footer"):
            assert tags_of(answer.text).count(landmark) == 1, (path, landmark)


def test_every_field_has_a_label_and_every_description_exists(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "admin")
    for path in ("/", "/batches", "/batches/new", "/keys", "/endpoints/new", "/time-zone"):
        page = browser.get(path)
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids)), path
        for tag in re.findall(r"<(?:input|select|textarea)[^>]*>", page):
            if 'type="hidden"' not in tag and not tag.endswith(" hidden>"):
                named = re.search(r'\sid="([^"]+)"', tag)
                assert named and f'for="{named[1]}"' in page, tag
        for described in re.findall(r'aria-(?:describedby|labelledby)="([^"]+)"', page):
            assert set(described.split()) <= set(ids), described


def test_first_visit_weighs_less_than_150_kb_and_the_page_less_than_100(app: Flask, conn: Connection) -> None:
    for number in range(30):
        make_batch(conn, name=f"Reminders number {number}", send=False)
    browser = visitor(app, conn, "admin")
    for path in ("/", "/batches", "/batches/new", "/keys"):
        page = browser.get(path)
        assert len(page.encode()) < 100_000
        compressed = browser.client.get(path, headers={"Accept-Encoding": "gzip"})
        assert gzip.decompress(compressed.data).startswith(b"<!doctype html>")
        total = len(compressed.data)
        for address in set(re.findall(r'(?:href|src)="(/static/[^"#]+)', page)):
            asset = browser.client.get(address, headers={"Accept-Encoding": "gzip"})
            assert asset.status_code == 200
            total += len(asset.data)
        assert total < 150_000, (path, total)


def test_files_are_cached_for_ever_under_their_hash(app: Flask) -> None:
    browser = Browser(app)
    (address,) = re.findall(r'href="(/static/[0-9a-f]{16}/app\.css)"', browser.get("/login"))
    plain = browser.client.get(address)
    packed = browser.client.get(address, headers={"Accept-Encoding": "br, gzip"})
    for answer in (plain, packed):
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.content_type == "text/css; charset=utf-8"
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert "Set-Cookie" not in answer.headers
    assert "Content-Encoding" not in plain.headers and plain.data == (STATIC / "app.css").read_bytes()
    assert packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(packed.data) == plain.data
    refused = browser.client.get(address, headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers


def test_nothing_but_our_files_is_served(app: Flask) -> None:
    browser = Browser(app)
    (address,) = re.findall(r'href="(/static/[0-9a-f]{16}/)app\.css"', browser.get("/login"))
    for path in (
        "/static/app.css",
        "/static/0000000000000000/app.css",
        f"{address}../app.py",
        f"{address}%2e%2e/app.py",
    ):
        assert browser.client.get(path).status_code == 404, path


def test_htmx_neither_evaluates_code_nor_writes_styles(app: Flask) -> None:
    page = Browser(app).get("/login")
    assert '"allowEval":false,"includeIndicatorStyles":false,"selfRequestsOnly":true' in page
    assert (STATIC / "vendor" / "htmx.LICENSE.txt").read_text().startswith("Zero-Clause BSD")


# Failures ------------------------------------------------------------------------------------------


def test_browser_gets_a_page_for_a_failure_and_a_program_a_problem(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read")
    page = browser.get("/nowhere", 404)
    assert "<h1>Not found</h1>" in page and 'href="/"' in page
    assert "There is no page at this address." in page and "was not found on the server" not in page
    assert "Sign out" in page and 'href="/login"' not in page, "the frame of a viewer who is signed in"
    assert "Sign out" not in Browser(app).get("/nowhere", 404)
    assert "<h1>" in browser.get("/keys", 403) and "admin" in text_of(browser.get("/keys", 403))
    answer = browser.client.post("/batches", data={"csrf_token": browser.token("/")})
    assert answer.status_code == 405 and "GET" in answer.headers["Allow"] and "<h1>" in answer.text
    assert (
        browser.client.get("/nowhere", headers={"Accept": "application/json"}).content_type
        == "application/problem+json"
    )
    assert browser.client.get("/api/v1/nothing").content_type == "application/problem+json"


def test_too_large_form_is_refused(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "admin")
    answer = browser.post("/keys", name="x" * (300 << 10), scope="read")
    assert answer.status_code == 413 and "<h1>" in answer.text


def test_incomplete_form_changes_nothing(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "admin")
    body = f'--B\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n{browser.token("/")}\r\n--B\r\nContent-'
    for path in ("/keys", "/batches/new"):
        answer = browser.client.post(path, data=body, content_type="multipart/form-data; boundary=B")
        assert answer.status_code == 400 and "The form was incomplete" in answer.text


def test_page_without_a_database_says_so_and_when_to_try_again(
    app: Flask, app_without_database: Flask, conn: Connection
) -> None:
    cookie = visitor(app, conn, "read").client.get_cookie("receiver")
    assert cookie is not None
    browser = Browser(app_without_database)
    browser.client.set_cookie("receiver", cookie.value)
    began = time.monotonic()
    answer = browser.client.get("/")
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert "<h1>Not available</h1>" in answer.text
    assert "host" not in text_of(answer.text).lower()
    assert time.monotonic() - began < 20
    assert Browser(app_without_database).client.get("/").status_code == 303


def test_internal_error_is_a_page_without_its_cause(
    app: Flask, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    browser = visitor(app, conn, "read")
    monkeypatch.setattr("receiver.web.dashboard.overview.get_attention", fail)
    page = browser.get("/", 500)
    assert "<h1>Internal error</h1>" in page and "secret" not in page
