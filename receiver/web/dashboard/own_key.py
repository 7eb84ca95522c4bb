"""The API key that a person enters to sign in, and again before keys are made or revoked."""

from __future__ import annotations

import math

from flask import request

from receiver.database.api_keys import ApiKey, find_key
from receiver.database.pool import connection
from receiver.web.auth import current_key
from receiver.web.dashboard.wording import counted
from receiver.web.problems import Problem
from receiver.web.rate_limit import client_address
from receiver.web.services import services


def find_entered_key(text: str) -> ApiKey | None:
    """The key that was entered. None if it is unknown, revoked or expired; this counts as a failure."""
    with connection(services().pool) as conn:
        key = find_key(conn, text.strip())
    if key is None:
        services().failed_sign_ins.take(client_address())
    return key


def own_key_faults() -> dict[str, str]:
    """Check the form's `own_key`: the viewer's own key. Returns what is wrong, by field. Raises Problem (429).

    A person who copied a session does not know the key, and so cannot create a key that outlives the session.
    """
    if seconds := math.ceil(services().failed_sign_ins.wait_seconds(client_address())):
        raise Problem(
            "rate_limited",
            f"Too many wrong keys were entered from your address. Try again in {counted(seconds, 'second')}.",
            headers={"Retry-After": str(seconds)},
        )
    text = request.form.get("own_key", "")
    if not text.strip():
        return {"own_key": "Enter the API key that you signed in with."}
    key = find_entered_key(text)
    if key is not None and key.key_id == current_key().key_id:
        return {}
    if key is not None:
        services().failed_sign_ins.take(client_address())
    return {"own_key": "This is not the API key that you signed in with."}
