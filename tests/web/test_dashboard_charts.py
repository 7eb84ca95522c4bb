"""Charts: the drawing matches the figures, and needs neither colours nor sight."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from markupsafe import Markup

from receiver.model import OUTCOMES
from receiver.results.reading.call_events import Event
from receiver.summary.series import Interval
from receiver.web.dashboard.charts import split_bar, stacked_series
from receiver.web.dashboard.intervals import MOST_BARS, bars_of
from receiver.web.dashboard.timeline import timeline
from tests.factories import NOON
from tests.web.browsing import text_of
from tests.web.page_rules import broken_rules

NAMES: tuple[str, ...] = OUTCOMES
ZERO = dict.fromkeys(NAMES, 0)


def counts_of(**given: int) -> dict[str, int]:
    counts = {"rows": 0, "skipped": 0, "refused": 0, "withdrawn": 0, "pending": 0, "overdue": 0, **ZERO, **given}
    counts["final"] = sum(counts[outcome] for outcome in OUTCOMES)
    counts["rows"] = sum(counts[name] for name in ("skipped", "refused", "withdrawn", "pending", "overdue", "final"))
    return counts


def points_of(*counts: dict[str, int], every: timedelta = timedelta(hours=1), first: datetime = NOON) -> list[Any]:
    return [
        {"at": first + index * every, **ZERO, **given, "final": sum(given.values())}
        for index, given in enumerate(counts)
    ]


def series(points: Sequence[Any], interval: Interval = "hour", time_zone: str = "UTC") -> Markup:
    return stacked_series(points, interval=interval, time_zone=time_zone, key="results", title="Results")


def widths_of(bar: str) -> dict[str, float]:
    return {name: float(width) for name, width in re.findall(r'<rect class="[a-z]+-(\w+)".*? width="([\d.]+)"', bar)}


def test_split_bar_gives_each_part_its_share() -> None:
    bar = split_bar(counts_of(completed=60, failed=20, pending=20), key="batch-1", label="Batch 1")
    assert widths_of(bar) == pytest.approx({"completed": 59.8, "failed": 19.8, "pending": 19.8}, abs=0.01)


def test_one_call_of_a_million_is_visible_in_the_split_bar() -> None:
    bar = split_bar(counts_of(completed=999_997, rejected=1, overdue=1, refused=1), key="b", label="Batch 1")
    widths = widths_of(bar)
    assert min(widths.values()) > 0.5
    assert 99 < sum(widths.values()) <= 100


def test_split_bar_has_a_description() -> None:
    bar = split_bar(counts_of(completed=1, canceled=1, skipped=5, pending=2), key="batch-7", label="Batch 7")
    assert 'role="img" aria-labelledby="batch-7-title batch-7-desc"' in bar
    assert '<title id="batch-7-title">Batch 7</title>' in bar
    assert "9 rows: 5 skipped, 4 calls, 2 ended, 2 pending. 2 ended: 1 completed, 1 canceled." in bar
    assert broken_rules(bar, whole=False) == []


def test_states_that_have_not_ended_differ_in_height() -> None:
    bar = split_bar(
        counts_of(completed=5, pending=5, overdue=5, refused=5, withdrawn=5, skipped=5), key="b", label="Batch"
    )
    places = re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', bar)
    assert len(places) == len(set(places)) == 5


def test_skipped_rows_take_no_part_of_the_bar() -> None:
    assert widths_of(split_bar(counts_of(completed=1, skipped=5), key="b", label="Batch 1")) == {"completed": 99.8}


def test_split_bar_of_no_rows_is_an_empty_track() -> None:
    assert widths_of(split_bar(counts_of(), key="b", label="Batch")) == {"pending": 100}


@pytest.mark.parametrize("hostile", ['"><script>alert(1)</script>', "</title></svg><img src=x onerror=alert(1)>"])
def test_label_of_a_chart_stays_text(hostile: str) -> None:
    bar = split_bar(counts_of(completed=1), key="b", label=hostile)
    drawn = stacked_series(points_of({"completed": 1}), interval="hour", time_zone="UTC", key="results", title=hostile)
    assert broken_rules(bar, whole=False) == broken_rules(drawn, whole=False) == []
    assert "<script" not in bar + drawn and "<img" not in bar + drawn


def test_series_has_its_figures_in_a_table() -> None:
    drawn = series(points_of({"completed": 1200, "failed": 3}, {}, {"completed": 1}))
    assert re.search(r'<th scope="row">1 Mar 2026, 12:00</th><td class="figure">1,203</td>', drawn)
    assert re.search(r'<th scope="row">1 Mar 2026, 14:00</th><td class="figure">1</td>', drawn)
    assert "13:00" not in text_of(drawn.split("<details")[1])  # no results in this hour
    assert broken_rules(drawn, whole=False) == []


def test_series_stacks_the_outcomes() -> None:
    drawn = series(points_of({"completed": 4, "failed": 2, "canceled": 2}))
    heights = {
        outcome: (float(top), float(height))
        for outcome, top, height in re.findall(
            r'id="results-(\w+)" clipPathUnits="objectBoundingBox"><path d="M[\d.]+ ([\d.]+)h[\d.]+v([\d.]+)h', drawn
        )
    }
    assert heights == {"completed": (0.5, 0.5), "failed": (0.25, 0.25), "canceled": (0, 0.25)}


def test_each_outcome_but_one_has_its_own_texture() -> None:
    drawn = series(points_of(dict.fromkeys(NAMES, 1)))
    textures = re.findall(r'<pattern id="results-(\w+)-texture"[^>]*>(.*?)</pattern>', drawn)
    assert [outcome for outcome, _ in textures] == [outcome for outcome in OUTCOMES if outcome != "completed"]
    assert len({drawing for _, drawing in textures}) == len(textures)
    for outcome, _ in textures:
        assert drawn.count(f'fill="url(#results-{outcome}-texture)"') == 2  # in the bars, and in the legend


def test_legend_has_the_numbers_of_the_outcomes_that_occur() -> None:
    drawn = series(points_of({"completed": 1000}, {"completed": 234, "other": 1}))
    assert text_of(drawn.split("<figcaption>")[1].split("</ul>")[0]) == "completed 1,234 other 1"


def test_series_without_results_says_so() -> None:
    assert text_of(series([])) == text_of(series(points_of({}, {}))) == "No results yet."


def test_chart_says_if_it_uses_another_interval() -> None:
    two_days, a_month, a_year = (points_of(*({"completed": 1} for _ in range(size))) for size in (49, 720, 365))
    assert "Not by" not in series(two_days)
    drawn = text_of(series(a_month))
    assert "One bar for each day, UTC. Not shown by hour: that would be 720 bars. At most 2 days are shown" in drawn
    days = [{**point, "at": NOON + timedelta(days=index)} for index, point in enumerate(a_year)]
    drawn = text_of(series(days, "day"))
    assert "One bar for each month, UTC. Not shown by day: that would be 365 bars." in drawn


@pytest.mark.parametrize("days", [0, 1, 4, 11, 20, 60, 400])
def test_any_length_of_hours_becomes_few_bars_of_the_same_total(days: int) -> None:
    points = points_of(*({"completed": hour % 7, "failed": 1} for hour in range(days * 24 + 1)))
    bars, unit = bars_of(points, "hour", ZoneInfo("America/New_York"))
    assert len(bars) <= MOST_BARS + 2, unit
    assert sum(bar.final for bar in bars) == sum(point["final"] for point in points)
    assert sum(bar.counts["failed"] for bar in bars) == len(points)
    assert len({bar.name for bar in bars}) == len(bars)


def test_quarter_hours_are_bars_of_their_own() -> None:
    points = points_of(*({"completed": part} for part in range(1, 6)), every=timedelta(minutes=15))
    bars, unit = bars_of(points, "quarter hour", ZoneInfo("Asia/Kathmandu"))
    assert unit == "quarter hour"
    assert [(bar.short_name, bar.final) for bar in bars] == [
        ("17:45", 1), ("18:00", 2), ("18:15", 3), ("18:30", 4), ("18:45", 5)
    ]  # fmt: skip


@pytest.mark.parametrize(("days", "unit"), [(1, "day"), (40, "day"), (100, "week"), (1000, "month"), (3650, "year")])
def test_unit_of_the_bars_grows_with_the_days(days: int, unit: str) -> None:
    points = points_of(*({"completed": 1} for _ in range(days)), every=timedelta(days=1))
    bars, found = bars_of(points, "day", ZoneInfo("UTC"))
    assert (found, sum(bar.final for bar in bars)) == (unit, days)


def test_days_and_weeks_are_those_of_the_time_zone() -> None:
    first = datetime(2026, 3, 1, 5, tzinfo=UTC)  # midnight in New York, a Sunday
    points = points_of(*({"completed": 1} for _ in range(100)), every=timedelta(days=1), first=first)
    bars, _ = bars_of(points, "day", ZoneInfo("America/New_York"))
    assert [bar.name for bar in bars[:2]] == ["week of 23 Feb 2026", "week of 2 Mar 2026"]
    assert [bar.final for bar in bars[:2]] == [1, 7]


def test_hour_that_a_clock_change_repeats_is_two_bars() -> None:
    first = datetime(2026, 11, 1, 5, tzinfo=UTC)  # 01:00 in New York, the first of two on this day
    points = points_of({"completed": 1}, {"completed": 2}, {"completed": 4}, first=first)
    bars, _ = bars_of(points, "hour", ZoneInfo("America/New_York"))
    assert [(bar.name, bar.final) for bar in bars] == [
        ("1 Nov 2026, 01:00", 1),
        ("1 Nov 2026, 01:00", 2),
        ("1 Nov 2026, 02:00", 4),
    ]


@pytest.mark.parametrize(
    ("days", "unit"), [(3, "3 hours"), (10, "6 hours"), (20, "12 hours"), (30, "day"), (90, "week")]
)
def test_bars_of_several_hours_include_the_repeated_hour(days: int, unit: str) -> None:
    first = datetime(2026, 10, 31, 4, tzinfo=UTC)  # midnight in New York; a day later the clocks go back
    points = points_of(*({"completed": 1} for _ in range(24 * days)), first=first)
    bars, found = bars_of(points, "hour", ZoneInfo("America/New_York"))
    assert found == unit
    assert len({bar.name for bar in bars}) == len(bars)
    assert sum(bar.final for bar in bars) == len(points)


@pytest.mark.parametrize(("days", "unit"), [(30, "day"), (90, "week"), (400, "month"), (2000, "year")])
def test_clock_change_by_half_an_hour_makes_no_second_bar_of_a_day(days: int, unit: str) -> None:
    half_past = datetime(2026, 4, 4, 15, tzinfo=UTC)  # on Lord Howe the second 01:30 of the 5th
    points = points_of(*({"completed": 1} for _ in range(24 * days)), first=half_past - timedelta(hours=12))
    bars, found = bars_of(points, "hour", ZoneInfo("Australia/Lord_Howe"))
    assert found == unit
    assert len({bar.name for bar in bars}) == len(bars)


def test_chart_of_a_year_is_small_and_a_usual_chart_is_fast() -> None:
    year = points_of(*(dict.fromkeys(NAMES, hour % 900) for hour in range(9000)))
    assert len(series(year)) < 40_000
    usual = points_of(*(dict.fromkeys(NAMES, hour) for hour in range(1, 49)))
    series(usual)
    fastest = min(_seconds(usual) for _ in range(20))
    assert fastest < 0.02  # measured 3 ms on a busy machine


def _seconds(points: Sequence[Any]) -> float:
    """Of a processor: other work on the machine does not count."""
    begun = time.thread_time()
    series(points)
    return time.thread_time() - begun


def event(name: str, seconds: int | None) -> Event:
    return Event(name, None if seconds is None else NOON + timedelta(seconds=seconds))


def drawn_timeline(*events: Event, time_zone: str = "UTC") -> Markup:
    return timeline(events, time_zone=time_zone, key="timeline", title="Row 1")


def test_timeline_is_to_scale() -> None:
    drawn = drawn_timeline(event("queued", 0), event("dialing", 50), event("connected", 60), event("disconnected", 100))
    spans = re.findall(r'class="span-(\w+)" x="([\d.]+)%" y="[\d.]+" width="([\d.]+)%"', drawn)
    assert spans == [("waiting", "0.00", "50.00"), ("ringing", "50.00", "10.00"), ("connected", "60.00", "40.00")]
    assert "1 attempt within 1 min 40 s: waiting 50 s, ringing 10 s, connected 40 s." in drawn
    assert broken_rules(drawn, whole=False) == []


def test_attempts_are_numbered_and_an_unanswered_one_counts_as_waiting() -> None:
    drawn = drawn_timeline(event("queued", 0), event("dialing", 10), event("dialing", 310), event("failed", 340))
    assert re.findall(r'text-anchor="\w+">(\d+)</text>', drawn) == ["1", "2"]
    assert "2 attempts within 5 min 40 s: waiting 5 min 10 s, ringing 30 s." in drawn


def test_timeline_lists_all_events_also_without_a_readable_time() -> None:
    drawn = drawn_timeline(event("connected", 5), event("queued", 0), event("<b>odd", None), time_zone="Asia/Kolkata")
    text = text_of(drawn.split("<table")[1])
    assert text.index("queued") < text.index("connected") < text.index("<b>odd")
    assert "1 Mar 2026, 17:30:00" in text and "no readable time" in text
    assert "&lt;b&gt;odd" in drawn


def test_short_ringing_is_visible_among_hours_of_waiting() -> None:
    drawn = drawn_timeline(event("queued", 0), event("dialing", 80_000), event("disconnected", 80_003))
    widths = dict(re.findall(r'class="span-(\w+)" x="[\d.]+%" y="[\d.]+" width="([\d.]+)%"', drawn))
    assert float(widths["ringing"]) == 0.5
    assert "ringing: 3 s" in drawn


@pytest.mark.parametrize("events", [[("queued", 0)], [("queued", 5), ("dialing", 5)], [("queued", None)]])
def test_timeline_without_any_span_is_only_a_table(events: list[tuple[str, int | None]]) -> None:
    drawn = drawn_timeline(*(event(name, seconds) for name, seconds in events))
    assert "<svg" not in drawn
    assert drawn.count('<th scope="row">') == len(events)


def test_call_without_events_says_so() -> None:
    assert text_of(drawn_timeline()) == "No event was reported."


def test_only_the_first_of_a_thousand_events_are_drawn() -> None:
    drawn = drawn_timeline(*(event("dialing" * 30, second) for second in range(1000)))
    assert len(drawn) < 60_000
    assert "And 940 more events." in drawn
