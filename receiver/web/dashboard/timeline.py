"""A chart of one call to scale: queueing, each attempt, and the waits between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from markupsafe import Markup

from receiver.results.reading.call_details import Event
from receiver.results.reading.field_values import canonical
from receiver.web.dashboard.charts import at_moment, svg
from receiver.web.dashboard.safe_text import visible
from receiver.web.dashboard.wording import counted, duration

MOST_DRAWN, MOST_UNTIMED, NAME_CHARACTERS = 60, 20, 40
"""Most events with a time, most events without one, most characters of a name. A call has about ten events."""

_TRACK = 44
"""Pixels from the top to the base line."""

_LEAST_WIDTH = 0.5
"""Percent: five seconds of ringing must be visible among hours of waiting."""

_LABEL_ROOM = 4.0
"""Percent of the width for the number of an attempt. Attempts that are closer have no number."""

# The state of a call after an event, until the next one: CSS class, height in pixels, name.
_AFTER = {
    "dialing": ("span-ringing", 12, "ringing"),
    "connected": ("span-connected", 22, "connected"),
}
_WAITING = ("span-waiting", 2, "waiting")


def timeline(events: Sequence[Event], *, time_zone: str, key: str, title: str) -> Markup:
    """A chart of the events with a time, and a table of all events in the order of their times.

    It is not known how long an unanswered attempt rang. So if `dialing` follows `dialing`, the attempt is a mark, and
    the time between is waiting.
    """
    zone = ZoneInfo(time_zone)
    timed = sorted(
        ((event.at, index, event.event) for index, event in enumerate(events) if event.at is not None),
        key=lambda item: item[:2],
    )
    untimed = [event.event for event in events if event.at is None]
    if not events:
        return Markup('<p class="chart-empty">No event was reported.</p>')
    moments = [(at, name) for at, _, name in timed[:MOST_DRAWN]]
    drawing = _drawing(moments, zone, key, title) if len(moments) > 1 and moments[0][0] < moments[-1][0] else ""
    left = len(timed) - len(moments) + max(len(untimed) - MOST_UNTIMED, 0)
    return Markup('<figure class="chart timeline" id="{}">{}{}{}</figure>').format(
        key,
        drawing,
        _table(moments, untimed[:MOST_UNTIMED], zone),
        Markup("<p>And {}.</p>").format(counted(left, "more event")) if left else "",
    )


def _drawing(moments: Sequence[tuple[datetime, str]], zone: ZoneInfo, key: str, title: str) -> Markup:
    first, last = moments[0][0], moments[-1][0]
    whole = (last - first).total_seconds()

    def place(at: datetime) -> float:
        return 100 * (at - first).total_seconds() / whole

    spans, marks, seconds = [], [], dict.fromkeys(("waiting", "ringing", "connected"), 0.0)
    attempt, labelled = 0, -_LABEL_ROOM
    for (at, name), (until, follower) in zip(moments, [*moments[1:], (last, "")], strict=True):
        kind = canonical(name)
        x = place(at)
        if kind == "dialing":
            attempt += 1
            marks.append(f'<line class="mark" x1="{x:.2f}%" x2="{x:.2f}%" y1="{_TRACK - 16}" y2="{_TRACK + 12}"/>')
            if x - labelled >= _LABEL_ROOM:
                labelled = x
                anchor = "start" if x < 50 else "end"
                marks.append(
                    f'<text class="chart-text" x="{x:.2f}%" y="{_TRACK - 22}" text-anchor="{anchor}">{attempt}</text>'
                )
        lost = kind == "dialing" and canonical(follower) == "dialing"
        css_class, height, does = _WAITING if lost else _AFTER.get(kind, _WAITING)
        seconds[does] += (until - at).total_seconds()
        if until > at:
            width = max(place(until) - x, _LEAST_WIDTH)
            spans.append(
                f'<rect class="{css_class}" x="{min(x, 100 - width):.2f}%" y="{_TRACK - height / 2:g}"'
                f' width="{width:.2f}%" height="{height}"><title>{does}: {duration((until - at).total_seconds())}'
                "</title></rect>"
            )
    totals = ", ".join(f"{does} {duration(taken)}" for does, taken in seconds.items() if taken)
    description = f"{counted(attempt, 'attempt')} within {duration(whole)}: {totals}. The table below lists each event."
    ends = "".join(
        f'<text class="chart-text" x="{x}%" y="{_TRACK + 34}" text-anchor="{anchor}">{words}</text>'
        for (x, anchor), words in zip(((0, "start"), (100, "end")), _ends(first, last, zone), strict=True)
    )
    legend = "".join(
        f'<li><svg class="swatch" width="14" height="14" aria-hidden="true">'
        f'<rect class="{css_class}" y="{7 - height / 2:g}" width="14" height="{height}"/></svg>'
        f" {does} <b>{duration(seconds[does])}</b></li>"
        for css_class, height, does in (_WAITING, ("span-ringing", 8, "ringing"), ("span-connected", 14, "connected"))
        if seconds[does]
    )
    return svg(
        f'class="series" width="100%" height="{_TRACK + 40}"', key, title, description, "".join(spans + marks) + ends
    ) + Markup(f'<figcaption><ul class="legend">{legend}</ul></figcaption>')  # noqa: S704 our own words and numbers


def _ends(first: datetime, last: datetime, zone: ZoneInfo) -> tuple[str, str]:
    """The times at both ends of the chart, short enough for a narrow page. The table has the full times."""
    begins, ends = first.astimezone(zone), last.astimezone(zone)
    if begins.date() == ends.date():
        return at_moment(first, zone), f"{ends:%H:%M:%S}"
    return f"{begins.day} {begins:%b, %H:%M:%S}", f"{ends.day} {ends:%b, %H:%M:%S}"


def _table(moments: Sequence[tuple[datetime, str]], untimed: Sequence[str], zone: ZoneInfo) -> Markup:
    rows = []
    before: datetime | None = None
    for at, name in moments:
        later = "" if before is None else f"+{duration((at - before).total_seconds())}"
        rows.append((visible(name, NAME_CHARACTERS), at_moment(at, zone), "After" if later else "", later))
        before = at
    rows += [(visible(name, NAME_CHARACTERS), "no readable time", "", "") for name in untimed]
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th><td>{}</td><td class="figure" data-label="{}">{}</td></tr>').format(*row)
        for row in rows
    )
    return Markup(
        '<table class="stack events"><thead><tr><th scope="col">Event</th><th scope="col">Time, {}</th>'
        '<th scope="col" class="figure">After</th></tr></thead><tbody>{}</tbody></table>'
    ).format(zone.key, body)
