"""Failures as RFC 9457 problem details: the one place where a code becomes an HTTP status."""

from __future__ import annotations

import json
import logging
from typing import Any

from flask import Flask, Response, g, render_template, request
from gunicorn.http.errors import ParseException
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, NotAcceptable

from receiver.database.pool import DatabaseUnavailable
from receiver.errors import Fault, InvalidInput, ReceiverError
from receiver.logs import about
from receiver.queueing.acceptance import IdempotencyKeyReused
from receiver.queueing.batches import ExternalIdUsed
from receiver.queueing.parameters import faults

FAULTS_NAMED = 100

RETRY_AFTER_SECONDS = 5

log = logging.getLogger(__name__)

_STATUS_OF_CODE = {
    "invalid_csv": 422,
    "invalid_parameters": 422,
    "idempotency_key_reused": 422,
    "invalid_cursor": 422,
    "not_found": 404,
    "key_name_taken": 409,
    "not_in_doubt": 409,
    "external_id_used": 409,
    "nothing_unreleased": 409,
    "not_cut_by_zone": 409,
    "sending": 409,
    "database_unavailable": 503,
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "provider_refused": 502,
}

_TITLES = {
    400: "Bad request",
    401: "Key missing or not valid",
    403: "Key not allowed to do this",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    413: "Too large",
    415: "Content type not supported",
    422: "Invalid input",
    429: "Too many requests",
    500: "Internal error",
    502: "Refused by the provider",
    503: "Not available",
}

_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_parameters",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
}


_REPRESENTATIONS = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
"""What an address with one of these endings answers; every other one answers JSON."""


class Problem(ReceiverError):
    """A failure that carries more members than its code and words; `headers` go with the answer."""

    def __init__(self, code: str, message: str, *, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(message, code=code)
        self.members = members
        self.headers = headers or {}


def problem(status: int, code: str, detail: str, **members: Any) -> Response:
    """A problem answer (RFC 9457), or a page for a browser. `type` names the problem; it is not an address."""
    content = {
        "type": f"urn:result-url-receiver:problem:{code}",
        "title": _TITLES.get(status, "Failure"),
        "status": status,
        "detail": detail,
        "code": code,
        **members,
    }
    if "text/html" in request.accept_mimetypes.values() and not request.path.startswith("/api/"):
        return Response(render_template("problem.html", **content), status)
    return Response(json.dumps(content, ensure_ascii=False) + "\n", status, content_type="application/problem+json")


def statuses() -> dict[str, int]:
    """The HTTP status of each code."""
    return {code: status for status, code in _CODES.items()} | _STATUS_OF_CODE


def listed(faults: tuple[Fault, ...] | list[Fault]) -> list[dict[str, Any]]:
    """Faults as the API lists them: a CSV's by `row`, a parameter's by `field`."""
    return [
        {
            "row" if isinstance(fault.where, int) else "field": fault.where,
            "code": fault.code,
            "message": fault.message,
        }
        for fault in faults[:FAULTS_NAMED]
    ]


def register(app: Flask) -> None:
    """Answer every failure of this app with a problem, and what nobody would read with 406."""
    app.before_request(_refuse_unacceptable)
    app.register_error_handler(ReceiverError, _of_error)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(ParseException, _of_broken_body)
    app.register_error_handler(Exception, _of_anything)


def _refuse_unacceptable() -> None:
    """Before anything is done: who cannot read the answer to a POST would send it again."""
    if not request.path.startswith("/api/") or not request.accept_mimetypes:
        return
    ending = request.path.rpartition(".")[2]
    offered = _REPRESENTATIONS.get(ending, "application/json")
    if not _accepts(offered):
        raise NotAcceptable(f"The answer is {offered}, which your Accept header excludes.")


def _accepts(offered: str) -> bool:
    """Whether the Accept header does: its most specific range decides (RFC 9110, 12.5.1), parameters aside."""
    for media_range in (offered, offered.partition("/")[0] + "/*", "*/*"):
        qualities = [
            quality
            for text, quality in request.accept_mimetypes
            if text.partition(";")[0].strip().lower() == media_range
        ]
        if qualities:
            return max(qualities) > 0
    return False


def _of_error(error: ReceiverError) -> Response:
    status = _STATUS_OF_CODE.get(error.code, 500)
    if status == 500:
        return _of_anything(error)
    members: dict[str, Any] = {}
    if isinstance(error, InvalidInput):
        members = {"errors": listed(error.faults), "errors_total": error.faults_total}
    elif isinstance(error, IdempotencyKeyReused | ExternalIdUsed):
        members = {"batch_id": error.batch_id}
    elif isinstance(error, Problem):
        members = error.members
    detail = str(error)
    if isinstance(error, DatabaseUnavailable):
        log.warning("%s", error, extra=about("database_away"))
        detail = "The database is unavailable. Try again in a moment."
        if request.method == "POST" and "api_key" in g:
            # It may have broken off between our commit and its answer.
            detail += " Your request may have been stored: send it again with the same Idempotency-Key, or check first."
    answer = problem(status, error.code, detail, **members)
    if isinstance(error, Problem):
        answer.headers.update(error.headers)
    if status == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def _of_http(error: HTTPException) -> Response:
    status = error.code or 500
    # What webargs found, field by field.
    messages = (getattr(error, "data", None) or {}).get("messages")
    if status == 422 and messages:
        found = [
            fault
            for texts in messages.values()
            for fault in faults(ValidationError(texts if isinstance(texts, dict) else {"body": texts}))
        ]
        return problem(
            422,
            "invalid_parameters",
            "Some parameters are not valid.",
            errors=listed(found),
            errors_total=len(found),
        )
    answer = problem(status, _CODES.get(status, "bad_request"), error.description or _TITLES.get(status, "Failure"))
    for name, value in error.get_headers(request.environ):
        # `Allow` of a 405 among them, and what a redirect needs.
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def _of_broken_body(error: Exception) -> Response:
    """What gunicorn finds in the middle of a body, such as a chunk without a size."""
    return problem(400, "bad_request", f"The body is not valid HTTP: {error}. Nothing was stored.")


def _of_anything(error: Exception) -> Response:
    log.exception("request failed", exc_info=error, extra=about("request_failed"))
    return problem(500, "internal_error", "An unexpected error occurred. Its details are in the log.")
