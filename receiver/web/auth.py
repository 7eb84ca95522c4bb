"""Who asks: API keys as bearer tokens, and the scope that each view declares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from flask import g, request

from receiver.database.api_keys import ApiKey, Scope, find_key
from receiver.database.pool import reading
from receiver.web.problems import Problem
from receiver.web.rate_limit import client_address
from receiver.web.services import services
from receiver.web.turns import take_turn

View = TypeVar("View", bound=Callable[..., Any])

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="result_url receiver"'}


def requires(scope: Scope) -> Callable[[View], View]:
    """Let a view be asked only with a key of this scope, before anything of the request is read."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            stored: Stored | None = request.environ.get(STORED)
            if stored is not None:  # it was let in when it came
                g.api_key = stored.key
                take_turn(services().turns, stored.key.key_id)
                return view(*args, **kwargs)
            key = _bearer()
            take_turn(services().turns, key.key_id)
            if not key.allows(scope):
                raise Problem("forbidden", f"This needs a key of scope `{scope}`; yours has the scope `{key.scope}`.")
            g.api_key = key
            return view(*args, **kwargs)

        checked.required_scope = scope  # type: ignore[attr-defined]  # read by the test that enumerates routes
        return cast(View, checked)

    return decorate


def current_key() -> ApiKey:
    """The key of the current request."""
    key: ApiKey = g.api_key
    return key


@dataclass(frozen=True, slots=True)
class Stored:
    """A request that was accepted, and waits for the provider. `subject`: what its view answers about in the end."""

    key: ApiKey
    subject: Any


STORED = "receiver.stored"
"""Where in the WSGI environment `Stored` is when the request is sent once more (receiver.web.waiting)."""


def find_bearer_key() -> ApiKey | None:
    """The key that the current request brings, if it is a valid one. Counts against no limit."""
    token = _bearer_token()
    if not token:
        return None
    with reading(services().pool) as conn:
        return find_key(conn, token)


def _bearer_token() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _bearer() -> ApiKey:
    token = _bearer_token()
    limits, address, digest = services().rate_limits, client_address(), hashlib.sha256(token.encode()).digest()
    if limits is not None:
        limits.check_failures(digest, address)
    key = find_bearer_key()
    if limits is not None:
        if key is None:
            limits.count_failure(address)
        else:
            limits.count_request(digest)
    if key is None and token:
        raise Problem("unauthorized", "This API key is unknown, revoked or expired.", headers=_CHALLENGE)
    if key is None:
        raise Problem("unauthorized", "Send your API key: `Authorization: Bearer <key>`.", headers=_CHALLENGE)
    return key
