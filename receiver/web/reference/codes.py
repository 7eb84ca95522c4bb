"""Every error code of the API: its status, when it occurs, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    status: int
    when: str
    remedy: str


CODES = {
    "bad_request": Code(
        400, "The request cannot be read.", "Check how it is sent. For example, its body may be incomplete."
    ),
    "unauthorized": Code(401, "The key is missing, unknown, revoked or expired.", "Send a valid key."),
    "forbidden": Code(403, "The key's scope does not allow this.", "Use a key of the scope that `detail` names."),
    "not_found": Code(404, "The resource does not exist.", "Check the path. It may have been purged."),
    "method_not_allowed": Code(405, "The path does not support this method.", "Use a method that `Allow` lists."),
    "not_acceptable": Code(
        406, "`Accept` excludes the content type of the answer.", "Accept the type that `detail` names."
    ),
    "external_id_used": Code(
        409, "Another batch has this `external_id`; `batch_id` names it.", "Use another one, or use that batch."
    ),
    "key_name_taken": Code(409, "Another key in use has this name.", "Revoke that key, or choose another name."),
    "nothing_unreleased": Code(
        409,
        "Everything in the batch was released, refused or withdrawn.",
        "Only `name`, `external_id` and `labels` can still be changed.",
    ),
    "not_cut_by_zone": Code(
        409,
        "The batch was queued without calling hours, so it is not split by time zone.",
        "Cancel it, and queue the calls that were withdrawn as a new batch with calling hours.",
    ),
    "not_in_doubt": Code(
        409,
        "No submission is `unknown`, or a callback proves that it was queued.",
        "Read the batch. Nothing needs a decision.",
    ),
    "in_use": Code(
        409,
        "Callbacks with the number are not settled yet, or calls to it are being sent.",
        "Send the request again in a moment. `detail` says what was erased.",
    ),
    "not_ended": Code(409, "The batch has unreleased or pending calls.", "Cancel it and wait, or send `force`."),
    "sending": Code(
        409,
        "A submission is still being sent, or no worker is running, so the provider was not asked.",
        "Everything unreleased was withdrawn. Send the request again.",
    ),
    "cursor_expired": Code(
        410,
        "The entries after this cursor were removed after 30 days, or the database was restored from a backup.",
        "Start again without a cursor: the oldest entries kept. For older results, export the batches.",
    ),
    "too_large": Code(413, "The body is too large.", "Send the CSV as several batches."),
    "unsupported_media_type": Code(415, "The body has an unsupported content type.", "Send what `detail` names."),
    "invalid_parameters": Code(
        422, "Parameters are not valid; `errors` lists each fault.", "Correct them. Nothing was stored or sent."
    ),
    "invalid_csv": Code(
        422,
        "The CSV is not valid; `errors` lists the rows.",
        "Correct it, or leave invalid rows out with `on_invalid=skip`. Nothing was stored or sent.",
    ),
    "nothing_to_follow_up": Code(
        422,
        "No call of the batch was chosen; `left_out` counts the reasons.",
        "Choose other `outcomes`, add states with `include`, or wait.",
    ),
    "idempotency_key_reused": Code(
        422, "This `Idempotency-Key` was used before with other content.", "Use a new key for a new batch."
    ),
    "rate_limited": Code(429, "Too many requests.", "Wait for `Retry-After` seconds."),
    "internal_error": Code(
        500, "An unexpected error occurred.", "See the log. Before you send a batch again, check whether it was stored."
    ),
    "provider_refused": Code(
        502,
        "The provider refused every submission. The batch is stored as refused; nobody is called.",
        "See `provider_status` and `provider_error`, then queue it again as a new batch.",
    ),
    "database_unavailable": Code(
        503,
        "The database is unavailable. Callbacks are still stored.",
        "Wait for `Retry-After` seconds. Send a batch again only with the same `Idempotency-Key`.",
    ),
}

EVERYWHERE = (
    "unauthorized",
    "not_acceptable",
    "invalid_parameters",
    "rate_limited",
    "internal_error",
    "database_unavailable",
)
"""Codes of every operation under `/api/v1`. `method_not_allowed` belongs to no operation."""

OF_BODY = ("bad_request", "too_large", "unsupported_media_type")
"""Codes of every operation that has a body."""

OF_OPERATION = {
    "queue_batch": ("invalid_csv", "external_id_used", "idempotency_key_reused", "provider_refused"),
    "export_faulty_rows": ("invalid_csv",),
    "follow_up": (
        "invalid_csv",
        "external_id_used",
        "idempotency_key_reused",
        "nothing_to_follow_up",
        "provider_refused",
    ),
    "change_batch": ("external_id_used", "nothing_unreleased", "not_cut_by_zone"),
    "resolve_submission": ("not_in_doubt",),
    "resolve_batch": ("not_in_doubt",),
    "cancel_deployment": ("sending",),
    "suppress": ("invalid_csv",),
    "list_results": ("cursor_expired",),
    "list_callbacks": ("not_found",),
    "get_summary": ("not_found",),
    "get_breakdown": ("not_found",),
    "erase_number": ("in_use",),
    "purge": ("not_found", "not_ended"),
    "create_key": ("key_name_taken",),
}
"""Further codes of single operations."""

HEADERS = {
    "unauthorized": ("WWW-Authenticate",),
    "rate_limited": ("Retry-After",),
    "database_unavailable": ("Retry-After",),
}
"""Headers of the answers with these codes."""
