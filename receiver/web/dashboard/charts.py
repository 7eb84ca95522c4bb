"""Charts as inline SVG: `split_bar` and `stacked_series`; one call's is in `receiver.web.dashboard.timeline`.

    split_bar(counts, *, key, label)                              one batch's rows, by what became of them
    stacked_series(points, *, interval, time_zone, key, title)    results by time, outcomes stacked
    timeline(events, *, time_zone, key, title)                    one call: its attempts and waits, to scale

Each returns Markup. `key` begins every id in it, so it must be unique on its page (`batch-42`); one that stays
the same lets a live page change the chart in place. Colours come from the styles, as the `fill` of the
classes that the swatches in a page's text share: `outcome-completed`, `-failed`, `-canceled`, `-rejected`,
`-other`; `state-pending`, `-overdue`, `-refused`, `-skipped`. Lines are `chart-line`, words `chart-text`; a
`texture` tells outcomes apart where colours do not. No style attribute, which the content security policy forbids;
words stand at percentages of the width, so that they keep their size while the drawing is stretched.
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

# What a row can have come to, in the order of drawing: its class, and the top and height of its mark. The marks
# of what has not ended are lower than the others, so that progress shows without colour.
_SEGMENTS: dict[str, tuple[str, float, float]] = {
    **{outcome: (f"outcome-{outcome}", 0, 10) for outcome in OUTCOMES},
    "overdue": ("state-overdue", 2, 6),
    "pending": ("state-pending", 3.5, 3),
    "refused": ("state-refused", 6, 4),
    "skipped": ("state-skipped", 8, 2),
}

_LEAST_WIDTH = 0.8
"""Percent: one call of a million is to be seen."""

LEAST_SLOTS = 8

_TEXTURES: dict[Outcome, str] = {
    "failed": '<path class="texture" d="M0 6L6 0M-1 1L1 -1M5 7L7 5"/>',
    "canceled": '<circle class="texture-dot" cx="3" cy="3" r="1.2"/>',
    "rejected": '<path class="texture" d="M0 6L6 0M0 0L6 6"/>',
    "other": '<path class="texture" d="M0 3H6"/>',
}
"""Drawn over the colour of an outcome, in squares of six pixels; `completed` has none."""

_TOP, _MIDDLE, _BASE, _LABELS = 18, 74, 130, 150
"""Pixels of the series: where its bars may begin, half of that, where they stand, and their times below."""

_HEIGHT = _BASE - _TOP


def split_bar(counts: Mapping[str, int], *, key: str, label: str) -> Markup:
    """A bar of one batch's rows: final by outcome, overdue, pending, refused, skipped.

    `counts` is a batch's (`rows`, `skipped`, `refused`, `pending`, `overdue`, `final`, and each outcome);
    `label` names it ("Batch 42"). Put the figures beside it in words, too.
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
    """Results by time as stacked bars, with a legend, and a table of the same figures to unfold.

    `points` are those of `receiver.summary.series`, none left out; many are put together (see `bars_of`).
    """
    if not any(point["final"] for point in points):
        return Markup('<p class="chart-empty">No results yet.</p>')
    bars, unit = bars_of(points, interval, ZoneInfo(time_zone))
    # Never silently: whoever chose hours must not take days for them.
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
    return Markup(  # noqa: S704 our own words and numbers only
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
    """An SVG that is one image with a name and a description for those who do not see it."""
    return Markup(  # noqa: S704 words from elsewhere are escaped, the drawing is made of numbers
        f'<svg {attributes} role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
        f"{drawing}</svg>"
    )


def at_moment(moment: datetime, time_zone: ZoneInfo) -> str:
    """`1 Mar 2026, 14:00:05`, as charts and their tables write it."""
    local = moment.astimezone(time_zone)
    return f"{local.day} {local:%b %Y, %H:%M:%S}"


def _widths(numbers: list[int]) -> list[float]:
    """Percent of each, together 100, none narrower than can be seen."""
    whole = sum(numbers)
    wide = [max(100 * count / whole, _LEAST_WIDTH) for count in numbers]
    return [100 * width / sum(wide) for width in wide]


def _round_up(count: int) -> int:
    """The next number that is pleasant at the top of an axis, and halves."""
    size = 1
    while True:
        for step in (1, 2, 4, 6, 8):
            if count <= step * size:
                return step * size
        size *= 10


def _defs(bars: Sequence[Bar], present: Sequence[Outcome], top: int, key: str) -> str:
    # A path in fractions of what it clips is stretched with the page's width; what fills it is not.
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
    """Places for bars, the first ones taken: a few bars are not stretched over all of the width."""
    return max(len(bars), LEAST_SLOTS)


def _grid() -> str:
    return "".join(f'<line class="chart-line" x1="0" x2="100%" y1="{y}" y2="{y}"/>' for y in (_TOP, _MIDDLE, _BASE))


def _heights(top: int, *, at_end: bool) -> str:
    words = {_TOP: number(top)} | ({_MIDDLE: number(top // 2)} if top % 2 == 0 else {})
    # Few bars stand at the beginning, and leave the end free for words.
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
    """What each bar says when it is pointed at."""
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
