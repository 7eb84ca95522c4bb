"""A chart of one call to scale: queueing, each attempt, and the waits between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup

from receiver.results.reading.call_events import Event
from receiver.results.reading.field_values import canonical
from receiver.web.dashboard.charts import at_moment, drawings
from receiver.web.dashboard.safe_text import visible
from receiver.web.dashboard.wording import counted, duration

MOST_DRAWN, MOST_UNTIMED, NAME_CHARACTERS = 60, 20, 40
"""Most events with a time, most events without one, most characters of a name. A call has about ten events."""

_LEAST_WIDTH = 0.5
"""Percent: five seconds of ringing must be visible among hours of waiting."""

_LABEL_ROOM = 4.0
"""Percent of the width for the number of an attempt. Attempts that are closer have no number."""

# The state of a call after an event, until the next one: CSS class, height in pixels, height in the legend.
_STATES = {
    "waiting": ("span-waiting", 2, 2),
    "ringing": ("span-ringing", 12, 8),
    "connected": ("span-connected", 22, 14),
}
_STATE_AFTER = {"dialing": "ringing", "connected": "connected"}


def timeline(events: Sequence[Event], *, time_zone: str, key: str, title: str) -> Markup:
    """A chart of the events with a time, and a table of all events in the order of their times.

    It is not known how long an unanswered attempt rang. So if `dialing` follows `dialing`, the attempt is a mark, and
    the time between is waiting.
    """
    if not events:
        return Markup('<p class="chart-empty">No event was reported.</p>')
    zone = ZoneInfo(time_zone)
    timed = [(event.at, event.event) for event in events if event.at is not None]
    timed.sort(key=lambda item: item[0])
    untimed = [event.event for event in events if event.at is None]
    moments = timed[:MOST_DRAWN]
    drawing = _drawing(moments, zone) if moments and moments[0][0] < moments[-1][0] else {}
    rows = _rows(moments, zone) + [
        (visible(name, NAME_CHARACTERS), "no readable time", "") for name in untimed[:MOST_UNTIMED]
    ]
    more = len(timed) - len(moments) + max(len(untimed) - MOST_UNTIMED, 0)
    drawn: Markup = drawings.timeline(key, title, rows, more, zone.key, **drawing)
    return drawn


def _drawing(moments: Sequence[tuple[datetime, str]], zone: ZoneInfo) -> dict[str, Any]:
    """The parts of the drawing, as templates/charts.html needs them. Places and widths are in percent."""
    first, last = moments[0][0], moments[-1][0]
    whole = (last - first).total_seconds()
    spans: list[dict[str, Any]] = []
    marks: list[tuple[float, int | None]] = []
    totals = dict.fromkeys(_STATES, 0.0)
    attempt, labelled = 0, -_LABEL_ROOM
    for (at, name), (until, follower) in zip(moments, [*moments[1:], (last, "")], strict=True):
        kind = canonical(name)
        x = 100 * (at - first).total_seconds() / whole
        if kind == "dialing":
            attempt += 1
            has_room = x - labelled >= _LABEL_ROOM
            labelled = x if has_room else labelled
            marks.append((x, attempt if has_room else None))
        lost = kind == "dialing" and canonical(follower) == "dialing"
        state = "waiting" if lost else _STATE_AFTER.get(kind, "waiting")
        seconds = (until - at).total_seconds()
        totals[state] += seconds
        if seconds > 0:
            css_class, height, _ = _STATES[state]
            width = max(100 * seconds / whole, _LEAST_WIDTH)
            span = {"class": css_class, "x": min(x, 100 - width), "width": width, "height": height}
            spans.append({**span, "state": state, "seconds": seconds})
    times = ", ".join(f"{state} {duration(seconds)}" for state, seconds in totals.items() if seconds)
    attempts = counted(attempt, "attempt")
    return {
        "description": f"{attempts} within {duration(whole)}: {times}. The table below lists each event.",
        "spans": spans,
        "marks": marks,
        "ends": _ends(first, last, zone),
        "legend": [
            (_STATES[state][0], _STATES[state][2], state, seconds) for state, seconds in totals.items() if seconds
        ],
    }


def _ends(first: datetime, last: datetime, zone: ZoneInfo) -> tuple[str, str]:
    """The times at both ends of the chart, short enough for a narrow page. The table contains the full times."""
    begins, ends = first.astimezone(zone), last.astimezone(zone)
    if begins.date() == ends.date():
        return at_moment(first, zone), f"{ends:%H:%M:%S}"
    return f"{begins:%-d %b, %H:%M:%S}", f"{ends:%-d %b, %H:%M:%S}"


def _rows(moments: Sequence[tuple[datetime, str]], zone: ZoneInfo) -> list[tuple[Markup, str, str]]:
    """Name, time, and time since the previous event."""
    before = [None, *(at for at, _ in moments)]
    return [
        (
            visible(name, NAME_CHARACTERS),
            at_moment(at, zone),
            f"+{duration((at - previous).total_seconds())}" if previous else "",
        )
        for (at, name), previous in zip(moments, before, strict=False)
    ]
