"""One log line for each request but the callbacks, which the journal itself tells of; and the counts of it.

A line has the path and never the query, where a phone number may stand; the formatter masks what a path may hold.
"""

from __future__ import annotations

import logging
from time import perf_counter

from flask import Flask, Response, g, request

from receiver.counts import counts
from receiver.intake.wsgi import BEGAN
from receiver.logs import about, request_id
from receiver.web.services import services

_QUIET = ("/healthz", "/readyz", "/metrics", "/static/")
"""Asked every few seconds by machines, or many for one page: told of when debugging only."""

log = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Log and count the requests of this app, and answer each with its id."""
    app.after_request(_answered)


def _answered(response: Response) -> Response:
    asked = request_id.get()
    if asked is not None:
        response.headers["X-Request-Id"] = asked
    began: float = request.environ.get(BEGAN) or perf_counter()
    path, method, address = request.path, request.method, request.remote_addr
    key = g.get("api_key")
    key_id = None if key is None else key.key_id
    pool = services().pool

    def tell() -> None:
        # Only when the last byte is sent: a stream has its cost, and its connection, until then.
        seconds = perf_counter() - began
        status = response.status_code
        counts.request(_area(path), status, seconds)
        counts.pool(pool.pop_stats(), pool.get_stats())
        quiet = path.startswith(_QUIET)
        # "not ready" is an answer of /readyz, and no failure; what it is about is logged where it happens.
        failed = status >= 500 and not (path == "/readyz" and status == 503)
        level = logging.WARNING if failed else logging.DEBUG if quiet else logging.INFO
        if log.isEnabledFor(level):
            fields = {"method": method, "path": path[:200], "status": status, "seconds": round(seconds, 4)}
            log.log(
                level,
                "%s %s %d",
                method,
                path[:200],
                status,
                extra=about("request", **fields, address=address, key_id=key_id, answer_bytes=response.content_length),
            )

    response.call_on_close(tell)
    return response


def _area(path: str) -> str:
    if path.startswith("/api/"):
        return "api"
    return "operations" if path.startswith(_QUIET[:3]) else "dashboards"
