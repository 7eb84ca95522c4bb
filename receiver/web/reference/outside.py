"""What stands beside `/api/v1`: the callback endpoint in front of Flask, and what a supervisor asks."""

from __future__ import annotations

from typing import Any

from receiver.intake.journal import BODY_BYTES

Description = dict[str, Any]

_FORBIDDEN = "`RESULT_SOURCES` is set, and the sender is not in its networks. Nothing was stored."


def results_path() -> Description:
    """`/results/{token}`, as `receiver.intake.endpoint` answers it."""
    return {
        "parameters": [
            {
                "name": "token",
                "in": "path",
                "required": True,
                "description": "Identifies the submission. It is signed, so it cannot be forged.",
                "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,17}-[1-9][0-9]{0,8}\.[A-Za-z0-9_-]{43}$"},
            }
        ],
        "post": {
            "operationId": "store_callback",
            "tags": ["results"],
            "summary": "Receive a call's result",
            "description": (
                "The provider posts here when a call has ended. The body is stored byte for byte before the answer and "
                "parsed afterwards. An empty body is answered, but nothing is stored. A trailing slash and all headers "
                "are accepted and make no difference."
            ),
            "security": [],
            "requestBody": {
                "description": f"Any body from the provider, at most {BODY_BYTES} bytes.",
                "content": {
                    "application/json": {
                        "schema": {"type": "object"},
                        "example": {
                            "phone_number": "'6175551234'",
                            "status": "completed",
                            "attempts": "1",
                            "duration": 32,
                            "events": [{"event": "queued", "timestamp": 1796119200}],
                        },
                    },
                    "*/*": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}},
                },
            },
            "responses": {
                "200": _status(
                    "The bytes are stored durably (`stored`), or the body was empty (`ok`).", "stored", "ok"
                ),
                "400": _status("The body is incomplete; nothing was stored.", "incomplete"),
                "403": _status(_FORBIDDEN, "forbidden"),
                "404": _status("The token was not signed by this service; nothing was stored.", "not_found"),
                "413": _status(f"The body is longer than {BODY_BYTES} bytes.", "too_large"),
                "429": {
                    **_status("The submission has used up its budget of callbacks; nothing was stored.", "over_budget"),
                    "headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}},
                },
                "503": {
                    **_status("Neither the database nor the local disk could store it.", "unavailable"),
                    "headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}},
                },
            },
        },
        "get": _asked("ask_result_url", "Check whether results are accepted here"),
        "head": _asked("head_result_url", "Check whether results are accepted here, without a body"),
    }


def operations_paths() -> Description:
    """What the service says of itself; `receiver.web.health` and `receiver.web.metrics` answer it."""
    seconds = {"type": ["integer", "null"], "description": "Age of the oldest callback not yet settled."}
    readiness = {
        "type": "object",
        "required": ["status", "database", "worker", "oldest_waiting_seconds", "spooled"],
        "properties": {
            "status": {"type": "string", "enum": ["ready", "not ready"]},
            "database": {"type": "string", "description": "`ok`, or the problem."},
            "worker": {"type": "string", "description": "`ok`, or the problem."},
            "oldest_waiting_seconds": seconds,
            "spooled": {"type": ["integer", "string"], "description": "Callbacks on local disk, or the problem."},
        },
    }
    return {
        "/healthz": {
            "get": {
                "operationId": "get_health",
                "tags": ["operations"],
                "summary": "Liveness check",
                "security": [],
                "responses": {"200": _status("The process is alive.", "ok")},
            }
        },
        "/readyz": {
            "get": {
                "operationId": "get_readiness",
                "tags": ["operations"],
                "summary": "Readiness check, with the problem if it is not ready",
                "security": [],
                "responses": {
                    "200": {
                        "description": "The service is ready.",
                        "content": {"application/json": {"schema": readiness}},
                    },
                    "503": {
                        "description": "The service is not ready.",
                        "content": {"application/json": {"schema": readiness}},
                    },
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "get_metrics",
                "tags": ["operations"],
                "summary": "Metrics for Prometheus",
                "description": "In OpenMetrics format if `Accept` asks for it.",
                "security": [{}, {"MetricsKey": []}],
                "responses": {
                    "200": {
                        "description": "The metrics.",
                        "content": {
                            "text/plain": {"schema": {"type": "string"}},
                            "application/openmetrics-text": {"schema": {"type": "string"}},
                        },
                    },
                    "401": {"$ref": "#/components/responses/unauthorized"},
                },
            }
        },
    }


def _asked(operation_id: str, summary: str) -> Description:
    return {
        "operationId": operation_id,
        "tags": ["results"],
        "summary": summary,
        "description": "Some senders make this request before they dial. Nothing is stored.",
        "security": [],
        "responses": {
            "200": _status("Results are accepted.", "ok"),
            "403": _status(_FORBIDDEN, "forbidden"),
            "404": _status("The token was not signed by this service.", "not_found"),
        },
    }


def _status(description: str, *statuses: str) -> Description:
    schema = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string", "enum": list(statuses)}},
    }
    return {"description": description, "content": {"application/json": {"schema": schema}}}
