"""What many operations share: the introduction, tags, the key, headers, and the parameters in paths."""

from __future__ import annotations

from typing import Any

Description = dict[str, Any]

INTRODUCTION = """\
Queue a CSV of phone calls, and read what became of every one of them.

**Keys.** Every request under `/api/v1` needs `Authorization: Bearer <key>`. Press *Authorize*, enter a key, and try
the calls on this page. A key has a scope: `read` looks, `queue` queues as well, `admin` may do everything.

**Failures** are RFC 9457 problem details, `application/problem+json`. Branch on `code`, which is stable; `title`,
`detail` and messages are for people. A validation failure names each fault in `errors`. Every answer carries
`X-Request-Id`, which the log has, too.

**Lists** are read page by page: while `next_cursor` is not null, ask again with it as `cursor`.

**Conditional requests.** Batches, their list and the summary carry an `ETag`. Send it as `If-None-Match`: while nothing
has changed, 304 is answered, without a body. JSON is compressed for whoever sends `Accept-Encoding: gzip`.

**Compatibility.** Within `/api/v1` fields, codes, and values of a field may be added; none is renamed or removed.
Pass over what you do not know. Times are RFC 3339 in UTC, durations whole seconds, numbers E.164.
"""

TAGS = {
    "batches": "A CSV and its parameters, as queued, with the balance of its calls and of its callbacks.",
    "calls": "Rows of the CSV, and what became of them.",
    "callbacks": "Each POST to a `result_url`, kept byte for byte, and what settlement made of it.",
    "summary": "Totals and series over many batches, for dashboards.",
    "results": "Where the provider posts results. It needs no key: the token in the address is signed.",
    "operations": "What supervisors and Prometheus ask.",
}

SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": (
        "An API key: `python -m receiver keys create NAME --scope read|queue|admin` prints one, once. "
        "Each operation names the scope it needs.\n\n"
        "| scope | allows |\n| --- | --- |\n| `read` | to look at everything |\n"
        "| `queue` | to queue batches, and what `read` allows |\n| `admin` | everything, replaying callbacks included |"
    ),
}

METRICS_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "The `METRICS_KEY`, where one is configured; else `/metrics` needs no key.",
}

RESPONSE_HEADERS: Description = {
    "Location": {"description": "The batch's address.", "schema": {"type": "string", "format": "uri-reference"}},
    "Idempotency-Replayed": {
        "description": "There, and `true`, where this key and content were accepted before, as this batch.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {
        "description": "Names this answer. Send it as `If-None-Match` to be told 304 while it has not changed.",
        "schema": {"type": "string"},
    },
    "Read-From": {
        "description": "Where this was read. Only there where a read replica is configured.",
        "schema": {"type": "string", "enum": ["replica", "primary"]},
    },
    "Replica-Lag": {
        "description": "With `Read-From: replica`: what was stored within so many seconds may be missing here.",
        "schema": {"type": "number", "minimum": 0},
    },
    "Content-Disposition": {"description": "`attachment`, with a name for the file.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
}

READ_AT_REPLICA = (
    "list_batches",
    "list_calls",
    "find_calls",
    "list_callbacks",
    "get_summary",
    "export_calls_csv",
    "export_calls_ndjson",
    "export_skipped_csv",
)
"""Operations that a replica may answer (receiver.web.reading)."""

REQUEST_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": (
            "A name of your own for this request, such as `reminders-2026-12-01`. "
            "The same key and content answer with the same batch."
        ),
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=N`: wait up to N seconds, at most 60, for the provider's answer; 10 without it.",
        "schema": {"type": "string"},
    },
]

IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of the answer that you have.",
    "schema": {"type": "string"},
}

PATH_PARAMETERS = {
    "batch_id": "The batch's `id`.",
    "row": "The row in the CSV, from 1 after the header, blank lines not counted.",
    "callback_id": "The callback's `id`.",
}

CSV_FIELD = {
    "type": "string",
    "format": "binary",
    "description": (
        "UTF-8, UTF-16 with its mark, or cp1252; separated by comma, semicolon, tab or bar. "
        "The first row names the columns; the first is `destination`."
    ),
}
