"""Every failure of the API by its code: when it comes, and what to do then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    status: int
    when: str
    remedy: str


CODES: Mapping[str, Code] = {
    "bad_request": Code(400, "The request cannot be read.", "Correct how it is sent; its body broke off, say."),
    "unauthorized": Code(401, "There is no key, or it is unknown, revoked or expired.", "Send a valid key."),
    "forbidden": Code(403, "The key's scope does not allow this.", "Use a key of the scope that `detail` names."),
    "not_found": Code(404, "There is no such thing.", "Check the address; it may have been purged."),
    "method_not_allowed": Code(405, "This address does not take this method.", "Use one that `Allow` names."),
    "not_acceptable": Code(406, "`Accept` excludes what this address answers.", "Allow the type that `detail` names."),
    "too_large": Code(413, "The body is larger than is taken.", "Send the CSV as several batches."),
    "unsupported_media_type": Code(415, "The body is of another type than is taken.", "Send what `detail` names."),
    "invalid_parameters": Code(
        422, "Parameters cannot be taken; `errors` names each.", "Correct them. Nothing was stored, nothing sent."
    ),
    "invalid_csv": Code(
        422,
        "The CSV cannot be taken; `errors` names each row.",
        "Correct it, or leave such rows out with `on_invalid=skip`. Nothing was stored, nothing sent.",
    ),
    "idempotency_key_reused": Code(
        422, "This `Idempotency-Key` came before, with other content.", "Use a new key for a new batch."
    ),
    "rate_limited": Code(429, "Too many requests.", "Wait for `Retry-After` seconds."),
    "internal_error": Code(
        500, "Something failed that should not have.", "Look at the log; before you send a batch again, look for it."
    ),
    "provider_refused": Code(
        502,
        "The provider refused every submission. The batch is kept as refused; nobody is called.",
        "Read `provider_status` and `provider_error`; queue it again as a new batch.",
    ),
    "database_unavailable": Code(
        503,
        "The database cannot be used now. Callbacks are stored all the same.",
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
"""What any request under `/api/v1` may be answered. `method_not_allowed` belongs to no operation."""

OF_OPERATION: Mapping[str, tuple[str, ...]] = {
    "queue_batch": (
        "bad_request",
        "too_large",
        "unsupported_media_type",
        "invalid_csv",
        "idempotency_key_reused",
        "provider_refused",
    ),
    "replay_callbacks": ("bad_request", "too_large", "unsupported_media_type"),
}
"""What an operation may be answered besides."""

HEADERS: Mapping[str, tuple[str, ...]] = {
    "unauthorized": ("WWW-Authenticate",),
    "rate_limited": ("Retry-After",),
    "database_unavailable": ("Retry-After",),
}
"""What goes with the answer."""
