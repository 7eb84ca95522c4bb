"""Who asks: API keys as bearer tokens, and the scope that each view declares."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import g, request

from receiver.database.api_keys import ApiKey, Scope, find_key
from receiver.database.pool import connection
from receiver.web.problems import Problem
from receiver.web.services import services

View = TypeVar("View", bound=Callable[..., Any])

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="result_url receiver"'}


def requires(scope: Scope) -> Callable[[View], View]:
    """Let a view be asked only with a key of this scope, before anything of the request is read."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            key = _bearer()
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
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem("unauthorized", "Send your API key: `Authorization: Bearer <key>`.", headers=_CHALLENGE)
    with connection(services().pool) as conn:
        key = find_key(conn, token.strip())
    if key is None:
        raise Problem("unauthorized", "This API key is not known, or was revoked, or has expired.", headers=_CHALLENGE)
    return key
