"""Log and count requests. Callbacks are not logged here, because the journal records them.

A line has the path but not the query, because a query may contain phone numbers. The formatter masks them in paths.
"""

from __future__ import annotations

import logging
from time import perf_counter

from flask import Flask, Response, g, request

from receiver.counts import counts
from receiver.intake.wsgi import BEGAN
from receiver.logs import about, request_id
from receiver.web.services import services

_OPERATIONS = ("/healthz", "/readyz", "/metrics")
_QUIET = (*_OPERATIONS, "/static/")
"""Paths that are requested every few seconds, or many times for one page. They are logged only at level debug."""

log = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Log and count the requests of this app, and add each request's id to its answer."""
    app.after_request(_log_when_sent)


def _log_when_sent(response: Response) -> Response:
    if (own_id := request_id.get()) is not None:
        response.headers["X-Request-Id"] = own_id
    began: float = request.environ.get(BEGAN) or perf_counter()
    path, method, address = request.path, request.method, request.remote_addr
    key_id = g.api_key.key_id if g.get("api_key") else None
    pool = services().pool

    def log_request() -> None:
        # After the last byte: until then a stream costs time and holds its connection.
        seconds = perf_counter() - began
        status = response.status_code
        counts.request(_area(path), status, seconds)
        counts.pool(pool.pop_stats(), pool.get_stats())
        # "not ready" is a normal answer of /readyz. Its cause is logged elsewhere.
        failed = status >= 500 and not (path == "/readyz" and status == 503)
        level = logging.WARNING if failed else logging.DEBUG if path.startswith(_QUIET) else logging.INFO
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

    response.call_on_close(log_request)
    return response


def _area(path: str) -> str:
    if path.startswith("/api/"):
        return "api"
    return "operations" if path.startswith(_OPERATIONS) else "dashboards"
