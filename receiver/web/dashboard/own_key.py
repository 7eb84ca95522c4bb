"""The API key that is entered to sign in, and once more before keys are made or revoked."""

from __future__ import annotations

import math

from flask import current_app

from receiver.database.api_keys import ApiKey, find_key
from receiver.database.pool import connection
from receiver.web.auth import current_key
from receiver.web.problems import Problem
from receiver.web.rate_limit import TokenBuckets, client_address
from receiver.web.services import services

FAILURES_A_MINUTE = 10
"""So often an address may enter a wrong key, in each web process, which counts for itself (receiver.web.rate_limit)."""

FAILURES = "receiver.failed_sign_ins"
"""Where the app keeps the count."""


def seconds_to_wait() -> float:
    """Until this address may enter a key again; 0.0: now."""
    failures: TokenBuckets = current_app.extensions[FAILURES]
    return failures.wait_seconds(client_address())


def find_entered_key(text: str) -> ApiKey | None:
    """The key that somebody entered; None, and counted as a failure, where it is unknown, revoked or expired."""
    with connection(services().pool) as conn:
        key = find_key(conn, text.strip())
    if key is None:
        _count_failure()
    return key


def check_own_key(text: str) -> str | None:
    """Whether the viewer entered their own key: None, or what is wrong. Raises Problem (429) after many failures.

    A copied session has no key: with it nobody can make a key that outlives it.
    """
    if (seconds := seconds_to_wait()) > 0:
        whole = math.ceil(seconds)
        raise Problem(
            "rate_limited",
            f"Too many wrong keys were entered from your address. Try again in {words(seconds)}.",
            headers={"Retry-After": str(whole)},
        )
    if not text.strip():
        return "Enter the API key that you signed in with."
    key = find_entered_key(text)
    if key is None:
        return "This is not the API key that you signed in with."
    if key.key_id != current_key().key_id:
        _count_failure()
        return "This is not the API key that you signed in with."
    return None


def words(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} second{'' if whole == 1 else 's'}"


def _count_failure() -> None:
    failures: TokenBuckets = current_app.extensions[FAILURES]
    failures.take(client_address())
