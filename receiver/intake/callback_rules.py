"""What a request to a `result_url` means, and what it is answered. No I/O: each entry point reads and writes itself.

The sender sees only whether to send again, which the provider is not known to do (provider page: The callback).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from receiver.intake.budget import Budget
from receiver.intake.journal import BODY_BYTES, Callback
from receiver.intake.token import ResultTokens, looks_like_probe
from receiver.model import SubmissionKey

PREFIX = "/results/"

HEADER_LENGTH = 255
"""How much of a content type is kept: it is a hint, and may be anything."""

LENGTH_DIGITS = 12
"""More of them announce a body that is too large, whatever they are."""

RETRY_AFTER_SECONDS = 5

BUDGET_RETRY_AFTER_SECONDS = 3600
"""A budget that is used up does not come back by itself; a person may raise it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`word`: what it is counted as. `told`: the word of the body, if another."""

    word: str
    status: str
    headers: tuple[tuple[str, str], ...] = ()
    told: str = ""
    waited: bool = False
    """The callback was to be stored, so the time until this answer is measured."""
    refused: bool = False
    body: bytes = field(init=False)
    all_headers: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        body = f'{{"status": "{self.told or self.word}"}}'.encode()
        always = (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        )
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "all_headers", (*always, *self.headers))


_CLOSE = ("Connection", "close")
"""The rest of the body is not read, so the connection cannot be used again."""

STORED = Answer("stored", "200 OK", waited=True)
SPOOLED = Answer("spooled", "200 OK", told="stored", waited=True)
OK = Answer("ok", "200 OK")
NOT_FOUND = Answer("not_found", "404 Not Found", refused=True)
PROBE_NOT_FOUND = Answer("not_found", "404 Not Found")
"""To `doctor`, which asks on purpose: nothing to log."""
FORBIDDEN = Answer("forbidden", "403 Forbidden", (_CLOSE,), refused=True)
TOO_LARGE = Answer("too_large", "413 Content Too Large", (_CLOSE,), refused=True)
CUT_OFF = Answer("incomplete", "400 Bad Request", (_CLOSE,), refused=True)
NOT_ALLOWED = Answer("method_not_allowed", "405 Method Not Allowed", (("Allow", "GET, HEAD, POST"),), refused=True)
OVER_BUDGET = Answer(
    "over_budget", "429 Too Many Requests", (("Retry-After", str(BUDGET_RETRY_AFTER_SECONDS)),), refused=True
)
UNAVAILABLE = Answer(
    "unavailable", "503 Service Unavailable", (("Retry-After", str(RETRY_AFTER_SECONDS)),), waited=True
)


PROBE = SubmissionKey(0, 0)
"""Stands for no submission: the token of a probe."""


class CallbackRules:
    """Decides from what an entry point read, in this order: `before_body`, `length`, `after_body`."""

    def __init__(self, tokens: ResultTokens, budget: Budget) -> None:
        self._tokens = tokens
        self.budget = budget

    def before_body(self, token: str, method: str, *, admitted: bool) -> Answer | SubmissionKey:
        """The answer, or the submission whose callback this is: then the body must be read.

        `admitted`: whether the request came from RESULT_SOURCES; whoever else is refused before the token is checked.
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
        # A sister product asks so before it dials, and drops the request unless it is answered 200.
        return OK if method in ("GET", "HEAD") else NOT_ALLOWED

    def after_body(
        self, key: SubmissionKey, body: bytes, content_type: str, content_encoding: str
    ) -> Answer | Callback:
        """The answer, or what must be stored before there is one. Whoever cannot store it calls `budget.give_back`."""
        if len(body) > BODY_BYTES:
            return TOO_LARGE
        if not body:
            return OK
        if key == PROBE:
            return PROBE_NOT_FOUND
        if not self.budget.take(key):
            return OVER_BUDGET
        return Callback(key, datetime.now(UTC), storable_header(content_type), storable_header(content_encoding), body)


def is_too_long(announced: str) -> bool:
    """Whether a Content-Length alone says that the body is too large."""
    length = announced.lstrip("0")
    return announced.isdecimal() and (len(length) > LENGTH_DIGITS or int(length or "0") > BODY_BYTES)


def storable_header(header: str) -> str:
    """A header as text that Postgres can keep."""
    return header.replace("\0", "")[:HEADER_LENGTH]
