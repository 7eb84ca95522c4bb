"""The callback endpoint, in front of Flask: token, bytes, journal, answer.

It needs nothing that Flask gives, and it is asked a hundred times as often as all the rest together.
Every answer is decided here; the sender sees only whether to send again, which the provider is
not known to do (provider page: The callback).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from receiver.results.intake import CannotStore, Intake
from receiver.results.journal import BODY_BYTES, Callback
from receiver.results.token import ResultTokens

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PREFIX = "/results/"

HEADER_LENGTH = 255
"""How much of a content type is kept: it is a hint, and may be anything."""

RETRY_AFTER_SECONDS = 5

log = logging.getLogger(__name__)

_Answer = tuple[str, bytes, list[tuple[str, str]]]

_STORED: _Answer = ("200 OK", b'{"status": "stored"}', [])
_OK: _Answer = ("200 OK", b'{"status": "ok"}', [])
_NOT_FOUND: _Answer = ("404 Not Found", b'{"status": "not_found"}', [])
# The rest of the body is not read, so the connection cannot be used again.
_TOO_LARGE: _Answer = ("413 Content Too Large", b'{"status": "too_large"}', [("Connection", "close")])
_CUT_OFF: _Answer = ("400 Bad Request", b'{"status": "incomplete"}', [("Connection", "close")])
_NOT_ALLOWED: _Answer = (
    "405 Method Not Allowed",
    b'{"status": "method_not_allowed"}',
    [("Allow", "GET, HEAD, POST")],
)
_UNAVAILABLE: _Answer = (
    "503 Service Unavailable",
    b'{"status": "unavailable"}',
    [("Retry-After", str(RETRY_AFTER_SECONDS))],
)


class Webhook:
    """WSGI: answers `/results/<token>`, and leaves every other path to `otherwise`."""

    def __init__(self, otherwise: WSGIApplication, tokens: ResultTokens, intake: Intake) -> None:
        self._otherwise = otherwise
        self._tokens = tokens
        self._intake = intake

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ.get("PATH_INFO", "")
        if not path.startswith(PREFIX):
            return self._otherwise(environ, start_response)
        status, body, headers = self._answer(path[len(PREFIX) :].rstrip("/"), environ)
        start_response(
            status,
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                *headers,
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, token: str, environ: WSGIEnvironment) -> _Answer:
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
            self._intake.store(callback)
        except CannotStore:
            log.error("callback lost unless sent again: neither database nor spool could store it")
            return _UNAVAILABLE
        return _STORED


def _read_body(environ: WSGIEnvironment) -> bytes | None:
    """The body, or more than BODY_BYTES of it; None where the sender went away in the middle.

    A part of a body is not stored: it cannot be told from a whole one later, and was not acknowledged.
    """
    announced: str = environ.get("CONTENT_LENGTH") or ""
    if announced.isdecimal() and int(announced[:12]) > BODY_BYTES:
        return bytes(BODY_BYTES + 1)
    if not announced and not environ.get("wsgi.input_terminated"):
        return b""
    wanted = int(announced) if announced.isdecimal() else BODY_BYTES + 1
    read: Callable[[int], bytes] = environ["wsgi.input"].read
    body = bytearray()
    try:
        while len(body) < wanted and (block := read(wanted - len(body))):
            body += block
    except OSError:
        return None
    if announced and len(body) < wanted:
        return None
    return bytes(body)


def _storable(header: Any) -> str:
    """A header as text that Postgres can keep."""
    return str(header).replace("\0", "")[:HEADER_LENGTH]
