"""API keys as bearer tokens, and the scope that each view requires."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from typing import Any, TypeVar, cast

from flask import g, request

from receiver.database.api_keys import ApiKey, Scope, find_key
from receiver.database.pool import reading
from receiver.web.problems import Problem
from receiver.web.rate_limit import client_address
from receiver.web.services import services
from receiver.web.turns import take_turn
from receiver.web.waiting import WAIT, Wait

View = TypeVar("View", bound=Callable[..., Any])

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="result_url receiver"'}


def requires(scope: Scope) -> Callable[[View], View]:
    """Answer a request only if its key has this scope. This is checked before the body is read."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            stored: Stored | None = request.environ.get(STORED)
            key = _check_bearer_key() if stored is None else stored.key
            take_turn(key.key_id)
            if not key.allows(scope):
                raise Problem("forbidden", f"This needs a key of scope `{scope}`; yours has the scope `{key.scope}`.")
            g.api_key = key
            return view(*args, **kwargs)

        checked.required_scope = scope  # type: ignore[attr-defined]  # read by receiver.web.openapi and by tests
        return cast(View, checked)

    return decorate


def current_key() -> ApiKey:
    """The key of the current request."""
    key: ApiKey = g.api_key
    return key


@dataclass(frozen=True, slots=True)
class Stored:
    """A request that was accepted and has waited. `subject`: what its view needs for the final answer."""

    key: ApiKey
    subject: Any


STORED = "receiver.stored"
"""The name of the `Stored` in the WSGI environment of a resumed request (receiver.web.waiting)."""


def answer_later(subject: Any, ready: Callable[[], bool], seconds: float) -> None:
    """Resume this request, with the subject, when `ready` or after so many seconds. The present answer is discarded."""
    body = request.get_data()  # without the parts of a form
    resumed = {STORED: Stored(current_key(), subject), "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    request.environ[WAIT] = Wait(ready, time.monotonic() + seconds, resumed)


def waited_for() -> Any:
    """The subject of a resumed request; None: the request has not waited."""
    stored: Stored | None = request.environ.get(STORED)
    return None if stored is None else stored.subject


def find_bearer_key() -> ApiKey | None:
    """The key of the current request, if it is valid. Does not count for the rate limits."""
    token = _bearer_token()
    if not token:
        return None
    with reading(services().pool) as conn:
        return find_key(conn, token)


def _bearer_token() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _check_bearer_key() -> ApiKey:
    """The key of the current request. Raises Problem (401, 429)."""
    token = _bearer_token()
    limits, address, digest = services().rate_limits, client_address(), hashlib.sha256(token.encode()).digest()
    limits.check_failures(digest, address)
    key = find_bearer_key()
    if key is not None:
        limits.count_request(digest)
        return key
    limits.failures.take(address)
    reason = (
        "This API key is unknown, revoked or expired." if token else "Send your API key: `Authorization: Bearer <key>`."
    )
    raise Problem("unauthorized", reason, headers=_CHALLENGE)
