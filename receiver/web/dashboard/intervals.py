"""The points of a series put together into as many bars as a chart can show, along a time zone's own hours and days."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from receiver.model import OUTCOMES
from receiver.summary.series import Interval

MOST_BARS = 48
"""Two days of hours."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Results of one interval. `name` and `short_name` are plain text without marks of HTML."""

    name: str
    short_name: str
    counts: dict[str, int]

    @property
    def final(self) -> int:
        return sum(self.counts.values())


def _clock(local: datetime) -> str:
    return f"{local.day} {local:%b %Y, %H:%M}"


def _short_clock(local: datetime) -> str:
    return f"{local.day} {local:%b %H:%M}"


def _day(local: datetime) -> str:
    return f"{local.day} {local:%b %Y}"


def _hour(local: datetime) -> datetime:
    # An hour that a clock change repeats has its own `fold`, and so its own bar.
    return local.replace(minute=0)


def _hours(size: int) -> Callable[[datetime], datetime]:
    # Hours that a clock change repeats are of the same bar, for all of a day's bars have names of their own.
    return lambda local: local.replace(hour=local.hour - local.hour % size, minute=0, fold=0)


def _midnight(local: datetime) -> datetime:
    # A point may begin at half past: Lord Howe puts its clocks back by half an hour.
    return local.replace(hour=0, minute=0, fold=0)


def _first_of_week(local: datetime) -> datetime:
    return _midnight(local) - timedelta(days=local.weekday())


@dataclass(frozen=True, slots=True)
class _Step:
    unit: str
    days: float
    begins: Callable[[datetime], datetime]
    name: Callable[[datetime], str]
    short_name: Callable[[datetime], str]


_STEPS = (
    _Step("hour", 1 / 24, _hour, _clock, _short_clock),
    _Step("3 hours", 1 / 8, _hours(3), _clock, _short_clock),
    _Step("6 hours", 1 / 4, _hours(6), _clock, _short_clock),
    _Step("12 hours", 1 / 2, _hours(12), _clock, _short_clock),
    _Step("day", 1, _midnight, _day, _day),
    _Step("week", 7, _first_of_week, lambda local: f"week of {_day(local)}", _day),
    _Step(
        "month",
        30,
        lambda local: _midnight(local).replace(day=1),
        lambda local: f"{local:%B %Y}",
        lambda local: f"{local:%b %Y}",
    ),
    _Step(
        "year",
        365,
        lambda local: _midnight(local).replace(month=1, day=1),
        lambda local: f"{local:%Y}",
        lambda local: f"{local:%Y}",
    ),
)


def bars_of(points: Sequence[Mapping[str, Any]], interval: Interval, time_zone: ZoneInfo) -> tuple[list[Bar], str]:
    """At most about `MOST_BARS` bars, in order, and the unit of time that each stands for.

    `points` as `receiver.summary.series` gives them: each with `at` and the outcomes' counts, one for each
    hour or day of the time zone, at least one, none left out.
    """
    span = (points[-1]["at"] - points[0]["at"]).total_seconds() / 86400
    steps = _STEPS if interval == "hour" else [step for step in _STEPS if step.days >= 1]
    step = next((step for step in steps if span / step.days <= MOST_BARS), steps[-1])
    gathered: dict[tuple[datetime, int], dict[str, int]] = {}
    for point in points:
        begins = step.begins(point["at"].astimezone(time_zone))
        # Times that differ in `fold` only are equal.
        counts = gathered.get((begins, begins.fold))
        if counts is None:
            gathered[begins, begins.fold] = {outcome: point[outcome] for outcome in OUTCOMES}
        elif point["final"]:
            for outcome in OUTCOMES:
                counts[outcome] += point[outcome]
    return [
        Bar(step.name(begins), step.short_name(begins), counts) for (begins, _), counts in gathered.items()
    ], step.unit
