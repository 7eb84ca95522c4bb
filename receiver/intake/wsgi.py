"""The callback endpoint for any threaded WSGI server, in front of Flask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING

from receiver.intake.callback_rules import (
    CUT_OFF,
    PREFIX,
    SPOOLED,
    STORED,
    TOO_LARGE,
    Answer,
    CallbackRules,
    is_too_long,
)
from receiver.intake.journal import BODY_BYTES
from receiver.intake.senders import Senders
from receiver.intake.writer import CannotStore, Writer
from receiver.logs import request_id
from receiver.model import SubmissionKey

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BEGAN = "receiver.began"
"""The key in the WSGI environment for the time at which the request began."""


class Endpoint:
    """The WSGI application for `/results/<token>`. It passes every other path to `otherwise`."""

    def __init__(self, otherwise: WSGIApplication, rules: CallbackRules, senders: Senders, writer: Writer) -> None:
        self._otherwise = otherwise
        self._rules = rules
        self._senders = senders
        self._writer = writer

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began = perf_counter()
        own_id = self._senders.request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        request_id.set(own_id)
        path: str = environ.get("PATH_INFO", "")
        if not path.startswith(PREFIX):
            environ[BEGAN] = began
            return self._otherwise(environ, start_response)
        method, peer = environ["REQUEST_METHOD"], environ.get("REMOTE_ADDR", "")
        forwarded_for = environ.get("HTTP_X_FORWARDED_FOR", "")
        found = self._rules.before_body(
            path[len(PREFIX) :].rstrip("/"), method, admitted=self._senders.admit(peer, forwarded_for)
        )
        key, answer = (None, found) if isinstance(found, Answer) else (found, self._receive(found, environ))
        self._senders.record(answer, key, peer, forwarded_for, perf_counter() - began)
        start_response(answer.status, [*answer.headers, ("X-Request-Id", own_id)])
        return [] if method == "HEAD" else [answer.body]

    def _receive(self, key: SubmissionKey, environ: WSGIEnvironment) -> Answer:
        announced: str = environ.get("CONTENT_LENGTH") or ""
        if is_too_long(announced):
            return TOO_LARGE
        body = _read_body(environ, announced)
        if body is None:
            return CUT_OFF
        callback = self._rules.after_body(
            key, body, environ.get("CONTENT_TYPE", ""), environ.get("HTTP_CONTENT_ENCODING", "")
        )
        if isinstance(callback, Answer):
            return callback
        try:
            return SPOOLED if self._writer.store(callback) else STORED
        except CannotStore:
            return self._rules.not_stored(key)


def _read_body(environ: WSGIEnvironment, announced: str) -> bytes | None:
    """The body, or more than BODY_BYTES of it; None if the sender closed the connection in the middle.

    A part of a body is not stored: later, it would look like a whole body.
    """
    if not announced and not environ.get("wsgi.input_terminated"):
        # A chunked body cannot be read if the server does not decode it.
        return None if "HTTP_TRANSFER_ENCODING" in environ else b""
    wanted = int(announced.lstrip("0") or "0") if announced.isdecimal() else BODY_BYTES + 1
    read: Callable[[int], bytes] = environ["wsgi.input"].read
    body = bytearray()
    try:
        while len(body) < wanted and (block := read(wanted - len(body))):
            body += block
    except Exception:
        # OSError if the connection ended. For a broken chunk, each server raises its own exception.
        return None
    if announced and len(body) < wanted:
        return None
    return bytes(body)
