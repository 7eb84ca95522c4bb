"""Who is signed in to the dashboards, and the proof that a form came from a page of ours.

A session is a signed cookie: it names its own id and the API key that was signed in with. The server looks both up
at each request, so that a revoked or expired key is signed out at once, and so is every copy of a session that was
ended. Nothing else about the key is in it. A cookie without an id is none: nobody could end it.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from flask import Flask, Request, g, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.exceptions import BadRequest

from receiver.config import Config
from receiver.database.api_keys import ApiKey, end_session, get_key_of_session
from receiver.database.pool import Connection, connection, reading
from receiver.summary.series import time_zones
from receiver.web.problems import Problem
from receiver.web.reading import OWN_CHANGE
from receiver.web.services import services

SESSION_SECONDS = 12 * 3600
"""How long a session lasts from its sign-in: a working day."""

TOKEN_BYTES = 24

CLOCKS_SECONDS = 3
"""Machines' clocks may differ by so much, the second that a session's time is cut off to included."""

_CHANGED = "changed"

TIME_ZONES = frozenset(available_timezones()) - {"localtime", "Factory"} | {"UTC"}
"""IANA names that we can convert with. The database may know fewer of them: see `zones_of`."""

_ZONES = "zones"
"""In `g`: those of them that the database knows."""


class _SessionCookie(SecureCookieSessionInterface):
    """Behind TLS the cookie is Secure and has a name that no other host of the domain can set."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_name(self, app: Flask) -> str:
        return "__Host-receiver" if request.is_secure else "receiver"

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        # Whoever asks the API has no cookie; to find that out costs as much as to route the request.
        return None if request.path.startswith("/api/") else super().open_session(app, request)


def keep_sessions(app: Flask, config: Config) -> None:
    """Set the app up to sign sessions with the first secret and to verify them with all."""
    app.session_interface = _SessionCookie()
    app.config.update(
        SECRET_KEY=config.secret_keys[0],
        SECRET_KEY_FALLBACKS=list(config.secret_keys[1:]),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=SESSION_SECONDS,
    )


def zones_of(conn: Connection) -> frozenset[str]:
    """IANA names that can be chosen: both we and the database convert with them.

    Debian and Ubuntu keep the old names (Asia/Calcutta, Europe/Kiev) in a package of their own, tzdata-legacy,
    that the machine of the database may lack.
    """
    return TIME_ZONES & time_zones(conn) | {"UTC"}


def sign_in(key: ApiKey, time_zone: str, zones: frozenset[str]) -> None:
    """Begin a new session and end the one before: nothing that was in the browser's cookie is worth anything in it.

    But for the time zone; `time_zone`, the browser's, is taken where there was none, if it is one of `zones`.
    """
    kept = next((name for name in (session.get("time_zone"), time_zone) if _is_one_of(zones, name)), "UTC")
    _end()
    session.clear()
    session.permanent = True
    session.update(
        id=_text(secrets.token_bytes(TOKEN_BYTES)),
        key=key.prefix,
        until=int(time.time()) + SESSION_SECONDS,
        time_zone=kept,
    )
    g.api_key = key


def sign_out() -> None:
    """End the session and every copy of it; the browser keeps nothing but the time zone.

    Raises DatabaseUnavailable where that cannot be stored: whoever is told that they are signed out must be.
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
        # Twice as long as it can last: machines' clocks differ, and none may still take it once the row is gone.
        expires_at = datetime.fromtimestamp(time.time() + 2 * SESSION_SECONDS, UTC)
        with connection(services().pool) as conn:
            end_session(conn, session_id, expires_at)


def signed_in_key() -> ApiKey | None:
    """The key of this request's session, if it still holds; looked up in the database.

    It counts as a request with the key. Raises Problem (429) where these are too many, and DatabaseUnavailable.
    """
    session_id, prefix, until = session.get("id"), session.get("key"), session.get("until")
    if not isinstance(prefix, str) or not isinstance(until, int) or until <= time.time():
        return None
    if not isinstance(session_id, str):
        return None
    with reading(services().pool) as conn:
        found = get_key_of_session(conn, prefix, session_id)
        setattr(g, _ZONES, zones_of(conn))
    if found is None:
        g.api_key = None
        return None
    key, digest = found
    if (limits := services().rate_limits) is not None:
        limits.count_request(digest)
    g.api_key = key
    return key


def viewer() -> ApiKey | None:
    """The key that this page is made for, None where nobody is signed in; asks nothing of the database."""
    key: ApiKey | None = g.get("api_key")
    return key


def note_change() -> None:
    """Whoever is signed in may have changed something. Nothing is noted where there is no replica."""
    if services().replica is not None:
        session[_CHANGED] = int(time.time())


def read_own_changes() -> None:
    """Read this answer at the primary for as long as a replica that may be asked may lack this session's change."""
    replica = services().replica
    if replica is not None and isinstance(changed := session.get(_CHANGED), int):
        setattr(g, OWN_CHANGE, time.time() - changed < replica.max_lag_seconds + CLOCKS_SECONDS)


def csrf_token() -> str:
    """The session's token, masked anew in each answer: compression then says nothing about it (BREACH)."""
    token = session.get("csrf")
    if not isinstance(token, str):
        token = session["csrf"] = _text(secrets.token_bytes(TOKEN_BYTES))
    mask = secrets.token_bytes(TOKEN_BYTES)
    return _text(mask + _xor(mask, _bytes(token)))


def check_csrf() -> None:
    """Raise Problem (403) unless this request carries the session's token: in its form, or in a header of htmx."""
    try:
        text = request.form.get("csrf_token", "")
    except ValueError:
        raise BadRequest("The form was incomplete, so nothing was done. Send it again.") from None
    given = _bytes(request.headers.get("X-CSRF-Token") or text)
    token = session.get("csrf")
    if isinstance(token, str) and len(given) == 2 * TOKEN_BYTES:
        unmasked = _xor(given[:TOKEN_BYTES], given[TOKEN_BYTES:])
        if hmac.compare_digest(unmasked, _bytes(token)):
            return
    raise Problem(
        "forbidden", "This form is out of date, or another site sent it. Open the page again and resend the form."
    )


def own_path(text: str | None) -> str:
    """Where to go on to, if it is a path of this service, else `/`: a link to us must not lead away from us."""
    if not text or len(text) > 2000 or not text.startswith("/") or text.startswith("//"):
        return "/"
    # Browsers take a backslash for a slash, and pass over tabs and line ends.
    if "\\" in text or not text.isascii() or any(character <= " " or character == "\x7f" for character in text):
        return "/"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else text


def zones() -> frozenset[str]:
    """The time zones that the viewer can choose from; of a viewer who is signed in, those that the database knows."""
    known: frozenset[str] = g.get(_ZONES, TIME_ZONES)
    return known


def time_zone() -> str:
    """The viewer's time zone: an IANA name. UTC where the database does not know the one that was chosen."""
    name: Any = session.get("time_zone")
    return str(name) if _is_one_of(zones(), name) else "UTC"


def zone() -> ZoneInfo:
    """The viewer's time zone, to convert with."""
    return ZoneInfo(time_zone())


def _is_one_of(zones: frozenset[str], name: object) -> bool:
    return isinstance(name, str) and name in zones


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=False))


def _text(content: bytes) -> str:
    return urlsafe_b64encode(content).decode()


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text.encode())
    except (NotBase64, ValueError):
        return b""
