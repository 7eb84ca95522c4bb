"""Signing in and out, sessions, and CSRF tokens."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import URLSafeTimedSerializer

from receiver.config import Config
from receiver.database.api_keys import create_key, get_key_of_session, list_keys, revoke_key
from receiver.database.pool import Connection
from receiver.web.dashboard.session import own_path
from receiver.web.services import FAILED_SIGN_INS_PER_MINUTE, Services
from tests.waiting import eventually
from tests.web.asking import SECRET
from tests.web.browsing import Browser, text_of, token_in, visitor
from tests.web.conftest import patient_app


def test_viewer_is_redirected_to_the_sign_in_and_back(browser: Browser, key: str) -> None:
    answer = browser.client.get("/batches?state=queued&name=a%20b")
    assert (answer.status_code, answer.location) == (303, "/login?next=/batches?state%3Dqueued%26name%3Da%2520b")
    page = browser.get(answer.location)
    assert 'value="/batches?state=queued&amp;name=a%20b"' in page
    answer = browser.sign_in(key, "/batches?state=queued&name=a%20b")
    assert (answer.status_code, answer.location) == (303, "/batches?state=queued&name=a%20b")
    assert browser.client.get("/login?next=/batches").location == "/batches"


def test_page_says_who_is_signed_in_and_with_which_scope(browser: Browser, key: str) -> None:
    browser.sign_in(key)
    page = browser.get("/")
    assert '<span class="name" title="Ana"><bdi>Ana</bdi></span>' in page
    assert '<span class="scope">read</span>' in page


def test_wrong_key_is_a_fault_of_its_field(browser: Browser) -> None:
    for text in ("", " ", "nonsense", "rr_abcdefgh_" + "A" * 43, "\0", "ключ", "x" * 100_000):
        answer = browser.sign_in(text)
        assert answer.status_code == 422
        assert 'aria-describedby="key-hint key-fault"' in answer.text
        assert 'id="key-fault" role="alert"' in answer.text
    assert browser.client.get("/").status_code == 303


def test_revoked_key_is_signed_out_at_its_next_request(browser: Browser, key: str, conn: Connection) -> None:
    browser.sign_in(key)
    browser.get("/")
    revoke_key(conn, "Ana")
    conn.commit()
    assert browser.client.get("/").location == "/login"


def test_expired_key_is_signed_out(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read", "Ben")
    conn.execute("update api_key set expires_at = now() - interval '1 second' where name = 'Ben'")
    conn.commit()
    assert browser.client.get("/").location == "/login"


def test_signing_out_ends_the_session_and_needs_a_form(browser: Browser, key: str) -> None:
    browser.sign_in(key)
    assert browser.client.get("/logout").status_code == 405
    assert browser.client.post("/logout").status_code == 403
    browser.get("/")
    assert browser.post("/logout", form_at="/").location == "/login"
    assert browser.client.get("/").location == "/login"


def test_signing_out_ends_every_copy_of_the_session_on_every_machine(
    tmp_path: Path, app: Flask, config: Config, database_url: str, conn: Connection
) -> None:
    browser, other = visitor(app, conn, "admin", "Ada"), visitor(app, conn, "admin", "Ben")
    (tmp_path / "2").mkdir()
    with patient_app(replace(config, data_dir=tmp_path / "2"), database_url) as second_app:
        copies = [browser.copy(app), browser.copy(second_app)]
        tokens = [copy.token("/keys") for copy in copies]
        browser.post("/logout", form_at="/")
        for copy, token in zip(copies, tokens, strict=True):
            assert copy.client.get("/").location == "/login"
            form = {"csrf_token": token, "name": "Eve", "scope": "admin", "own_key": browser.key}
            assert copy.client.post("/keys", data=form).location == "/login?next=/keys&lost=1"
            # A cookie that it received later is not valid either, because it has the same session id.
            assert copy.client.get("/keys").location == "/login?next=/keys"
    other.get("/")
    assert sorted(key.name for key in list_keys(conn)) == ["Ada", "Ben"]


def test_signing_in_again_ends_the_previous_session(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "admin", "Ada")
    copy = browser.copy(app)
    copy.get("/")
    reader = create_key(conn, "Ben", "read")
    conn.commit()
    assert browser.post("/login", form_at="/", key=reader).location == "/"
    browser.get("/")
    assert copy.client.get("/").location == "/login"


def test_ended_sessions_are_deleted_after_they_have_expired(browser: Browser, key: str, conn: Connection) -> None:
    for _ in range(2):
        browser.sign_in(key)
        browser.post("/logout", form_at="/")
        (kept,) = conn.execute("select count(*) from ended_session").fetchone() or (None,)
        assert kept == 1
        conn.execute("update ended_session set expires_at = now() - interval '1 second'")
        conn.commit()


def test_failed_sign_out_is_reported(browser: Browser, app: Flask, key: str, conn: Connection) -> None:
    browser.sign_in(key)
    token = browser.token("/")
    name = conn.info.dbname
    conn.autocommit = True
    conn.execute(f'alter database "{name}" set default_transaction_read_only = on')
    services: Services = app.extensions["receiver"]
    services.pool.drain()
    answer = browser.client.post("/logout", data={"csrf_token": token})
    assert answer.status_code == 503 and "still signed in" in text_of(answer.text)
    browser.get("/")
    conn.execute("set default_transaction_read_only = off")
    conn.execute(f'alter database "{name}" reset default_transaction_read_only')

    def sign_out() -> bool:
        services.pool.drain()  # again, because a connection that was being opened may still be read-only
        return browser.client.post("/logout", data={"csrf_token": token}).location == "/login"

    eventually(sign_out)
    assert browser.client.get("/").location == "/login"


def test_session_ends_after_a_working_day(browser: Browser, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.sign_in(key)
    browser.get("/")
    now = time.time()
    monkeypatch.setattr("receiver.web.dashboard.session.time.time", lambda: now + 12 * 3600 - 60)
    browser.get("/")
    monkeypatch.setattr("receiver.web.dashboard.session.time.time", lambda: now + 12 * 3600 + 1)
    assert browser.client.get("/").location == "/login"


def test_ended_session_returns_to_the_same_page_and_says_why(
    app: Flask, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = visitor(app, conn, "admin", "Ada")
    assert "You were signed out" not in Browser(app).get("/login?next=/keys")
    token = browser.token("/keys")
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr("receiver.web.dashboard.session.time.time", lambda: now + 12 * 3600 + 1)
        answer = browser.client.get("/batches?state=queued")
        assert answer.location == "/login?next=/batches?state%3Dqueued"
        page = text_of(browser.get(answer.location))
        assert "You were signed out, because a session ends after 12 hours. After the sign-in you return to" in page
        # A form returns to its page, and a part of a page to the whole page.
        for path, onward in (
            ("/batches/7/pause", "next=/batches/7&"),
            ("/callbacks/replay", "next=/callbacks&"),
            ("/endpoints/3/test", "next=/endpoints/3&"),
            ("/numbers", ""),
        ):
            assert browser.client.post(path, data={"csrf_token": token}).location == f"/login?{onward}lost=1", path
        form = {"csrf_token": token, "next": "/batches/7?state=final"}
        assert browser.client.post("/numbers", data=form).location == "/login?next=/batches/7?state%3Dfinal&lost=1"
        assert "ends after 12 hours. So what you sent was not done. After the" in text_of(
            browser.get("/login?next=/batches/7&lost=1")
        )
        htmx = {"HX-Request": "true", "HX-Current-URL": "http://localhost/batches/7?state=final"}
        answer = browser.client.get("/batches/7/live", headers=htmx)
        assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login?next=/batches/7?state%3Dfinal")
    # A browser that lost its cookie gets a reason, too, also after a wrong key.
    stranger = Browser(app)
    address = str(stranger.client.post("/numbers", data={"csrf_token": token}).location)
    said = "You are not signed in any more. So what you sent was not done."
    assert said in text_of(stranger.get(address))
    assert said in text_of(stranger.post("/login", form_at=address, key="rr_wrong", lost="1").text)
    revoke_key(conn, "Ada")
    conn.commit()
    assert "your key was revoked or has expired" in browser.get(str(browser.client.get("/keys").location))


def test_use_of_a_session_is_recorded_for_its_key(browser: Browser, key: str, conn: Connection) -> None:
    browser.sign_in(key)
    conn.execute("update api_key set last_used_at = now() - interval '2 hours'")
    conn.commit()
    browser.get("/")
    (used,) = [found.last_used_at for found in list_keys(conn)]
    assert used is not None and used > datetime.now(UTC) - timedelta(minutes=1)


# Cookies -----------------------------------------------------------------------------------------


def test_scripts_and_other_sites_cannot_read_the_cookie(browser: Browser, key: str) -> None:
    cookie = browser.sign_in(key).headers["Set-Cookie"]
    assert cookie.startswith("receiver=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert key not in cookie


def test_cookie_is_secure_behind_tls_and_belongs_only_to_this_host(app: Flask, key: str) -> None:
    client = app.test_client()
    base = "https://calls.example"
    page = client.get("/login", base_url=base)
    answer = client.post("/login", base_url=base, data={"csrf_token": token_in(page.text), "key": key})
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-receiver=")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert client.get("/", base_url=base).status_code == 200


def test_sign_in_keeps_nothing_of_the_previous_session(app: Flask, browser: Browser, key: str) -> None:
    """An attacker who planted a cookie in a browser knows its token. After the sign-in the token is not valid."""
    planted = browser.token("/login")
    before = browser.client.get_cookie("receiver")
    browser.sign_in(key)
    after = browser.client.get_cookie("receiver")
    assert before is not None and after is not None and before.value != after.value
    assert browser.client.post("/logout", data={"csrf_token": planted}).status_code == 403
    attacker = Browser(app)
    attacker.client.set_cookie("receiver", before.value)
    assert attacker.client.get("/").location == "/login"


def signed(content: dict[str, object], secret: str) -> str:
    interface = SecureCookieSessionInterface
    return str(
        URLSafeTimedSerializer(
            secret,
            salt=interface.salt,
            serializer=interface.serializer,
            signer_kwargs={"key_derivation": "hmac", "digest_method": interface.digest_method},
        ).dumps(content)
    )


def test_forged_session_is_not_accepted(browser: Browser, key: str, conn: Connection) -> None:
    (found,) = list_keys(conn)
    content: dict[str, object] = {"id": "a session", "key": found.prefix, "until": int(time.time()) + 1000}
    browser.client.set_cookie("receiver", signed(content, "another secret, of somebody else"))
    assert browser.client.get("/").location == "/login"
    browser.client.set_cookie("receiver", signed(content, SECRET))
    browser.get("/")


def test_session_of_another_release_is_ignored(browser: Browser, key: str) -> None:
    contents: list[dict[str, object]] = [
        {"key": 1, "until": "tomorrow"},
        {"key": None, "until": None, "time_zone": ["UTC"], "csrf": 7},
        {"key": key.split("_")[1], "until": 2**31},  # of a release without session ids
        {"key": key.split("_")[1], "until": 2**31, "id": 7},
        {"key": "x" * 1000, "until": 10**12, "time_zone": "../etc/passwd", "csrf": "%%%", "last_batch": 3},
    ]
    for content in contents:
        browser.client.set_cookie("receiver", signed(content, SECRET))
        assert browser.client.get("/").location == "/login"
        browser.get("/login")


def test_session_is_valid_after_the_secret_key_was_renewed(
    tmp_path: Path, config: Config, database_url: str, browser: Browser, key: str
) -> None:
    browser.sign_in(key)
    cookie = browser.client.get_cookie("receiver")
    assert cookie is not None
    renewed = replace(config, data_dir=tmp_path / "2", secret_keys=("a secret that signs from now on", SECRET))
    (tmp_path / "2").mkdir()
    with patient_app(renewed, database_url) as app:
        later = Browser(app)
        later.client.set_cookie("receiver", cookie.value)
        later.get("/")


# Redirects -----------------------------------------------------------------------------------------


ELSEWHERE = [
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/%0d%0aSet-Cookie: x\r\n",
    "/ü",
    "/" + "x" * 3000,
    "http:/evil",
    "/\0",
    "//[",
]


def test_sign_in_never_redirects_to_another_site(browser: Browser, key: str) -> None:
    for text in ELSEWHERE:
        assert own_path(text) == "/"
        browser.client.delete_cookie("receiver")
        assert browser.sign_in(key, text).location == "/"
    browser.client.delete_cookie("receiver")
    assert browser.client.get("/login?next=https://evil.example/").status_code == 200


def test_sign_in_redirects_to_our_own_path() -> None:
    for path in ("/", "/batches/7?state=queued#calls", "/calls?next=//evil.example", "/a//b"):
        assert own_path(path) == path


# Forms -------------------------------------------------------------------------------------------


def test_form_without_a_valid_token_is_refused(app: Flask, conn: Connection) -> None:
    browser, other = visitor(app, conn, "admin", "Ana"), visitor(app, conn, "admin", "Ben")
    own = browser.token("/keys")
    for token in (None, "", "x", "ü", "A" * 64, own[:-4] + "AAAA", own[4:], own + "A", other.token("/keys")):
        named = {"name": "made by another site", "scope": "admin", "own_key": browser.key}
        fields = named | ({} if token is None else {"csrf_token": token})
        answer = browser.client.post("/keys", data=fields)
        assert answer.status_code == 403, token
        assert "out of date" in answer.text
    assert {key.name for key in list_keys(conn)} == {"Ana", "Ben"}
    assert browser.client.post("/keys", data={**fields, "csrf_token": own}).status_code == 200


def test_token_differs_in_each_answer_and_each_is_valid(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read")
    tokens = [browser.token("/") for _ in range(3)]
    assert len(set(tokens)) == 3
    for token in tokens:
        answer = browser.client.post("/time-zone", data={"csrf_token": token, "time_zone": "Europe/Berlin"})
        assert answer.status_code == 303


def test_htmx_sends_the_token_as_a_header(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read")
    wanted = {"time_zone": "Europe/Berlin"}
    headers = {"HX-Request": "true"}
    assert browser.client.post("/time-zone", data=wanted, headers=headers).status_code == 403
    headers["X-CSRF-Token"] = browser.token("/")
    assert browser.client.post("/time-zone", data=wanted, headers=headers).status_code == 303


def test_htmx_redirects_the_whole_page_to_the_sign_in(browser: Browser) -> None:
    answer = browser.client.get("/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login")


def test_sign_in_itself_needs_a_token(browser: Browser, key: str) -> None:
    """Otherwise another site could sign a viewer in with its own key, and see what they queue."""
    assert browser.client.post("/login", data={"key": key}).status_code == 403


# Failed attempts ---------------------------------------------------------------------------------


def stop_clock(app: Flask) -> None:
    """No token is refilled during the test."""
    app.extensions["receiver"].failed_sign_ins._clock = lambda: 1000.0


def test_address_must_wait_after_too_many_failures(app: Flask, key: str) -> None:
    stop_clock(app)
    browser = Browser(app)
    for _ in range(FAILED_SIGN_INS_PER_MINUTE):
        assert browser.sign_in("nonsense").status_code == 422
    answer = browser.sign_in(key)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert "Try again in" in answer.text
    other = Browser(app)
    other.client.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    assert other.sign_in(key).status_code == 303


def test_only_the_proxy_can_set_the_client_address(app: Flask, key: str) -> None:
    def tries(remote: str, forwarded: str) -> Browser:
        browser = Browser(app)
        browser.client.environ_base.update(REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR=forwarded)
        return browser

    stop_clock(app)
    for number in range(FAILED_SIGN_INS_PER_MINUTE):
        # Only the last address is from the proxy. The client may have invented the others.
        tries("127.0.0.1", f"198.51.100.{number}, 203.0.113.9").sign_in("nonsense")
        tries("192.0.2.50", f"198.51.100.{number}").sign_in("nonsense")
    assert tries("127.0.0.1", "203.0.113.9").sign_in(key).status_code == 429
    assert tries("192.0.2.50", "203.0.113.77").sign_in(key).status_code == 429
    assert tries("127.0.0.1", "203.0.113.10").sign_in(key).status_code == 303


def test_sign_in_is_possible_again_after_the_wait(app: Flask, key: str) -> None:
    now = 1000.0
    app.extensions["receiver"].failed_sign_ins._clock = lambda: now
    browser = Browser(app)
    for _ in range(FAILED_SIGN_INS_PER_MINUTE):
        browser.sign_in("nonsense")
    assert browser.sign_in(key).headers["Retry-After"] == "6"
    now += 6
    assert browser.sign_in(key).status_code == 303


# Time zone -----------------------------------------------------------------------------------------


def test_key_number_of_another_database_is_not_accepted(conn: Connection, key: str) -> None:
    """A session contains the random prefix of its key, because another database has the same key numbers."""
    assert get_key_of_session(conn, "1", "a session") is None
    (found,) = list_keys(conn)
    held = get_key_of_session(conn, found.prefix, "a session")
    assert held is not None and held[0] == replace(found, last_used_at=None)
