"""Answers that are asked for again and again: whoever has the same one already is told so (304), and sent nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Response, make_response, request

View = TypeVar("View", bound=Callable[..., Any])

_PRECONDITIONS = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"}
"""WSGI's names of the headers that an answer without a time of change can be asked under."""


def revalidated(view: View) -> View:
    """Give a view's answers an ETag, and honour `If-None-Match` (RFC 9110, 13.1.2).

    The tag is made of the answer, so it is never wrong; what is saved is the way, not the query. It is weak, because
    the same answer may be sent compressed. A cache may keep it for the user who asked, and must ask each time.
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

    checked.revalidated = True  # type: ignore[attr-defined]  # read by the API's description
    return cast(View, checked)
