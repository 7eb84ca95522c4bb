"""Reads the events of a call, in every known form of a list, and the times of the call from them."""

from __future__ import annotations

from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

from receiver.results.reading.body_formats import read_text
from receiver.results.reading.field_values import canonical, folded, may_hold_fields, name_of, time_of
from receiver.results.reading.unreadable import UnreadableBody

MAX_EVENTS = 4096
"""The most events of a call. A call has about ten; about 1,500 with names and times fit into an uncompressed body."""

# Provider page, The callback. These spellings need no normalisation.
_DOCUMENTED_FIELDS = frozenset({"event", "timestamp"})
_DOCUMENTED_NAMES = frozenset({"queued", "dialing", "connected", "disconnected", "canceled"})

_MAX_WRAPPERS = 4  # a JSON text with a list in an element has three

Moment: TypeAlias = datetime | None


class Event(NamedTuple):
    """One step of a call: its name as sent, and its time in UTC (None if it could not be read)."""

    event: str
    at: Moment


def read_events(value: object) -> tuple[tuple[Event, ...], tuple[Moment, Moment, Moment, Moment]]:
    """The events in the order sent; and when the call was queued, connected and ended, and the time of its last event.

    Of events without a name, only the time is used. A retried call repeats `dialing` and may repeat other events: the
    earliest `queued` and `connected` count, and the latest `disconnected` or `canceled`. Raises UnreadableBody for more
    than MAX_EVENTS.
    """
    items = _items(value)
    if len(items) > MAX_EVENTS:
        raise UnreadableBody("too_many_items")
    events: list[Event] = []
    queued_at: Moment = None
    connected_at: Moment = None
    ended_at: Moment = None
    last_at: Moment = None
    for item in items:
        fields = item if type(item) is dict and _DOCUMENTED_FIELDS.issuperset(item) else _event_fields(item)
        name = kind = fields.get("event")
        if not (type(name) is str and name in _DOCUMENTED_NAMES):
            name = name_of(name)
            kind = canonical(name)
        at = time_of(fields.get("timestamp"))
        if name:
            events.append(Event(name, at))
        if at is None:
            continue
        if last_at is None or at > last_at:
            last_at = at
        if kind == "queued":
            queued_at = at if queued_at is None else min(queued_at, at)
        elif kind == "connected":
            connected_at = at if connected_at is None else min(connected_at, at)
        elif kind == "disconnected" or kind == "canceled":
            ended_at = at if ended_at is None else max(ended_at, at)
    return tuple(events), (queued_at, connected_at, ended_at, last_at)


def list_events(value: object, most: int | None = None) -> tuple[tuple[Event, ...], int]:
    """The first `most` events in the order sent (None: all), and how many there are. Other events are only counted."""
    events: list[Event] = []
    total = 0
    for item in _items(value):
        fields = _event_fields(item)
        if name := name_of(fields.get("event")):
            total += 1
            if most is None or total <= most:
                events.append(Event(name, time_of(fields.get("timestamp"))))
    return tuple(events), total


def _event_fields(item: object) -> dict[str, object]:
    if isinstance(item, dict):
        return folded(item)
    if isinstance(item, str):
        value = _read_or_none(item) if may_hold_fields(item) else {"event": item}
        return folded(value) if isinstance(value, dict) else {}
    return {}


def _items(value: object) -> list[object]:
    """The events as a list: from a list, a numbered object, JSON text, XML elements or a single event."""
    for _ in range(_MAX_WRAPPERS):
        if isinstance(value, list):
            return value
        if isinstance(value, str):
            value = _read_or_none(value)
        elif isinstance(value, dict):
            fields = folded(value)
            if (numbered := _numbered(fields)) is not None:
                return numbered
            if "event" in fields:
                names = _listed(fields["event"])
                if not any(isinstance(name, str) for name in names):
                    return names  # <events><event>…</event><event>…</event></events>
                # One event, or a list of names and a list of times (events[event][]=…).
                columns = zip_longest(names, _listed(fields.get("timestamp")))
                return [{"event": name, "timestamp": at} for name, at in columns]
            if len(fields) != 1:
                return []
            (value,) = fields.values()  # <events><item>…</item></events>
        else:
            return []
    return []


def _listed(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and (numbered := _numbered(value)) is not None:
        return numbered
    return [value]


def _numbered(fields: dict[str, object]) -> list[object] | None:
    """The values in order if every name is a number, as PHP writes lists; else None."""
    if not fields or not all(name.isdecimal() and len(name) < 10 for name in fields):
        return None
    return [fields[name] for name in sorted(fields, key=int)]


def _read_or_none(text: str) -> object:
    """The values in a field's text; None if it cannot be read, because a result may have no events.

    Raises UnreadableBody if there are too many: the times of the result would be wrong without them.
    """
    try:
        return read_text(text)
    except UnreadableBody as unreadable:
        if unreadable.code == "too_many_items":
            raise
        return None
