"""Every route that exists, requested in every role: with and without a key, by header and by session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.api_keys import SCOPES, Scope, create_key
from receiver.database.pool import Connection
from receiver.web.api import release
from tests.web.browsing import Browser, visitor

OPEN = {
    "/healthz",
    "/readyz",
    "/metrics",  # METRICS_KEY
    "/.well-known/security.txt",
    "/openapi.json",
    "/docs",
    "/login",
    "/static/<digest>/<path:name>",
}
"""Routes that need no key, and show no data. Everything else needs one."""

READ_BY_POST = ("/time-zone", "/numbers", "/show-numbers", "/search")
"""Ends of forms that only find something, or change only how the viewer sees the pages. Any key may send them."""

BY_CHOICE = {"/callbacks/<int:callback_id>/body"}
"""A body is downloaded only by a viewer who chose to see whole numbers."""

ADMIN_ONLY = ("/keys", "/endpoints", "/audit", "/api/v1/keys", "/api/v1/endpoints", "/api/v1/audit")

Route = tuple[str, str, str, "Scope | None"]
"""The rule, a path that fits it, a method, and the scope that the view declares."""


def list_routes(app: Flask) -> Iterator[Route]:
    for rule in app.url_map.iter_rules():
        values = {"draft_id": "00000000-0000-0000-0000-000000000000", "digest": "x", "name": "app.css"}
        with app.test_request_context():
            adapter = app.url_map.bind("localhost")
            given = {name: values.get(name, 1) for name in rule.arguments}
            view = app.view_functions[rule.endpoint]
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                path = adapter.build(rule.endpoint, given, method=method)
                yield rule.rule, path, method, getattr(view, "required_scope", None)


def test_what_changes_something_needs_more_than_a_key_that_reads(app: Flask) -> None:
    routes = list(list_routes(app))
    assert len(routes) > 100
    assert {rule for rule, _, _, scope in routes if scope is None} == OPEN | {"/logout"}
    for rule, _, method, scope in routes:
        if rule.startswith(ADMIN_ONLY):
            assert scope == "admin", (rule, method)
        elif method != "GET" and rule not in OPEN | {"/logout"} and not rule.endswith(READ_BY_POST):
            assert scope in ("queue", "admin"), (rule, method)


def test_every_route_refuses_every_role_below_its_scope(
    app: Flask, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No worker is running, so the cancellation of a deployment ends with 409.
    monkeypatch.setattr(release, "SENDING_SECONDS", 0.0)
    keys = {scope: create_key(conn, f"key {scope}", scope) for scope in SCOPES}
    browsers = {scope: visitor(app, conn, scope) for scope in SCOPES}
    conn.commit()
    for rule, path, method, needed in list_routes(app):
        if needed is None:
            continue
        _check_strangers(app, rule, path, method)
        for scope in SCOPES if rule not in BY_CHOICE else ():
            allowed = SCOPES.index(scope) >= SCOPES.index(needed)
            status = _ask(app, browsers[scope], keys[scope], path, method)
            assert (status != 403) is allowed and status not in (401, 500), (scope, method, path, status)


def _ask(app: Flask, browser: Browser, key: str, path: str, method: str) -> int:
    if path.startswith("/api/"):
        client: FlaskClient = app.test_client()
        return client.open(path, method=method, headers={"Authorization": f"Bearer {key}"}).status_code
    data = {} if method == "GET" else {"csrf_token": browser.token("/time-zone")}
    return browser.client.open(path, method=method, data=data).status_code


def _check_strangers(app: Flask, rule: str, path: str, method: str) -> None:
    client: FlaskClient = app.test_client()
    assert client.open(path, method="TRACE").status_code == 405, rule
    answer = client.open(path, method=method)
    if path.startswith("/api/"):
        assert answer.status_code == 401, (rule, method)
    else:
        assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/login"), (rule, method)
