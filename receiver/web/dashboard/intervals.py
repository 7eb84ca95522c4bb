"""Combine the points of a series into the bars of a chart, by the hours, days, weeks … of a time zone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from receiver.model import OUTCOMES

MOST_BARS = 48
"""One bar for each hour of two days."""

ChartInterval = Literal["quarter hour", "hour", "day"]
"""The length of time of each point of a series."""

_LENGTH: dict[ChartInterval, float] = {"quarter hour": 1 / 96, "hour": 1 / 24, "day": 1}
"""In days."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Results of one interval. `name` and `short_name` contain nothing that HTML would need to escape."""

    name: str
    short_name: str
    counts: dict[str, int]

    @property
    def final(self) -> int:
        return sum(self.counts.values())


def _hour(local: datetime) -> datetime:
    # An hour that a clock change repeats differs in `fold`, and so has its own bar.
    return local.replace(minute=0)


def _hours(size: int) -> Callable[[datetime], datetime]:
    # Hours that a clock change repeats belong to the same bar, because bars of a day need different names.
    return lambda local: local.replace(hour=local.hour - local.hour % size, minute=0, fold=0)


def _midnight(local: datetime) -> datetime:
    # A point may begin at half past: Lord Howe sets its clocks back by half an hour.
    return local.replace(hour=0, minute=0, fold=0)


def _first_of_week(local: datetime) -> datetime:
    return _midnight(local) - timedelta(days=local.weekday())


@dataclass(frozen=True, slots=True)
class _Step:
    """A length of time for bars. `name` and `short_name` are formats of strftime."""

    unit: str
    days: float
    begins: Callable[[datetime], datetime]
    name: str
    short_name: str


_CLOCK, _SHORT_CLOCK, _DAY = "%-d %b %Y, %H:%M", "%-d %b %H:%M", "%-d %b %Y"

_STEPS = (
    _Step("quarter hour", 1 / 96, lambda local: local.replace(minute=local.minute // 15 * 15), _CLOCK, "%H:%M"),
    _Step("hour", 1 / 24, _hour, _CLOCK, _SHORT_CLOCK),
    _Step("3 hours", 1 / 8, _hours(3), _CLOCK, _SHORT_CLOCK),
    _Step("6 hours", 1 / 4, _hours(6), _CLOCK, _SHORT_CLOCK),
    _Step("12 hours", 1 / 2, _hours(12), _CLOCK, _SHORT_CLOCK),
    _Step("day", 1, _midnight, _DAY, _DAY),
    _Step("week", 7, _first_of_week, f"week of {_DAY}", _DAY),
    _Step("month", 30, lambda local: _midnight(local).replace(day=1), "%B %Y", "%b %Y"),
    _Step("year", 365, lambda local: _midnight(local).replace(month=1, day=1), "%Y", "%Y"),
)


def bars_of(points: Sequence[Mapping[str, Any]], interval: ChartInterval, time_zone: ZoneInfo) -> tuple[list[Bar], str]:
    """At most about `MOST_BARS` bars, in order, and the length of time of each.

    `points`: as in `receiver.summary.series`, each with `at` and the counts of the outcomes, one for each interval of
    the time zone without gaps, at least one.
    """
    span = (points[-1]["at"] - points[0]["at"]).total_seconds() / 86400
    steps = [step for step in _STEPS if step.days >= _LENGTH[interval]]
    step = next((step for step in steps if span / step.days <= MOST_BARS), steps[-1])
    gathered: dict[tuple[datetime, int], dict[str, int]] = {}
    for point in points:
        begins = step.begins(point["at"].astimezone(time_zone))
        # Times that differ only in `fold` are equal.
        counts = gathered.get((begins, begins.fold))
        if counts is None:
            gathered[begins, begins.fold] = {outcome: point[outcome] for outcome in OUTCOMES}
        elif point["final"]:
            for outcome in OUTCOMES:
                counts[outcome] += point[outcome]
    bars = [
        Bar(begins.strftime(step.name), begins.strftime(step.short_name), counts)
        for (begins, _), counts in gathered.items()
    ]
    return bars, step.unit
