"""Cross-origin requests: pages from `CORS_ORIGINS` may use `/api/v1` with an API key. Credentials such as cookies are
never allowed."""

from __future__ import annotations

from flask import Flask, Response, request

from receiver.web.services import services

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match, Prefer",
    "Access-Control-Max-Age": "7200",
}
_EXPOSED = (
    "Allow, Content-Disposition, ETag, Idempotency-Replayed, Location, Read-From, Replica-Lag, Retry-After,"
    " WWW-Authenticate, X-Request-Id"
)
"""Headers of answers that a script may read."""


def register(app: Flask) -> None:
    """Allow requests from pages of these origins, in the form that browsers send."""

    def is_allowed() -> bool:
        return request.path.startswith("/api/") and request.headers.get("Origin") in services().config.cors_origins

    @app.before_request
    def answer_preflight() -> Response | None:
        """Without a key: a browser sends none with a preflight."""
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers and is_allowed():
            return Response(status=204, headers=_PREFLIGHT)
        return None

    @app.after_request
    def allow(answer: Response) -> Response:
        if request.path.startswith("/api/") and services().config.cors_origins:
            answer.vary.add("Origin")
        if is_allowed():
            answer.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            answer.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return answer
