"""Calls and batches as the API and NDJSON write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from receiver.intake.packing import unpack
from receiver.model import rfc3339
from receiver.results.reading.call_details import Event, UnreadableBody, read_call_events
from receiver.summary.batches import Batch
from receiver.summary.calls import Call
from receiver.text.csv_line import read_csv_line

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
    return encode(members | more)


def batch_json(batch: Batch) -> str:
    """A batch as JSON. `submissions` is JSON text already."""
    members = {name: getattr(batch, name) for name in _BATCH_MEMBERS} | {"submissions_json": None}
    return encode(members).replace('"submissions_json":null', f'"submissions":{batch.submissions_json}', 1)


class OwnMembers:
    """Writes lines of the user's CSV as the members `destination` and `variables`."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._names = [encode(name) for name in columns]
        cells = ",".join(f'{name.replace("%", "%%")}:"%s"' for name in self._names)
        self._plain = f'"destination":"%s","variables":{{{cells}}}'

    def write(self, line: str) -> str:
        if line.isprintable() and '"' not in line and "\\" not in line:
            return self._plain % tuple(line.split(","))  # nothing is quoted, and nothing needs an escape
        destination, *cells = map(encode, read_csv_line(line))
        variables = ",".join(f"{name}:{cell}" for name, cell in zip(self._names, cells, strict=True))
        return f'"destination":{destination},"variables":{{{variables}}}'


def events_of_body(
    packing: int | None, content_type: str | None, content_encoding: str | None, packed: bytes | None
) -> str:
    """The members `events` and `events_total` of the call that a stored callback is about, or without one."""
    if packing is None or packed is None:
        return NO_EVENTS
    body = unpack(packing, packed)
    if (found := _find_usual_events(body)) is not None:
        return found
    try:
        return events_json(*read_call_events(body, content_type or "", content_encoding or "", most=LISTED_EVENTS))
    except UnreadableBody:
        return NO_EVENTS


def events_json(events: Iterable[Event], total: int) -> str:
    """The members `events` and `events_total`."""
    return f',"events":{encode([event._asdict() for event in events])},"events_total":{total}'


_find_usual = re.compile(r'\{"event": ?"([A-Za-z0-9_]{1,200})", ?"timestamp": ?([1-9][0-9]{8,9})\}').findall


def _find_usual_events(body: bytes) -> str | None:
    """What `read_call_events` would find in a body of the documented shape, in a quarter of the time. None: the body
    may have another shape.
    """
    text = body.decode(errors="replace")
    begin = text.find('"events":')
    listed = text[begin : text.find("]", begin)]
    events = _find_usual(listed)
    count = len(events)
    # The events have all brackets of the body but the outer ones, and all commas in their list. So this is a member of
    # a flat object, and without escapes and `<`, no text in it can wrap the details of another call.
    if not (
        0 < count <= LISTED_EVENTS
        and text[0] == "{"
        and text.count("{") == count + 1
        and text.count("[") == 1
        and listed.count(",") == 2 * count - 1
        and "\\" not in text
        and "<" not in text
        and text.lower().count("events") == 1
    ):
        return None
    members = ",".join([f'{{"event":"{name}","at":"{_moment(seconds)}"}}' for name, seconds in events])
    return f',"events":[{members}],"events_total":{count}'


@lru_cache(maxsize=100_000)
def _moment(seconds: str) -> str:
    """Cached, because the events of a campaign are within a day."""
    return rfc3339(datetime.fromtimestamp(int(seconds), UTC))


_BATCH_MEMBERS = tuple(field.name for field in fields(Batch) if field.name != "left_out")
_MEMBERS = tuple(field.name for field in fields(Call) if field.name != "result_body")


def _member(value: object) -> str:
    assert isinstance(value, datetime)  # noqa: S101 a call holds nothing else that JSON does not
    return rfc3339(value)


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_member).encode
"""Writes members as JSON."""

NO_EVENTS = events_json((), 0)
