"""Charts as inline SVG: `split_bar` and `stacked_series`. See also `receiver.web.dashboard.timeline`.

    split_bar(counts, *, key, label)                              one batch's rows by state and outcome
    stacked_series(points, *, interval, time_zone, key, title)    results by time, outcomes stacked
    timeline(events, *, time_zone, key, title)                    one call: its attempts and waits, to scale

Each returns Markup. Every id in it begins with `key`, which must be unique on its page (`batch-42`). If the key stays
the same, a live page can update the chart in place. The style sheet sets colours as the `fill` of classes that are also
used for the swatches in texts: `outcome-completed`, `-failed`, `-canceled`, `-rejected`, `-other`; `state-pending`,
`-overdue`, `-refused`, `-skipped`. Lines have the class `chart-line`, text has `chart-text`. A `texture` distinguishes
outcomes without colours. There are no style attributes, because the content security policy forbids them. Text is
positioned in percent of the width, so that it keeps its size when the chart is stretched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

from receiver.model import OUTCOMES, Outcome
from receiver.summary.series import Interval
from receiver.web.dashboard.intervals import MOST_BARS, Bar, bars_of
from receiver.web.dashboard.wording import balance_sentence, counted, number, outcomes_sentence

# The outcomes and states of a row in drawing order: CSS class, top and height. States that have not ended are lower, so
# that progress is visible without colours.
_SEGMENTS: dict[str, tuple[str, float, float]] = {
    **{outcome: (f"outcome-{outcome}", 0, 10) for outcome in OUTCOMES},
    "overdue": ("state-overdue", 2, 6),
    "pending": ("state-pending", 3.5, 3),
    "refused": ("state-refused", 6, 4),
    "skipped": ("state-skipped", 8, 2),
}

_LEAST_WIDTH = 0.8
"""Percent: one call of a million must be visible."""

LEAST_SLOTS = 8

_TEXTURES: dict[Outcome, str] = {
    "failed": '<path class="texture" d="M0 6L6 0M-1 1L1 -1M5 7L7 5"/>',
    "canceled": '<circle class="texture-dot" cx="3" cy="3" r="1.2"/>',
    "rejected": '<path class="texture" d="M0 6L6 0M0 0L6 6"/>',
    "other": '<path class="texture" d="M0 3H6"/>',
}
"""Patterns over the colour of an outcome, in squares of six pixels. `completed` has none."""

_TOP, _MIDDLE, _BASE, _LABELS = 18, 74, 130, 150
"""Heights in pixels: top of the bars, middle, base line, and the times below."""

_HEIGHT = _BASE - _TOP


def split_bar(counts: Mapping[str, int], *, key: str, label: str) -> Markup:
    """A bar of one batch's rows: final by outcome, overdue, pending, refused, skipped.

    `counts` is a batch's (`rows`, `skipped`, `refused`, `pending`, `overdue`, `final`, and each outcome);
    `label` names it ("Batch 42"). The page must also show the figures as text.
    """
    parts = []
    at = 0.0
    shown = {name: counts[name] for name in _SEGMENTS if counts[name]}
    for name, width in zip(shown, _widths(list(shown.values())), strict=True):
        css_class, top, height = _SEGMENTS[name]
        parts.append(
            f'<rect class="{css_class}" x="{at:.2f}" y="{top}" width="{width - 0.2:.2f}" height="{height}">'
            f"<title>{number(shown[name])} {name}</title></rect>"
        )
        at += width
    description = balance_sentence(counts)
    if counts["final"]:
        description += " " + outcomes_sentence(counts)
    return svg(
        'class="split-bar" viewBox="0 0 100 10" width="100%" height="12" preserveAspectRatio="none"',
        key,
        label,
        description,
        "".join(parts) or '<rect class="state-pending" y="3.5" width="100" height="3"/>',
    )


def stacked_series(
    points: Sequence[Mapping[str, Any]], *, interval: Interval, time_zone: str, key: str, title: str
) -> Markup:
    """Results by time as stacked bars, with a legend, and a table of the same figures to open.

    `points`: as in `receiver.summary.series`, without gaps. Many points are combined (see `bars_of`).
    """
    if not any(point["final"] for point in points):
        return Markup('<p class="chart-empty">No results yet.</p>')
    bars, unit = bars_of(points, interval, ZoneInfo(time_zone))
    # Say so if another unit is shown than the viewer chose.
    instead = "" if unit == interval else _instead(interval, unit, len(points))
    present = [outcome for outcome in OUTCOMES if any(bar.counts[outcome] for bar in bars)]
    top = _round_up(max(bar.final for bar in bars))
    total = sum(bar.final for bar in bars)
    highest = max(bars, key=lambda bar: bar.final)
    description = (
        f"{counted(total, 'result')} in {counted(len(bars), 'bar')}, one for each {unit}, from {bars[0].name} to"
        f" {bars[-1].name}. The highest has {number(highest.final)} ({highest.name}). The table below has the figures."
    )
    drawing = svg(
        f'class="series" width="100%" height="{_LABELS + 6}"',
        key,
        title,
        description,
        _defs(bars, present, top, key)
        + _grid()
        + _stacks(present, key)
        + _heights(top, at_end=len(bars) < LEAST_SLOTS)
        + _hints(bars, present)
        + _times(bars),
    )
    return Markup(  # noqa: S704 only our own texts and numbers
        f'<figure class="chart" id="{key}">{drawing}<figcaption>{_legend(bars, present, key)}'
        f'<p class="chart-note">One bar for each {unit}, {escape(time_zone)}.{instead}</p></figcaption>'
        f"{_table(bars, present, key)}</figure>"
    )


def _instead(interval: Interval, unit: str, points: int) -> str:
    most = f"{MOST_BARS // 24} days" if interval == "hour" else f"{MOST_BARS} days"
    return (
        f" <strong>Not shown by {interval}</strong>: that would be {number(points)} bars. At most {most} are shown by"
        f" {interval}."
    )


def svg(attributes: str, key: str, title: str, description: str, drawing: str) -> Markup:
    """An SVG that is one image, with a title and a description for people who cannot see it."""
    return Markup(  # noqa: S704 texts from outside are escaped, the drawing has only numbers
        f'<svg {attributes} role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
        f"{drawing}</svg>"
    )


def at_moment(moment: datetime, time_zone: ZoneInfo) -> str:
    """`1 Mar 2026, 14:00:05`, the format of charts and their tables."""
    return f"{moment.astimezone(time_zone):%-d %b %Y, %H:%M:%S}"


def _widths(numbers: list[int]) -> list[float]:
    """The width of each part in percent, in total 100. Each is wide enough to be visible."""
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


def _defs(bars: Sequence[Bar], present: Sequence[Outcome], top: int, key: str) -> str:
    # A clip path in fractions is stretched with the page's width; the pattern that fills it is not.
    slot = 1 / _slots(bars)
    width = f"{slot * 0.82:.4f}"
    below = [0] * len(bars)
    parts = []
    for outcome in present:
        path = []
        for index, bar in enumerate(bars):
            if count := bar.counts[outcome]:
                below[index] += count
                path.append(
                    f"M{(index + 0.09) * slot:.4f} {1 - below[index] / top:.4f}h{width}v{count / top:.4f}h-{width}z"
                )
        parts.append(
            f'<clipPath id="{key}-{outcome}" clipPathUnits="objectBoundingBox"><path d="{"".join(path)}"/></clipPath>'
        )
        if outcome in _TEXTURES:
            parts.append(
                f'<pattern id="{key}-{outcome}-texture" width="6" height="6" patternUnits="userSpaceOnUse">'
                f"{_TEXTURES[outcome]}</pattern>"
            )
    return f"<defs>{''.join(parts)}</defs>"


def _slots(bars: Sequence[Bar]) -> int:
    """The number of places for bars. A few bars are not stretched over the whole width."""
    return max(len(bars), LEAST_SLOTS)


def _grid() -> str:
    return "".join(f'<line class="chart-line" x1="0" x2="100%" y1="{y}" y2="{y}"/>' for y in (_TOP, _MIDDLE, _BASE))


def _heights(top: int, *, at_end: bool) -> str:
    words = {_TOP: number(top)} | ({_MIDDLE: number(top // 2)} if top % 2 == 0 else {})
    # A few bars are at the beginning, so the numbers go to the end.
    place = 'x="100%" text-anchor="end"' if at_end else 'x="0"'
    return "".join(f'<text class="chart-text halo" {place} y="{y - 4}">{word}</text>' for y, word in words.items())


def _stacks(present: Sequence[Outcome], key: str) -> str:
    parts = []
    for outcome in present:
        place = f'x="0" y="{_TOP}" width="100%" height="{_HEIGHT}" clip-path="url(#{key}-{outcome})"'
        parts.append(f'<rect class="outcome-{outcome}" {place}/>')
        if outcome in _TEXTURES:
            parts.append(f'<rect fill="url(#{key}-{outcome}-texture)" {place}/>')
    return "".join(parts)


def _hints(bars: Sequence[Bar], present: Sequence[Outcome]) -> str:
    """The tooltip of each bar."""
    slot = 100 / _slots(bars)
    return "".join(
        f'<rect class="chart-hint" x="{index * slot:.2f}%" y="{_TOP}" width="{slot:.2f}%" height="{_HEIGHT}"'
        f' fill="transparent"><title>{bar.name}: '
        + ", ".join(f"{number(bar.counts[outcome])} {outcome}" for outcome in present if bar.counts[outcome])
        + "</title></rect>"
        for index, bar in enumerate(bars)
        if bar.final
    )


def _times(bars: Sequence[Bar]) -> str:
    slot = 100 / _slots(bars)
    words = [(0.0, "start", bars[0])]
    if len(bars) >= LEAST_SLOTS:
        middle = len(bars) // 2
        words += [((middle + 0.5) * slot, "middle", bars[middle]), (100.0, "end", bars[-1])]
    elif len(bars) > LEAST_SLOTS // 2:
        words.append((len(bars) * slot, "end", bars[-1]))
    return "".join(
        f'<text class="chart-text" x="{at:.4g}%" y="{_LABELS}" text-anchor="{anchor}">{bar.short_name}</text>'
        for at, anchor, bar in words
    )


def _legend(bars: Sequence[Bar], present: Sequence[Outcome], key: str) -> str:
    parts = []
    for outcome in present:
        texture = f'<rect fill="url(#{key}-{outcome}-texture)" width="14" height="14"/>' if outcome in _TEXTURES else ""
        parts.append(
            f'<li><svg class="swatch" width="14" height="14" aria-hidden="true">'
            f'<rect class="outcome-{outcome}" width="14" height="14"/>{texture}</svg> {outcome}'
            f" <b>{number(sum(bar.counts[outcome] for bar in bars))}</b></li>"
        )
    return f'<ul class="legend">{"".join(parts)}</ul>'


def _table(bars: Sequence[Bar], present: Sequence[Outcome], key: str) -> str:
    head = "".join(f'<th scope="col" class="figure">{outcome}</th>' for outcome in ("ended", *present))
    rows = "".join(
        f'<tr><th scope="row">{bar.name}</th><td class="figure">{number(bar.final)}</td>'
        + "".join(f'<td class="figure">{number(bar.counts[outcome])}</td>' for outcome in present)
        + "</tr>"
        for bar in bars
        if bar.final
    )
    return (
        f'<details id="{key}-figures"><summary>Figures as a table</summary><div class="scroll" tabindex="0"'
        f' role="region" aria-labelledby="{key}-title"><table><thead><tr><th scope="col">Time</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )
