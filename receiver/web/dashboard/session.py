"""Who is signed in to the dashboards, and the CSRF tokens of forms.

A session is a signed cookie with its own id and the prefix of the API key. The server checks both in the database at
each request. So a revoked or expired key is signed out at once, and so is every copy of a session that was ended. A
cookie without an id is not accepted, because it could not be ended.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from flask import Flask, Request, g, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from itsdangerous import BadData
from werkzeug.exceptions import BadRequest

from receiver.config import Config
from receiver.database.api_keys import ApiKey, end_session, get_key_of_session
from receiver.database.pool import Connection, connection, reading
from receiver.summary.series import time_zones
from receiver.web.problems import Problem
from receiver.web.reading import OWN_CHANGE
from receiver.web.services import serializer, services

SESSION_SECONDS = 12 * 3600
"""Lifetime of a session after the sign-in: a working day."""

COOKIE_SECONDS = 3 * 24 * 3600
"""Lifetime of the cookie. It outlives the session, so that the next sign-in can say why it is needed."""

TOKEN_BYTES = 24

CLOCKS_SECONDS = 3
"""Maximum difference between machines' clocks, including one second for rounding."""

_CHANGED = "changed"

TIME_ZONES = frozenset(available_timezones()) - {"localtime", "Factory"} | {"UTC"}
"""The time zones that Python knows. The database may know fewer (`zones_of`)."""

_ZONES = "zones"
"""In `g`: the zones that both know."""


class _SessionCookie(SecureCookieSessionInterface):
    """With TLS, the cookie is Secure, and its name prevents other hosts of the domain from setting it."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_name(self, app: Flask) -> str:
        return "__Host-receiver" if request.is_secure else "receiver"

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        # API clients send no cookie. Checking this would take as long as routing the request.
        return None if request.path.startswith("/api/") else super().open_session(app, request)


def keep_sessions(app: Flask, config: Config) -> None:
    """Let the app sign sessions with the first secret key and verify them with all keys."""
    app.session_interface = _SessionCookie()
    app.config.update(
        SECRET_KEY=config.secret_keys[0],
        SECRET_KEY_FALLBACKS=list(config.secret_keys[1:]),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=COOKIE_SECONDS,
    )


def zones_of(conn: Connection) -> frozenset[str]:
    """The time zones that can be chosen, because both Python and the database know them.

    Debian and Ubuntu have the old names (Asia/Calcutta, Europe/Kiev) in a separate package, tzdata-legacy, which may
    not be installed where the database runs.
    """
    return TIME_ZONES & time_zones(conn) | {"UTC"}


def sign_in(key: ApiKey, time_zone: str, zones: frozenset[str]) -> None:
    """Start a new session and end the previous one. Only the chosen time zone is kept.

    If there is none, `time_zone` is used: the browser's, if it is one of `zones`.
    """
    kept = next((name for name in (str(session.get("time_zone")), time_zone) if name in zones), "UTC")
    _end()
    session.clear()
    session.permanent = True
    session.update(
        id=secrets.token_urlsafe(TOKEN_BYTES),
        key=key.prefix,
        until=int(time.time()) + SESSION_SECONDS,
        time_zone=kept,
    )
    g.api_key = key


def sign_out() -> None:
    """End the session and every copy of it. The browser keeps only the time zone.

    Raises DatabaseUnavailable if this cannot be stored: otherwise copies of the session would stay valid.
    """
    kept = session.get("time_zone")
    _end()
    session.clear()
    if kept is not None:
        session["time_zone"] = kept
    g.pop("api_key", None)


def _end() -> None:
    session_id, until = session.get("id"), session.get("until")
    if isinstance(session_id, str) and isinstance(until, int) and until > time.time():
        # Twice the lifetime: machines' clocks differ, and none may accept the session after the row is deleted.
        expires_at = datetime.fromtimestamp(time.time() + 2 * SESSION_SECONDS, UTC)
        with connection(services().pool) as conn:
            end_session(conn, session_id, expires_at)


def signed_in_key() -> ApiKey | None:
    """The key of this request's session, if the database confirms both.

    It counts as a request with the key. Raises Problem (429) after too many requests, and DatabaseUnavailable.
    """
    session_id, prefix, until = session.get("id"), session.get("key"), session.get("until")
    if not isinstance(session_id, str) or not isinstance(prefix, str) or not isinstance(until, int):
        return None
    if until <= time.time():
        return None
    with reading(services().pool) as conn:
        found = get_key_of_session(conn, prefix, session_id)
        setattr(g, _ZONES, zones_of(conn))
    if found is None:
        return None
    key, digest = found
    services().rate_limits.count_request(digest)
    g.api_key = key
    return key


def why_ended() -> str | None:
    """Why the browser's session is not valid any more. None: it has none."""
    if not isinstance(session.get("id"), str):
        return None
    if session.get("until", 0) <= time.time():
        return f"You were signed out, because a session ends after {SESSION_SECONDS // 3600} hours."
    return "You were signed out: your key was revoked or has expired, or you signed out in another window."


def viewer() -> ApiKey | None:
    """The key of the viewer of this page, None if nobody is signed in. Makes no query."""
    key: ApiKey | None = g.get("api_key")
    return key


def note_change() -> None:
    """Remember in the session that something may have changed, if there is a replica."""
    if services().replica is not None:
        session[_CHANGED] = int(time.time())


def read_own_changes() -> None:
    """Read from the primary as long as the replica may not have the session's last change."""
    replica = services().replica
    if replica is not None and isinstance(changed := session.get(_CHANGED), int):
        setattr(g, OWN_CHANGE, time.time() - changed < replica.max_lag_seconds + CLOCKS_SECONDS)


def csrf_token() -> str:
    """A signed token of the session, different in each answer, so that compression does not reveal it (BREACH)."""
    if not isinstance(session.get("csrf"), str):
        session["csrf"] = secrets.token_urlsafe(TOKEN_BYTES)
    return str(serializer("csrf").dumps([secrets.token_urlsafe(TOKEN_BYTES), session["csrf"]]))


def check_csrf() -> None:
    """Raise Problem (403) unless the request has the session's token, in its form or in the header that htmx sends."""
    try:
        text = request.form.get("csrf_token", "")
    except ValueError:
        raise BadRequest("The form was incomplete, so nothing was done. Send it again.") from None
    try:
        _, of_session = serializer("csrf").loads(request.headers.get("X-CSRF-Token") or text)
    except BadData:
        of_session = None
    if of_session is None or of_session != session.get("csrf"):
        raise Problem(
            "forbidden", "This form is out of date, or another site sent it. Open the page again and resend the form."
        )


def own_path(text: str | None) -> str:
    """The text if it is a path of this service, else `/`: a link to us must not redirect to another site."""
    if not text or len(text) > 2000 or not text.startswith("/") or text.startswith("//"):
        return "/"
    # Browsers treat a backslash as a slash, and ignore tabs and line ends.
    if "\\" in text or not text.isascii() or any(character <= " " or character == "\x7f" for character in text):
        return "/"
    return text


def zones() -> frozenset[str]:
    """The time zones that the viewer can choose from. After the sign-in, those that the database knows, too."""
    known: frozenset[str] = g.get(_ZONES, TIME_ZONES)
    return known


def time_zone() -> str:
    """The viewer's time zone: an IANA name. UTC if the database does not know the chosen one."""
    name = str(session.get("time_zone"))
    return name if name in zones() else "UTC"


def zone() -> ZoneInfo:
    """The viewer's time zone."""
    return ZoneInfo(time_zone())
