"""What may be read at a replica, where there is one: lists, sums and files, which is what reading costs.

One thing by its id is read at the primary, as are keys and sessions: that is cheap, and whoever queued or changed
something finds it at once. Somebody at a browser who changed something reads at the primary for as long as the
replica may not have it (receiver.web.dashboard.pages).
"""

from __future__ import annotations

from flask import Flask, Response, g

from receiver.counts import counts
from receiver.database.replica import Reader
from receiver.web.services import services

OWN_CHANGE = "own_change"
"""In `g`: who asks has just changed something."""

_READER = "reader"


def reader() -> Reader:
    """The reads of the answer to the current request; its headers say where the first of them came from."""
    found: Reader | None = g.get(_READER)
    if found is None:
        held = services()
        found = Reader(held.pool, held.replica, own_change=g.get(OWN_CHANGE, False))
        setattr(g, _READER, found)
    return found


def register(app: Flask) -> None:
    """Tell in the answers of this app where they were read, and count it; nothing where there is no replica."""
    app.after_request(_tell)


def _tell(response: Response) -> Response:
    found: Reader | None = g.get(_READER)
    if found is None or found.source is None:
        return response
    if found.source == "replica":
        response.headers["Read-From"] = "replica"
        response.headers["Replica-Lag"] = f"{found.lag_seconds:.1f}"
    else:
        response.headers["Read-From"] = "primary"

    def count() -> None:
        # Only when the last byte is sent: a file may end at the primary.
        if found.source is not None:
            counts.read(found.source)

    response.call_on_close(count)
    return response
