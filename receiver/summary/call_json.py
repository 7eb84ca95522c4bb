"""A call as the API and NDJSON write it."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime
from typing import Any

from receiver.model import rfc3339
from receiver.summary.calls import Call

LISTED_EVENTS = 50
"""Most events of a call in lists and files: the first ones. `events_total` counts all. A call has about ten."""


def call_json(call: Call, *, most_events: int | None = LISTED_EVENTS, **more: Any) -> str:
    """A call as JSON on one line, with its first `most_events` events (None: all), and `more` members at the end."""
    events, total = call.read_events(most_events)
    members: dict[str, Any] = {}
    for name in _MEMBERS:
        if name == "result_received_at":
            members |= {"events": [event._asdict() for event in events], "events_total": total}
        members[name] = getattr(call, name)
    return _json.encode(members | more)


_MEMBERS = tuple(field.name for field in fields(Call) if field.name != "result_body")


def _member(value: object) -> str:
    assert isinstance(value, datetime)  # noqa: S101 a call holds nothing else that JSON does not
    return rfc3339(value)


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_member)
