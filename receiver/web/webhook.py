"""The callback endpoint, in front of Flask: token, bytes, journal, answer.

It needs nothing that Flask gives, and it is asked a hundred times as often as all the rest together.
Every answer is decided here; the sender sees only whether to send again, which the provider is
not known to do (provider page: The callback).
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

from receiver.logs import OncePer, about, request_id
from receiver.results.intake import CannotStore, Intake
from receiver.results.journal import BODY_BYTES, Callback
from receiver.results.token import ResultTokens
from receiver.web.access import BEGAN
from receiver.web.counts import ANSWERS, counts
from receiver.web.proxies import Proxies, Sources

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PREFIX = "/results/"

HEADER_LENGTH = 255
"""How much of a content type is kept: it is a hint, and may be anything."""

LENGTH_DIGITS = 12
"""More of them announce a body that is too large, whatever they are."""

RETRY_AFTER_SECONDS = 5

REFUSALS_SECONDS = 10.0
"""One line of the log in so many seconds for each kind of refusal: whoever likes can cause them."""

log = logging.getLogger(__name__)
_refusals = logging.getLogger(f"{__name__}.refusals")
_refusals.addFilter(OncePer(REFUSALS_SECONDS))

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)

_Answer = tuple[int, str, bytes, list[tuple[str, str]]]


def _answer(counted_as: str, status: str, *headers: tuple[str, str], told: str | None = None) -> _Answer:
    body = f'{{"status": "{told or counted_as}"}}'.encode()
    always = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return (ANSWERS.index(counted_as), status, body, [*always, *headers])


_STORED = _answer("stored", "200 OK")
_SPOOLED = _answer("spooled", "200 OK", told="stored")
_OK = _answer("ok", "200 OK")
_NOT_FOUND = _answer("not_found", "404 Not Found")
# The rest of the body is not read, so the connection cannot be used again.
_FORBIDDEN = _answer("forbidden", "403 Forbidden", ("Connection", "close"))
_TOO_LARGE = _answer("too_large", "413 Content Too Large", ("Connection", "close"))
_CUT_OFF = _answer("incomplete", "400 Bad Request", ("Connection", "close"))
_NOT_ALLOWED = _answer("method_not_allowed", "405 Method Not Allowed", ("Allow", "GET, HEAD, POST"))
_UNAVAILABLE = _answer("unavailable", "503 Service Unavailable", ("Retry-After", str(RETRY_AFTER_SECONDS)))

_WAITED = (_STORED, _SPOOLED, _UNAVAILABLE)
_REFUSED = (_FORBIDDEN, _NOT_FOUND, _TOO_LARGE, _CUT_OFF, _NOT_ALLOWED)


class Webhook:
    """WSGI: answers `/results/<token>`, and leaves every other path to `otherwise`.

    `sources`: who alone may ask; None: everybody. Whoever else is refused before the token is looked at.
    """

    def __init__(
        self,
        otherwise: WSGIApplication,
        tokens: ResultTokens,
        intake: Intake,
        proxies: Proxies,
        sources: Sources | None,
    ) -> None:
        self._otherwise = otherwise
        self._tokens = tokens
        self._intake = intake
        self._proxies = proxies
        self._sources = sources
        # Made here, after the fork: two processes must not give the same ids.
        self._process = secrets.token_hex(6)
        self._requests = count(1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began = perf_counter()
        asked: str = environ.get("HTTP_X_REQUEST_ID", "")
        if not asked or not _SANE_ID.fullmatch(asked):
            asked = f"{self._process}-{next(self._requests):x}"
        request_id.set(asked)
        path: str = environ.get("PATH_INFO", "")
        if not path.startswith(PREFIX):
            environ[BEGAN] = began
            return self._otherwise(environ, start_response)
        answer = self._answer(path[len(PREFIX) :].rstrip("/"), environ)
        counted_as, status, body, headers = answer
        counts.callback(counted_as, began, timed=answer in _WAITED)
        if answer in _REFUSED:
            word, address = ANSWERS[counted_as], self._proxies.client(environ)
            _refusals.warning(
                "a request to a result_url was refused: %s", word, extra=about(f"callback_{word}", address=address)
            )
        start_response(status, [*headers, ("X-Request-Id", asked)])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, token: str, environ: WSGIEnvironment) -> _Answer:
        if self._sources is not None and not self._sources.admit(environ):
            return _FORBIDDEN
        key = self._tokens.read(token)
        if key is None:
            return _NOT_FOUND
        method = environ["REQUEST_METHOD"]
        if method in ("GET", "HEAD"):
            # A sister product asks so before it dials, and drops the request unless it is answered 200.
            return _OK
        if method != "POST":
            return _NOT_ALLOWED
        body = _read_body(environ)
        if body is None:
            return _CUT_OFF
        if len(body) > BODY_BYTES:
            return _TOO_LARGE
        if not body:
            return _OK
        callback = Callback(
            key,
            datetime.now(UTC),
            _storable(environ.get("CONTENT_TYPE", "")),
            _storable(environ.get("HTTP_CONTENT_ENCODING", "")),
            body,
        )
        try:
            spooled = self._intake.store(callback)
        except CannotStore:
            log.error(
                "callback lost unless sent again: neither database nor spool could store it",
                extra=about("callback_lost", batch_id=key.batch_id, submission=key.submission_no),
            )
            return _UNAVAILABLE
        return _SPOOLED if spooled else _STORED


def _read_body(environ: WSGIEnvironment) -> bytes | None:
    """The body, or more than BODY_BYTES of it; None where the sender went away in the middle.

    A part of a body is not stored: it cannot be told from a whole one later, and was not acknowledged.
    """
    announced: str = environ.get("CONTENT_LENGTH") or ""
    length = announced.lstrip("0")
    if announced.isdecimal() and (len(length) > LENGTH_DIGITS or int(length or "0") > BODY_BYTES):
        return bytes(BODY_BYTES + 1)
    if not announced and not environ.get("wsgi.input_terminated"):
        return b""
    wanted = int(length or "0") if announced.isdecimal() else BODY_BYTES + 1
    read: Callable[[int], bytes] = environ["wsgi.input"].read
    body = bytearray()
    try:
        while len(body) < wanted and (block := read(wanted - len(body))):
            body += block
    except Exception:
        # OSError where the connection ended, and whatever of its own the server raises for a broken chunk.
        return None
    if announced and len(body) < wanted:
        return None
    return bytes(body)


def _storable(header: Any) -> str:
    """A header as text that Postgres can keep."""
    return str(header).replace("\0", "")[:HEADER_LENGTH]
