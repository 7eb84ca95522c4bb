"""ETags for answers that clients request repeatedly: while nothing has changed, the answer is 304 without a body."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Response, make_response, request

View = TypeVar("View", bound=Callable[..., Any])

_PRECONDITIONS = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"}
"""The WSGI names of the request headers that an ETag is compared with."""


def revalidated(view: View) -> View:
    """Give a view's answers an ETag, and honour `If-None-Match` (RFC 9110, 13.1.2).

    The tag is computed from the answer, so it is always correct. It saves the transfer, but not the query. It is weak,
    because the same answer may be sent compressed. The client may cache the answer, but must revalidate it each time.
    """

    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Response:
        answer = make_response(view(*args, **kwargs))
        if answer.status_code == 200:
            answer.add_etag(weak=True)
            answer.headers["Cache-Control"] = "private, no-cache"
            answer.vary.add("Authorization")
            if not _PRECONDITIONS.isdisjoint(request.environ):
                answer.make_conditional(request)
        return answer

    checked.revalidated = True  # type: ignore[attr-defined]  # read by receiver.web.openapi
    return cast(View, checked)
