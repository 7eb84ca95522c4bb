"""API keys as bearer tokens, on every route."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.api_keys import SCOPES, Scope, create_key, find_key, revoke_key
from receiver.database.pool import Connection
from receiver.web.api import release
from tests.web.asking import problem_of
from tests.web.conftest import ClientFor


def api_views(app: Flask) -> Iterator[tuple[str, str, Scope | None]]:
    """(method, path, scope) of each view under /api/v1; ids in the path are 1."""
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/api/v1"):
            continue
        view = app.view_functions[rule.endpoint]
        _, path = rule.build({name: 1 for name in rule.arguments}) or ("", "")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, path, getattr(view, "required_scope", None)


def test_every_view_of_the_api_declares_a_scope(app: Flask) -> None:
    views = list(api_views(app))
    assert len(views) >= 8
    assert [(method, path) for method, path, scope in views if scope not in SCOPES] == []


def test_every_view_checks_the_key_before_it_reads_anything(app: Flask, stranger: FlaskClient) -> None:
    for method, path, _ in api_views(app):
        answer = stranger.open(f"{path}?nonsense=1&limit=x", method=method, data=b"nonsense")
        problem_of(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("scope", SCOPES)
def test_every_view_accepts_its_scope_and_the_scopes_that_include_it(
    app: Flask, client_for: ClientFor, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No worker is running, so the cancellation of a deployment ends with 409.
    monkeypatch.setattr(release, "SENDING_SECONDS", 0.0)
    client = client_for(scope)
    for method, path, required in api_views(app):
        assert required is not None
        answer = client.open(path, method=method)
        if SCOPES.index(scope) < SCOPES.index(required):
            assert f"`{required}`" in problem_of(answer, 403, "forbidden")["detail"]
        else:
            assert answer.status_code in (200, 404, 409, 415, 422), (method, path)


def test_every_view_refuses_an_unknown_query_parameter(app: Flask, client_for: ClientFor) -> None:
    client = client_for("admin")
    for method, path, _ in api_views(app):
        content = problem_of(client.open(f"{path}?nonsense=1", method=method), 422, "invalid_parameters")
        found = {"field": "nonsense", "code": "unknown_field", "message": "Unknown field."}
        assert found in content["errors"], (method, path)


def test_unknown_key_is_401(stranger: FlaskClient) -> None:
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Basic cmVhZGVyOmtleQ==",
        "Bearer nonsense",
        "Bearer rr_abcdefgh_" + "A" * 43,
        "Bearer \u00e9\u00ff",
        "Bearer " + "x" * 10000,
    ):
        answer = stranger.get("/api/v1/batches", headers={"Authorization": header} if header else {})
        problem_of(answer, 401, "unauthorized")


def test_case_of_the_authorization_scheme_is_ignored(stranger: FlaskClient, conn: Connection) -> None:
    key = create_key(conn, "somebody", "read")
    conn.commit()
    for header in (f"bearer {key}", f"BEARER   {key} "):
        assert stranger.get("/api/v1/batches", headers={"Authorization": header}).status_code == 200


def test_revoked_and_expired_keys_are_401_at_once(stranger: FlaskClient, conn: Connection) -> None:
    keys = {name: create_key(conn, name, "admin") for name in ("revoked", "expired")}
    conn.commit()

    def ask(name: str) -> int:
        return stranger.get("/api/v1/batches", headers={"Authorization": f"Bearer {keys[name]}"}).status_code

    assert [ask(name) for name in keys] == [200, 200]
    revoke_key(conn, "revoked")
    conn.execute("update api_key set expires_at = now() where name = 'expired'")
    conn.commit()
    assert [ask(name) for name in keys] == [401, 401]


def test_use_of_a_key_is_recorded(reader: FlaskClient, conn: Connection) -> None:
    assert reader.get("/api/v1/batches").status_code == 200
    found = find_key(conn, reader.environ_base["HTTP_AUTHORIZATION"].removeprefix("Bearer "))
    assert found is not None and found.last_used_at is not None


def test_key_in_the_query_is_not_accepted(stranger: FlaskClient, conn: Connection) -> None:
    key = create_key(conn, "somebody", "read")
    conn.commit()
    problem_of(stranger.get(f"/api/v1/batches?access_token={key}"), 401, "unauthorized")
