"""The description of addresses outside `/api/v1`: the callback endpoint, health checks and metrics."""

from __future__ import annotations

from receiver.intake.journal import BODY_BYTES
from receiver.web.reference.shared import Description

_FORBIDDEN = "`RESULT_SOURCES` is set, and the sender is not in its networks. Nothing was stored."


_RETRY_AFTER = {"headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}}


def results_path() -> Description:
    """`/results/{token}` (`receiver.intake.endpoint`)."""
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
                        "schema": {"type": "object", "additionalProperties": True},
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
                "429": _status("The submission has used up its budget of callbacks; nothing was stored.", "over_budget")
                | _RETRY_AFTER,
                "503": _status("Neither the database nor the local disk could store it.", "unavailable") | _RETRY_AFTER,
            },
        },
        "get": _check("ask_result_url", "Check whether results are accepted here"),
        "head": _check("head_result_url", "Check whether results are accepted here, without a body"),
    }


def operations_paths() -> Description:
    """Health checks and metrics (`receiver.web.health`, `receiver.web.metrics`)."""
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
    wrong_method = {"405": {"$ref": "#/components/responses/method_not_allowed"}}
    health = {"200": _status("The process is alive.", "ok")} | wrong_method
    alive = {"description": "It reads nothing. For a load balancer, use `/readyz`."}
    ready = {
        "200": _json("The service is ready.", readiness),
        "503": _json("The service is not ready.", readiness),
    } | wrong_method
    metrics = {
        "200": {
            "description": "The metrics.",
            "content": {
                name: {"schema": {"type": "string"}} for name in ("text/plain", "application/openmetrics-text")
            },
        },
        "401": {"$ref": "#/components/responses/unauthorized"},
    }
    return {
        "/healthz": {"get": _operation("get_health", "operations", "Liveness check", health) | alive},
        "/readyz": {
            "get": _operation(
                "get_readiness", "operations", "Readiness check, with the problem if it is not ready", ready
            )
            | {"description": "Whether the database is reachable and migrated, and a worker is alive."}
        },
        "/metrics": {
            "get": _operation("get_metrics", "operations", "Metrics for Prometheus", metrics)
            | {
                "description": "In OpenMetrics format if `Accept` asks for it.",
                "security": [{}, {"MetricsKey": []}],
            }
        },
    }


def _check(operation_id: str, summary: str) -> Description:
    responses = {
        "200": _status("Results are accepted.", "ok"),
        "403": _status(_FORBIDDEN, "forbidden"),
        "404": _status("The token was not signed by this service.", "not_found"),
    }
    description = "Some senders make this request before they dial. Nothing is stored."
    return _operation(operation_id, "results", summary, responses) | {"description": description}


def _operation(operation_id: str, tag: str, summary: str, responses: Description) -> Description:
    return {"operationId": operation_id, "tags": [tag], "summary": summary, "security": [], "responses": responses}


def _status(description: str, *statuses: str) -> Description:
    status = {"type": "string", "enum": list(statuses)}
    return _json(description, {"type": "object", "required": ["status"], "properties": {"status": status}})


def _json(description: str, schema: Description) -> Description:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
