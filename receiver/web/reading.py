"""Reads that a replica may answer: lists, sums and exports, which are the expensive ones.

A single object, keys and sessions are read from the primary: this is cheap, and a change is visible at once. After a
change in the dashboards, the same session reads from the primary until the replica has the change
(receiver.web.dashboard.pages).
"""

from __future__ import annotations

from flask import Flask, Response, g

from receiver.counts import counts
from receiver.database.replica import Reader
from receiver.web.services import services

OWN_CHANGE = "own_change"
"""In `g`: whether this session has just changed something."""

_READER = "reader"


def reader() -> Reader:
    """The reader for the current request. Its answer's headers name the database of the first read."""
    found: Reader | None = g.get(_READER)
    if found is None:
        held = services()
        found = Reader(held.pool, held.replica, own_change=g.get(OWN_CHANGE, False))
        setattr(g, _READER, found)
    return found


def primary() -> Reader:
    """A reader that never uses the replica."""
    return Reader(services().pool)


def register(app: Flask) -> None:
    """Add the name of the database that was read to each answer, and count it. Without a replica, nothing is added."""
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    found: Reader | None = g.get(_READER)
    if found is None or found.source is None:
        return response
    if found.source == "replica":
        response.headers["Read-From"] = "replica"
        response.headers["Replica-Lag"] = f"{found.lag_seconds:.1f}"
    else:
        response.headers["Read-From"] = "primary"

    def count() -> None:
        # After the last byte: an export may continue at the primary.
        if found.source is not None:
            counts.read(found.source)

    response.call_on_close(count)
    return response
