"""Charts as inline SVG: `split_bar` and `stacked_series`. See also `receiver.web.dashboard.timeline`.

    split_bar(counts, *, key, label)                              one batch's calls by state and outcome
    stacked_series(points, *, interval, time_zone, key, title)    results by time, outcomes stacked
    timeline(events, *, time_zone, key, title)                    one call: its attempts and waits, to scale

Each returns Markup. This code computes the values; templates/charts.html draws them. Every id in it begins with `key`,
which must be unique on its page (`batch-42`). If the key stays the same, a live page can update the chart in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from receiver.model import OUTCOMES, Outcome
from receiver.web.dashboard.intervals import MOST_BARS, Bar, ChartInterval, bars_of
from receiver.web.dashboard.wording import balance_sentence, counted, duration, number, outcomes_sentence, percent

# A separate environment, so that a chart can be drawn without an application.
_environment = Environment(loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=True)
_environment.filters |= {"counted": counted, "duration": duration, "number": number, "percent": percent}
drawings: Any = _environment.get_template("charts.html").module

# The outcomes and states of a row in drawing order: CSS class, top and height. States that have not ended are lower, so
# that progress is visible without colours.
_SEGMENTS: dict[str, tuple[str, float, float]] = {
    **{outcome: (f"outcome-{outcome}", 0, 10) for outcome in OUTCOMES},
    "overdue": ("state-overdue", 2, 6),
    "pending": ("state-pending", 3.5, 3),
    "refused": ("state-refused", 6, 4),
    "withdrawn": ("state-withdrawn", 7, 3),
}

_LEAST_WIDTH = 0.8
"""Percent: one call of a million must be visible."""

LEAST_SLOTS = 8
"""Places for bars in a series. A few bars are not stretched over the whole width."""

_TEXTURES: dict[Outcome, Markup] = {
    "failed": Markup('<path class="texture" d="M0 6L6 0M-1 1L1 -1M5 7L7 5"/>'),
    "canceled": Markup('<circle class="texture-dot" cx="3" cy="3" r="1.2"/>'),
    "rejected": Markup('<path class="texture" d="M0 6L6 0M0 0L6 6"/>'),
    "other": Markup('<path class="texture" d="M0 3H6"/>'),
}
"""Patterns over the colour of an outcome, in squares of six pixels. `completed` has none."""


def split_bar(counts: Mapping[str, int], *, key: str, label: str) -> Markup:
    """A bar of one batch's calls: final by outcome, overdue, pending, refused, withdrawn. Skipped rows are left out.

    `counts` is a batch's (`receiver.summary.batches`); `label` names it ("Batch 42"). The page must also show the
    figures as text.
    """
    parts: list[dict[str, Any]] = []
    x = 0.0
    shown = {name: counts[name] for name in _SEGMENTS if counts[name]}
    for name, width in zip(shown, _widths(list(shown.values())), strict=True):
        css_class, y, height = _SEGMENTS[name]
        title = f"{number(shown[name])} {name}"
        parts.append({"class": css_class, "x": x, "y": y, "width": width, "height": height, "title": title})
        x += width
    description = balance_sentence(counts)
    if counts["final"]:
        description += " " + outcomes_sentence(counts)
    drawn: Markup = drawings.split_bar(parts, key, label, description)
    return drawn


def stacked_series(
    points: Sequence[Mapping[str, Any]], *, interval: ChartInterval, time_zone: str, key: str, title: str
) -> Markup:
    """Results by time as stacked bars, with a legend, and a table of the same figures to open.

    `points`: as in `receiver.summary.series`, without gaps. Many points are combined (see `bars_of`).
    """
    if not any(point["final"] for point in points):
        return Markup('<p class="chart-empty">No results yet.</p>')
    bars, unit = bars_of(points, interval, ZoneInfo(time_zone))
    slots = max(len(bars), LEAST_SLOTS)
    top = _round_up(max(bar.final for bar in bars))
    total = sum(bar.final for bar in bars)
    highest = max(bars, key=lambda bar: bar.final)
    description = (
        f"{counted(total, 'result')} in {counted(len(bars), 'bar')}, one for each {unit}, from {bars[0].name} to"
        f" {bars[-1].name}. The highest has {number(highest.final)} ({highest.name}). The table below has the figures."
    )
    note = Markup("One bar for each {}, {}.").format(unit, time_zone)
    if unit != interval:
        most = f"{MOST_BARS // 24} days" if interval == "hour" else f"{MOST_BARS} days"
        note += Markup(
            " <strong>Not shown by {0}</strong>: that would be {1} bars. At most {2} are shown by {0}."
        ).format(interval, number(len(points)), most)
    drawn: Markup = drawings.stacked_series(
        key, title, description, bars, slots, _paths(bars, slots, top), _TEXTURES, top, _times(bars, slots), note
    )
    return drawn


def at_moment(moment: datetime, time_zone: ZoneInfo) -> str:
    """`1 Mar 2026, 14:00:05`, the format of charts and their tables."""
    return f"{moment.astimezone(time_zone):%-d %b %Y, %H:%M:%S}"


def _widths(numbers: list[int]) -> list[float]:
    """The width of each part in percent, 100 in total. Each part is wide enough to be visible."""
    whole = sum(numbers)
    wide = [max(100 * count / whole, _LEAST_WIDTH) for count in numbers]
    return [100 * width / sum(wide) for width in wide]


def _round_up(count: int) -> int:
    """The next round number for the top of an axis that can be halved."""
    size = 1
    while True:
        for step in (1, 2, 4, 6, 8):
            if count <= step * size:
                return step * size
        size *= 10


def _paths(bars: Sequence[Bar], slots: int, top: int) -> dict[Outcome, str]:
    """The bars of each outcome that occurs, stacked, as an SVG path in fractions of the drawing."""
    width = f"{0.82 / slots:.4f}"
    below = [0] * len(bars)
    paths: dict[Outcome, str] = {}
    for outcome in OUTCOMES:
        for index, bar in enumerate(bars):
            if count := bar.counts[outcome]:
                below[index] += count
                x, y, height = (index + 0.09) / slots, 1 - below[index] / top, count / top
                paths[outcome] = paths.get(outcome, "") + f"M{x:.4f} {y:.4f}h{width}v{height:.4f}h-{width}z"
    return paths


def _times(bars: Sequence[Bar], slots: int) -> list[tuple[float, str, Bar]]:
    """Bars whose times are written below them: place in percent, text anchor, bar."""
    times = [(0.0, "start", bars[0])]
    if len(bars) == slots:
        middle = len(bars) // 2
        times += [((middle + 0.5) * 100 / slots, "middle", bars[middle]), (100.0, "end", bars[-1])]
    elif len(bars) > slots // 2:
        times.append((len(bars) * 100 / slots, "end", bars[-1]))
    return times
