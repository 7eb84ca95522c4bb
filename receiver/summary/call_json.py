"""Calls and batches as the API and NDJSON write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from receiver.intake.packing import unpack
from receiver.model import rfc3339
from receiver.results.reading.call_details import read_call_events
from receiver.results.reading.call_events import Event
from receiver.results.reading.unreadable import UnreadableBody
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


def batch_json(batch: Batch, **more: Any) -> str:
    """A batch as JSON, and `more` members at the end. `submissions` is JSON text already."""
    members = {name: getattr(batch, name) for name in _BATCH_MEMBERS} | {"submissions_json": None}
    return encode(members | more).replace('"submissions_json":null', f'"submissions":{batch.submissions_json}', 1)


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


MOST_USUAL = 2_000
"""A longer body is parsed as JSON."""

MOST_SHAPES, MOST_MOMENTS = 1_000, 100_000

_DIGITS = b"0123456789"
_EVENT = rb'\{"event": ?"([A-Za-z_]{1,200})", ?"timestamp": ?\}'
_list_events = re.compile(_EVENT).finditer
_is_usual = re.compile(rb'\{[^][{}\\<]*"events": ?\[((?:%s, ?)*%s)\][^][{}\\<]*\}' % (_EVENT, _EVENT)).fullmatch


class _Shapes(dict[bytes, tuple[str, list[slice], int] | None]):
    """What bodies without their digits have in common: how their events are written, with `%s` for each time; where the
    times are, counted from the events; and where the list ends. None: bodies of this shape must be parsed.

    A usual body is one flat object. Without escapes and `<`, no text in it can wrap the details of another call.
    """

    def __missing__(self, shape: bytes) -> tuple[str, list[slice], int] | None:
        usual, found = None, _is_usual(shape)
        if found is not None and shape.lower().count(b"events") == 1:
            begin = shape.index(b'"events"')
            events = list(_list_events(shape))
            if len(events) <= LISTED_EVENTS:
                ends = [each.end() - 1 - begin + 10 * place for place, each in enumerate(events)]
                members = ",".join([f'{{"event":"{each[1].decode()}","at":"%s"}}' for each in events])
                written = f',"events":[{members}],"events_total":{len(events)}'
                usual = written, [slice(end, end + 10) for end in ends], ends[-1] + 11
        if len(self) >= MOST_SHAPES:
            self.clear()
        self[shape] = usual
        return usual


class _Moments(dict[bytes, str]):
    """Times by their ten digits. Kept, because the events of a campaign are within a day. Raises ValueError."""

    def __missing__(self, seconds: bytes) -> str:
        if not seconds.isdigit() or seconds.startswith(b"0"):
            raise ValueError(seconds)
        if len(self) >= MOST_MOMENTS:
            self.clear()
        moment = self[seconds] = rfc3339(datetime.fromtimestamp(int(seconds), UTC))
        return moment


_shapes, _moments = _Shapes(), _Moments()


def _find_usual_events(body: bytes) -> str | None:
    """What `read_call_events` would find in a body of the documented shape, in a fraction of the time. None: the body
    may have another shape.
    """
    if len(body) > MOST_USUAL or (usual := _shapes[body.translate(None, _DIGITS)]) is None:
        return None
    written, times, end = usual
    begin = body.find(b'"events"')
    listed = body[begin : begin + end + 1]
    # If there are digits elsewhere, or other than ten, a time or the end of the list is not at its place.
    if begin < 0 or listed[end:] != b"]":
        return None
    try:
        return written % tuple([_moments[listed[each]] for each in times])
    except ValueError:
        return None


_BATCH_MEMBERS = tuple(field.name for field in fields(Batch) if field.name != "left_out")
_MEMBERS = tuple(field.name for field in fields(Call) if field.name != "result_body")


def _member(value: object) -> str:
    assert isinstance(value, datetime)  # noqa: S101 a call holds nothing else that JSON does not
    return rfc3339(value)


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_member).encode
"""Writes members as JSON."""

NO_EVENTS = events_json((), 0)
