"""Decides the answer to a request to a `result_url`. No I/O: the entry points receive and send.

The status of the answer only shows whether to send the callback again. It is not known whether the provider does so
(provider page: The callback).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from receiver.intake.budget import Budget
from receiver.intake.journal import BODY_BYTES, Callback
from receiver.intake.token import ResultTokens, looks_like_probe
from receiver.logs import about
from receiver.model import SubmissionKey

log = logging.getLogger(__name__)

PREFIX = "/results/"

HEADER_LENGTH = 255
"""A header is stored up to this length. It is only a hint, and may be anything."""

LENGTH_DIGITS = 12
"""A Content-Length with more digits is always too large."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """`code`: its name in the metrics."""

    code: str
    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    waited: bool
    """Whether the answer waited for storage. Then the time until the answer is measured."""
    refused: bool


def _answer(
    code: str, status: str, *headers: tuple[str, str], shown: str = "", waited: bool = False, refused: bool = False
) -> Answer:
    """`shown`: the code in the body, if it is different."""
    body = f'{{"status": "{shown or code}"}}'.encode()
    always = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    )
    return Answer(code, status, (*always, *headers), body, waited, refused)


_CLOSE = ("Connection", "close")
"""The rest of the body is not read, so the connection cannot be used again."""

STORED = _answer("stored", "200 OK", waited=True)
SPOOLED = _answer("spooled", "200 OK", shown="stored", waited=True)
OK = _answer("ok", "200 OK")
NOT_FOUND = _answer("not_found", "404 Not Found", refused=True)
PROBE_NOT_FOUND = _answer("not_found", "404 Not Found")
"""For `doctor`, whose requests are not logged."""
FORBIDDEN = _answer("forbidden", "403 Forbidden", _CLOSE, refused=True)
TOO_LARGE = _answer("too_large", "413 Content Too Large", _CLOSE, refused=True)
CUT_OFF = _answer("incomplete", "400 Bad Request", _CLOSE, refused=True)
NOT_ALLOWED = _answer("method_not_allowed", "405 Method Not Allowed", ("Allow", "GET, HEAD, POST"), refused=True)
OVER_BUDGET = _answer("over_budget", "429 Too Many Requests", ("Retry-After", "3600"), refused=True)
"""Only a person can raise a budget that is used up."""
UNAVAILABLE = _answer("unavailable", "503 Service Unavailable", ("Retry-After", "5"), waited=True)


PROBE = SubmissionKey(0, 0)
"""Returned for the token of a probe, which belongs to no submission."""


class CallbackRules:
    """An entry point calls `before_body` and then `after_body`."""

    def __init__(self, tokens: ResultTokens, budget: Budget) -> None:
        self._tokens = tokens
        self.budget = budget

    def before_body(self, token: str, method: str, *, admitted: bool) -> Answer | SubmissionKey:
        """The final answer, or the submission of the callback. For a submission, the body must be read next.

        `admitted`: whether the request came from RESULT_SOURCES. Others are refused before the token is checked.
        """
        if not admitted:
            return FORBIDDEN
        key = self._tokens.read(token)
        if key is None and self._tokens.is_probe(token):
            key = PROBE
        if key is None:
            return PROBE_NOT_FOUND if looks_like_probe(token) else NOT_FOUND
        if method == "POST":
            return key
        # A sister product sends a GET before it dials, and drops the request unless the answer is 200.
        return OK if method in ("GET", "HEAD") else NOT_ALLOWED

    def after_body(
        self, key: SubmissionKey, body: bytes, content_type: str, content_encoding: str
    ) -> Answer | Callback:
        """The final answer, or a callback that must be stored first. If it cannot be, `not_stored` is the answer."""
        if len(body) > BODY_BYTES:
            return TOO_LARGE
        if not body:
            return OK
        if key == PROBE:
            return PROBE_NOT_FOUND
        if not self.budget.reserve(key):
            return OVER_BUDGET
        return Callback(key, datetime.now(UTC), storable_header(content_type), storable_header(content_encoding), body)

    def not_stored(self, key: SubmissionKey) -> Answer:
        """The answer if neither the database nor the spool could store a callback of `after_body`."""
        self.budget.release(key)
        log.error(
            "callback not stored: both the database and the spool failed; it is lost unless it is sent again",
            extra=about("callback_lost", batch_id=key.batch_id, submission=key.submission_no),
        )
        return UNAVAILABLE


def is_too_long(announced: str) -> bool:
    """Whether a Content-Length is larger than BODY_BYTES."""
    length = announced.lstrip("0")
    return announced.isdecimal() and (len(length) > LENGTH_DIGITS or int(length or "0") > BODY_BYTES)


def storable_header(header: str) -> str:
    """A header as Postgres can store it."""
    return header.replace("\0", "")[:HEADER_LENGTH]
