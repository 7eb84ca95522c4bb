"""The callback endpoint, in front of Flask: token, bytes, journal, answer.

It needs nothing that Flask gives, and it is asked a hundred times as often as all the rest together.
`receiver.results.callback_rules` decides; this reads a WSGI request and writes the answer.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

from receiver.logs import OncePer, about, request_id
from receiver.model import SubmissionKey
from receiver.results.callback_rules import (
    CUT_OFF,
    OVER_BUDGET,
    PREFIX,
    SPOOLED,
    STORED,
    TOO_LARGE,
    UNAVAILABLE,
    Answer,
    CallbackRules,
    is_too_long,
)
from receiver.results.intake import CannotStore, Intake
from receiver.results.journal import BODY_BYTES
from receiver.web.access import BEGAN
from receiver.web.counts import ANSWERS, counts
from receiver.web.proxies import Proxies, Sources

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REFUSALS_SECONDS = 10.0
"""One line of the log in so many seconds for each kind of refusal: whoever likes can cause them."""

log = logging.getLogger(__name__)
_refusals = logging.getLogger(f"{__name__}.refusals")
_refusals.addFilter(OncePer(REFUSALS_SECONDS))

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)
_COUNTED_AS = {word: cell for cell, word in enumerate(ANSWERS)}


class Webhook:
    """WSGI: answers `/results/<token>`, and leaves every other path to `otherwise`.

    `sources`: who alone may ask; None: everybody.
    """

    def __init__(
        self,
        otherwise: WSGIApplication,
        rules: CallbackRules,
        intake: Intake,
        proxies: Proxies,
        sources: Sources | None,
    ) -> None:
        self._otherwise = otherwise
        self._rules = rules
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
        counts.callback(_COUNTED_AS[answer.word], began, timed=answer.waited)
        if answer.refused:
            address = self._proxies.client(environ)
            _refusals.warning(
                "a request to a result_url was refused: %s",
                answer.word,
                extra=about(f"callback_{answer.word}", address=address),
            )
        start_response(answer.status, [*answer.all_headers, ("X-Request-Id", asked)])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answer(self, token: str, environ: WSGIEnvironment) -> Answer:
        admitted = self._sources is None or self._sources.admit(environ)
        key = self._rules.before_body(token, environ["REQUEST_METHOD"], admitted=admitted)
        if isinstance(key, Answer):
            return key
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
            if callback is OVER_BUDGET:
                _tell_over_budget(key)
            return callback
        try:
            spooled = self._intake.store(callback)
        except CannotStore:
            self._rules.budget.give_back(key)
            log.error(
                "callback lost unless sent again: neither database nor spool could store it",
                extra=about("callback_lost", batch_id=key.batch_id, submission=key.submission_no),
            )
            return UNAVAILABLE
        return SPOOLED if spooled else STORED


def _tell_over_budget(key: SubmissionKey) -> None:
    _refusals.error(
        "batch %d, submission %d: more callbacks than CALLBACK_BUDGET allows; further ones are not stored",
        key.batch_id, key.submission_no,
        extra=about("callback_budget_used_up", batch_id=key.batch_id, submission=key.submission_no),
    )  # fmt: skip


def _read_body(environ: WSGIEnvironment, announced: str) -> bytes | None:
    """The body, or more than BODY_BYTES of it; None where the sender went away in the middle.

    A part of a body is not stored: it cannot be told from a whole one later, and was not acknowledged.
    """
    if not announced and not environ.get("wsgi.input_terminated"):
        return b""
    wanted = int(announced.lstrip("0") or "0") if announced.isdecimal() else BODY_BYTES + 1
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
