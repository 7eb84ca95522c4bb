"""Who asks: API keys as bearer tokens, and the scope that each view declares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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


def _bearer() -> ApiKey:
    header = request.headers.get("Authorization", "")
    scheme, _, token = header.partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    limits, address, digest = services().rate_limits, client_address(), hashlib.sha256(token.encode()).digest()
    if limits is not None:
        limits.check_failures(digest, address)
    key = None
    if token:
        with reading(services().pool) as conn:
            key = find_key(conn, token)
    if limits is not None:
        if key is None:
            limits.count_failure(address)
        else:
            limits.count_request(digest)
    if key is None and token:
        raise Problem("unauthorized", "This API key is not known, or was revoked, or has expired.", headers=_CHALLENGE)
    if key is None:
        raise Problem("unauthorized", "Send your API key: `Authorization: Bearer <key>`.", headers=_CHALLENGE)
    return key
