"""Failures as RFC 9457 problem details. This is the only place where a code becomes an HTTP status."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import Any

from flask import Flask, Response, g, render_template, request
from gunicorn.http.errors import ParseException
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException, NotAcceptable, UnsupportedMediaType
from werkzeug.http import parse_accept_header

from receiver.database.pool import DatabaseUnavailable
from receiver.errors import Fault, InvalidInput, ReceiverError
from receiver.logs import about
from receiver.web.reference.codes import CODES

FAULTS_NAMED = 100

RETRY_AFTER_SECONDS = 5

log = logging.getLogger(__name__)

STATUS_OF_CODE = {code: known.status for code, known in CODES.items()} | {
    "conflict": 409,
    "invalid_cursor": 422,
    "request_timeout": 408,
    "unavailable": 503,
}
"""The API's codes, and those of cursors and of werkzeug's errors."""

_TITLES = {
    400: "Bad request",
    401: "Key missing or not valid",
    403: "Key not allowed to do this",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    410: "No longer available",
    413: "Too large",
    415: "Content type not supported",
    422: "Invalid input",
    429: "Too many requests",
    500: "Internal error",
    502: "Refused by the provider",
    503: "Not available",
}

_CODE_OF_STATUS = {known.status: code for code, known in reversed(CODES.items())} | {
    408: "request_timeout",
    409: "conflict",
    503: "unavailable",
}
"""For werkzeug's errors, which have no code: the first of the API's codes with this status."""

_REPRESENTATIONS = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
"""Content types by the extension of the path. Every other path answers JSON."""


class Problem(ReceiverError):
    """A failure of a request. `headers`: headers of the answer."""

    def __init__(self, code: str, message: str, *, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(message, code=code, **members)
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


def errors_of(faults: tuple[Fault, ...] | list[Fault]) -> list[dict[str, Any]]:
    """The member `errors` of a problem: faults of a CSV have a `row` and a `line`, those of parameters a `field`."""
    return [
        {"row" if isinstance(fault.where, int) else "field": fault.where}
        | ({} if fault.line is None else {"line": fault.line})
        | {"code": fault.code, "message": fault.message}
        for fault in faults[:FAULTS_NAMED]
    ]


def register(app: Flask) -> None:
    """Answer every failure of this app with a problem, and answer 406 if the client does not accept the type of the
    answer."""
    app.before_request(_refuse_unacceptable)
    app.register_error_handler(ReceiverError, _answer_receiver_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(ParseException, _answer_broken_body)
    app.register_error_handler(Exception, _answer_unexpected)


def _refuse_unacceptable() -> None:
    """Check this first: a client that cannot read the answer to a POST would send the POST again."""
    if request.path.startswith("/api/"):
        offered = _REPRESENTATIONS.get(request.path.rpartition(".")[2], "application/json")
        if not _accepts(request.headers.get("Accept", ""), offered):
            raise NotAcceptable(f"The answer is {offered}, which your Accept header excludes.")
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity" and request.method not in ("GET", "HEAD"):
            raise UnsupportedMediaType("Send the body without a Content-Encoding: it is not decompressed.")


@lru_cache(maxsize=100)
def _accepts(header: str, offered: str) -> bool:
    """Whether an Accept header allows this type. Cached, because most clients send the same few headers."""
    # Without parameters such as charset: werkzeug would compare them, too.
    ranges = [(text.partition(";")[0].strip(), quality) for text, quality in parse_accept_header(header, MIMEAccept)]
    # Of several types, some generated clients name only the one that looks like JSON.
    return all(text == "application/problem+json" for text, _ in ranges) or MIMEAccept(ranges)[offered] > 0


def _answer_receiver_error(error: ReceiverError) -> Response:
    status = STATUS_OF_CODE.get(error.code, 500)
    if status == 500:
        return _answer_unexpected(error)
    members = error.members
    if isinstance(error, InvalidInput) and status == 422:
        members = {"errors": errors_of(error.faults), "errors_total": error.faults_total, **members}
    detail = str(error)
    if isinstance(error, DatabaseUnavailable):
        log.warning("%s", error, extra=about("database_away"))
        detail = "The database is unavailable. Try again in a moment."
        if request.method == "POST" and "api_key" in g:
            # The connection may have failed after our commit but before the database's answer.
            detail += " Your request may have been stored: send it again with the same Idempotency-Key, or check first."
    answer = problem(status, error.code, detail, **members)
    if isinstance(error, Problem):
        answer.headers.update(error.headers)
    if status == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def _answer_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    detail = error.description or _TITLES.get(status, "Failure")
    if status == 413:
        detail = (
            f"The body is too large. At most {request.max_content_length:,} bytes are allowed; for the fields of a form"
            f" besides its file, {request.max_form_memory_size:,} bytes and {request.max_form_parts} parts."
        )
    answer = problem(status, _CODE_OF_STATUS.get(status, "bad_request"), detail)
    for name, value in error.get_headers(request.environ):
        # Such as `Allow` of a 405, and `Location` of a redirect.
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def _answer_broken_body(error: Exception) -> Response:
    """Answer a body with invalid HTTP, such as a chunk without a size, which gunicorn has found."""
    return problem(400, "bad_request", f"The body is not valid HTTP: {error}. Nothing was stored.")


def _answer_unexpected(error: Exception) -> Response:
    log.exception("request failed", exc_info=error, extra=about("request_failed"))
    return problem(500, "internal_error", "An unexpected error occurred. Its details are in the log.")
