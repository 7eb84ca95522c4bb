"""What many operations share: the introduction, tags, the key, headers, and the parameters in paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Description = dict[str, Any]

INTRODUCTION = (Path(__file__).parent / "introduction.md").read_text()

TAGS = {
    "batches": "A CSV and its parameters, as queued, with the balance of its calls and of its callbacks.",
    "calls": "Rows of the CSV and their results.",
    "feed": "Results as they come, over all batches.",
    "callbacks": "Each POST to a `result_url`, stored byte for byte, with its state after settlement.",
    "deployments": "The provider's deployments, each with the calls of many batches.",
    "suppressions": "Numbers that must not be called, whichever batch they are in.",
    "endpoints": "Your own services, to which results and other events are delivered, signed and retried.",
    "removals": "Erasures of one number, and purges of batches. Both can take minutes, and cannot be undone.",
    "keys": "API keys: who may use this API, and for what.",
    "audit": "Who changed what, when, and with which note.",
    "summary": "Totals and series over many batches, for dashboards.",
    "results": "The endpoint to which the provider posts results. It needs no key: the token in the URL is signed.",
    "operations": "Health checks and metrics.",
}

SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": (
        "An API key. `python -m receiver keys create NAME --scope read|queue|admin` prints it once. "
        "Each operation names the scope it needs.\n\n"
        "| scope | allows |\n| --- | --- |\n| `read` | reading everything |\n"
        "| `queue` | reading, and queueing and controlling batches |\n"
        "| `admin` | everything, including keys, endpoints, replay of callbacks and canceling a deployment |"
    ),
}

METRICS_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "The `METRICS_KEY`, if it is set. Otherwise `/metrics` needs no key.",
}

RESPONSE_HEADERS: Description = {
    "Location": {
        "description": "The address of the new object.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotency-Replayed": {
        "description": "`true` if the same key and content were accepted before, as this batch. Absent otherwise.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {
        "description": "Identifies this version. Send it as `If-None-Match` to get 304 while nothing has changed.",
        "schema": {"type": "string"},
    },
    "Read-From": {
        "description": "The database that was read. Present only if a read replica is configured.",
        "schema": {"type": "string", "enum": ["replica", "primary"]},
    },
    "Replica-Lag": {
        "description": "With `Read-From: replica`: changes of the last so many seconds may be missing.",
        "schema": {"type": "number", "minimum": 0},
    },
    "Content-Disposition": {"description": "`attachment`, with a name for the file.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
}

READ_AT_REPLICA = (
    "list_batches",
    "list_submissions",
    "list_calls",
    "find_calls",
    "list_results",
    "list_callbacks",
    "get_summary",
    "get_breakdown",
    "export_calls_csv",
    "export_calls_ndjson",
    "export_every_call_csv",
    "export_every_call_ndjson",
    "export_skipped_csv",
)
"""Operations that a replica may answer (receiver.web.reading)."""

REQUEST_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": (
            "Your own name for this request, such as `reminders-2026-12-01`. "
            "A request with the same key and content returns the same batch."
        ),
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=N`: wait up to N seconds, at most 60, for the provider's answer. Default: 10.",
        "schema": {"type": "string"},
    },
]

FEED_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N`: if there is nothing new, wait up to N seconds, at most 30. Default: 0.",
    "schema": {"type": "string"},
}

IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of the answer that you have.",
    "schema": {"type": "string"},
}

PATH_PARAMETERS = {
    "batch_id": "The batch's `id`.",
    "submission_no": "The submission's number in the batch, from 1.",
    "application_id": "The provider's id of the application.",
    "deployment_id": "The provider's id of the deployment.",
    "row": "The row in the CSV, from 1 after the header, blank lines not counted.",
    "callback_id": "The callback's `id`.",
    "suppression_id": "The suppression's `id`.",
    "endpoint_id": "The endpoint's `id`.",
    "name": "The key's name.",
    "job_id": "The `id` of the erasure or purge.",
}

CSV_FIELD = {
    "type": "string",
    "format": "binary",
    "description": (
        "A CSV, or the first sheet of an .xlsx or .ods workbook. A CSV is UTF-8, UTF-16 with a byte order mark, or "
        "cp1252; its delimiter is comma, semicolon, tab or |. The first row has the column names; the first column is "
        "`destination`, unless `destination_column` names another one."
    ),
}
