"""Calling hours against the wall clock of each zone, minute by minute, and the pace over any minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.schedule import (
    GIVE_UP,
    LEAST_LEFT,
    WINDOW,
    Gates,
    Hours,
    Refuse,
    Release,
    Released,
    Span,
    Wait,
    decide,
    estimate_last_release,
    gate_after,
    has_common_hours,
    next_opening,
    openings,
    room_at,
    slice_rows,
    was_open_for,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ZONES = [
    "America/New_York",
    "America/Los_Angeles",
    "America/Phoenix",
    "America/St_Johns",  # 3:30 behind
    "America/Havana",  # its clocks change at midnight
    "Africa/Casablanca",
    "Asia/Kathmandu",  # 5:45 ahead
    "Asia/Beirut",
    "Australia/Lord_Howe",  # its clocks change by half an hour
    "Australia/Eucla",
    "Pacific/Chatham",  # 12:45 ahead
    "Pacific/Kiritimati",  # 14 hours ahead
    "Pacific/Pago_Pago",  # 11 hours behind
    "Europe/London",
]

# Nights, in UTC, on which clocks change in some of these zones, and times between.
CHANGES = [
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2027, 2, 7, 2, tzinfo=UTC),
    datetime(2027, 3, 14, 5, tzinfo=UTC),
    datetime(2027, 7, 1, 12, tzinfo=UTC),
]
moments = st.builds(
    lambda change, minutes: change + timedelta(minutes=minutes),
    st.sampled_from(CHANGES),
    st.integers(-3 * 1440, 3 * 1440),
)
some_hours = st.builds(
    lambda opens, length, days: Hours(opens * 15, min(1440, opens * 15 + length * 15), days),
    st.integers(0, 94),
    st.integers(2, 96),
    st.integers(1, 127),
)
some_zones = st.lists(st.sampled_from(ZONES), min_size=1, max_size=3, unique=True).map(tuple)


def is_open(hours: Hours, zones: tuple[str, ...], moment: datetime) -> bool:
    """What every callee's own clock says."""
    for zone in zones:
        wall = moment.astimezone(ZoneInfo(zone))
        minute = wall.hour * 60 + wall.minute
        if not (hours.days >> wall.weekday() & 1 and hours.opens_minute <= minute < hours.closes_minute):
            return False
    return True


def local_dates(zones: tuple[str, ...], moment: datetime) -> list[date]:
    return [moment.astimezone(ZoneInfo(zone)).date() for zone in zones]


@settings(max_examples=60)
@given(some_hours, some_zones, moments)
def test_hours_are_open_exactly_when_every_clock_says_so(hours: Hours, zones: tuple[str, ...], start: datetime) -> None:
    spans = list(takewhile(lambda span: span.opens < start + 2 * DAY, openings(hours, zones, start)))
    for number in range(0, 2 * 1440, 5):
        moment = start + number * MINUTE
        assert any(span.opens <= moment < span.closes for span in spans) == is_open(hours, zones, moment)


@settings(max_examples=60)
@given(some_hours, some_zones, moments)
def test_spans_are_in_order_and_each_is_within_one_day_of_every_zone(
    hours: Hours, zones: tuple[str, ...], start: datetime
) -> None:
    spans = list(takewhile(lambda span: span.opens < start + 9 * DAY, openings(hours, zones, start)))
    assert all(before.closes <= after.opens for before, after in pairwise(spans))
    for span in spans:
        assert span.opens < span.closes
        last = span.closes - timedelta(microseconds=1)
        assert local_dates(zones, span.opens) == local_dates(zones, last)


@settings(max_examples=60)
@given(some_hours, some_zones, moments)
def test_next_opening_is_the_first_moment_with_ten_minutes_left(
    hours: Hours, zones: tuple[str, ...], at: datetime
) -> None:
    found = next_opening(hours, zones, at)
    if found is None:
        assert len(zones) > 1 or not has_common_hours(hours, zones, at)
        return
    assert at <= found.opens and found.closes - found.opens >= LEAST_LEFT
    moment = found.opens
    while moment < found.closes:
        assert is_open(hours, zones, moment)
        moment += 5 * MINUTE
    # Nothing before it would do.
    moment = max(at, found.opens - 2 * DAY)
    while moment < found.opens:
        assert not all(is_open(hours, zones, moment + number * MINUTE) for number in range(10)) or (
            local_dates(zones, moment) != local_dates(zones, moment + 9 * MINUTE)
        )
        moment += 5 * MINUTE


@pytest.mark.parametrize(
    ("zone", "day", "hours", "expected"),
    [
        # 02:00 to 03:00 does not exist: what opens in it opens after it, and what lies in it does not open.
        ("America/New_York", date(2026, 3, 8), Hours(150, 300), [("07:00", "09:00")]),
        ("America/New_York", date(2026, 3, 8), Hours(120, 180), []),
        # 01:00 to 02:00 comes twice: half of it opens twice, all of it opens for two hours.
        ("America/New_York", date(2026, 11, 1), Hours(30, 90), [("04:30", "05:30"), ("06:00", "06:30")]),
        ("America/New_York", date(2026, 11, 1), Hours(60, 120), [("05:00", "07:00")]),
        # Half an hour back at 02:00.
        ("Australia/Lord_Howe", date(2026, 4, 5), Hours(60, 180), [("14:00", "16:30")]),
        # 00:00 to 01:00 does not exist on this day.
        ("America/Havana", date(2026, 3, 8), Hours(0, 120), [("05:00", "06:00")]),
        ("Asia/Kathmandu", date(2026, 6, 1), Hours(540, 1260), [("03:15", "15:15")]),
        # This whole day does not exist.
        ("Pacific/Apia", date(2011, 12, 30), Hours(540, 1260), []),
    ],
)
def test_nights_of_clock_changes(zone: str, day: date, hours: Hours, expected: list[tuple[str, str]]) -> None:
    start = datetime.combine(day, datetime.min.time(), ZoneInfo(zone)) - 12 * HOUR
    found = [
        span
        for span in takewhile(lambda span: span.opens < start + 4 * DAY, openings(hours, [zone], start - DAY))
        if span.opens.astimezone(ZoneInfo(zone)).date() == day
    ]
    assert [(f"{span.opens:%H:%M}", f"{span.closes:%H:%M}") for span in found] == expected


def test_zones_far_apart_have_no_common_hours() -> None:
    nine_to_five = Hours(9 * 60, 17 * 60)
    at = datetime(2026, 6, 1, tzinfo=UTC)
    assert not has_common_hours(nine_to_five, ["America/New_York", "Asia/Tokyo"], at)
    assert next_opening(nine_to_five, ["America/New_York", "Asia/Tokyo"], at) is None
    # 17:00 in New York is 14:00 in Los Angeles; 17:00 in St. John's is 15:30 in New York.
    assert has_common_hours(nine_to_five, ["America/New_York", "America/Los_Angeles"], at)
    # Half an hour is enough, a minute less is not.
    assert has_common_hours(Hours(9 * 60, 12 * 60 + 30), ["America/New_York", "America/Los_Angeles"], at)
    assert not has_common_hours(Hours(9 * 60, 12 * 60 + 29), ["America/New_York", "America/Los_Angeles"], at)


def test_days_are_those_of_the_callee() -> None:
    mondays = Hours(9 * 60, 21 * 60, days=1)
    # It is Monday on Kiritimati for ten hours before it is Monday in London.
    found = next_opening(mondays, ["Pacific/Kiritimati"], datetime(2026, 6, 5, tzinfo=UTC))
    assert found == Span(datetime(2026, 6, 7, 19, tzinfo=UTC), datetime(2026, 6, 8, 7, tzinfo=UTC))


def test_open_time_adds_up_over_days() -> None:
    hours, zones = Hours(9 * 60, 9 * 60 + 40), ["UTC"]
    since = datetime(2026, 6, 1, tzinfo=UTC)
    # Thirty minutes a day can be used: what would have less than ten left is not released.
    assert not was_open_for(hours, zones, since, since + DAY + 9.4 * HOUR, GIVE_UP)
    assert was_open_for(hours, zones, since, since + DAY + 9.5 * HOUR, GIVE_UP)
    assert was_open_for(None, [], since, since + HOUR, GIVE_UP)


NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@settings(max_examples=200)
@given(
    st.integers(1, 3000),
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 5)), min_size=5, max_size=80),
)
def test_no_minute_holds_more_than_the_pace(pace: int, wanted: list[tuple[int, float]]) -> None:
    """Whatever the sizes of the slices, and however late each claim is."""
    released: list[Released] = []
    gate, now = None, NOON
    for size, late in wanted:
        calls = min(size, pace)
        now = max(now, gate or now) + timedelta(seconds=late)
        while (free := room_at(released, calls, pace, now)) > now:
            now = free
        gate = gate_after(gate, calls, pace, now)
        released.append(Released(now, calls))
    for first in released:
        within = [each.calls for each in released if first.at <= each.at < first.at + WINDOW]
        assert sum(within) <= pace


@pytest.mark.parametrize("pace", [1, 7, 19, 20, 39, 59, 60, 99, 119, 600, 9999, 100_000])
def test_an_hour_holds_nine_tenths_of_the_pace(pace: int) -> None:
    released: list[Released] = []
    gate, now, size = None, NOON, slice_rows(pace, 10_000)
    while now < NOON + HOUR:
        now = max(now, gate or now) + timedelta(seconds=0.15)  # a worker looks every fifth of a second
        while (free := room_at(released, size, pace, now)) > now:
            now = free + timedelta(seconds=0.15)
        gate = gate_after(gate, size, pace, now)
        released.append(Released(now, size))
    assert sum(each.calls for each in released if each.at < NOON + HOUR) >= 0.9 * pace * 60


def given_gates(**changed: object) -> Gates:
    return Gates(**changed)  # type: ignore[arg-type]


def decided(gates: Gates, now: datetime = NOON, since: datetime = NOON, **more: object) -> Release | Wait | Refuse:
    given: dict[str, object] = {"zones": ("UTC",), "calls": 1, "recent": (), **more}
    return decide(gates, waits_since=since, now=now, **given)  # type: ignore[arg-type]


def test_without_gates_everything_is_released_at_once() -> None:
    later = NOON + 5 * HOUR
    assert decided(Gates(start_at=later, end_at=later + HOUR)) == Release(later, later + HOUR, None)


def test_with_a_pace_or_hours_it_is_held_until_its_start() -> None:
    later = NOON + 5 * HOUR
    assert decided(Gates(start_at=later, calls_per_minute=60)) == Wait(later)
    assert decided(Gates(start_at=later, hours=Hours(0, 1440))) == Wait(later)
    assert decided(Gates(start_at=later, hours=Hours(18 * 60, 1440))) == Wait(NOON + 6 * HOUR)


def test_request_ends_with_the_hours_or_the_window() -> None:
    gates = Gates(hours=Hours(9 * 60, 17 * 60))
    assert decided(gates, NOON + timedelta(microseconds=5)) == Release(NOON, NOON + 5 * HOUR, None)
    gates = Gates(hours=Hours(9 * 60, 17 * 60), end_at=NOON + HOUR)
    assert decided(gates) == Release(NOON, NOON + HOUR, None)


def test_what_has_less_than_ten_minutes_left_waits_for_the_next_day() -> None:
    gates = Gates(hours=Hours(9 * 60, 17 * 60))
    late = NOON + 4 * HOUR + 50 * MINUTE
    assert isinstance(decided(gates, late, late), Release)
    assert decided(gates, late + MINUTE, late) == Wait(NOON + 21 * HOUR)


def test_what_never_opens_again_is_refused_once_its_window_is_over() -> None:
    gates = Gates(hours=Hours(9 * 60, 11 * 60), end_at=NOON + HOUR)
    assert decided(gates) == Wait(NOON + HOUR)
    assert decided(gates, NOON + HOUR) == Refuse("window_over")


def test_what_could_be_sent_for_an_hour_and_was_not_is_refused() -> None:
    assert isinstance(decided(Gates(), NOON + 59 * MINUTE), Release)
    assert decided(Gates(), NOON + HOUR) == Refuse("not_sent_in_time")
    # Its hours were open for half an hour only.
    gates = Gates(hours=Hours(12 * 60, 12 * 60 + 30))
    assert isinstance(decided(gates, NOON + DAY), Release)
    # With an end, that end decides.
    assert isinstance(decided(Gates(end_at=NOON + DAY), NOON + 2 * HOUR), Release)


def test_a_late_worker_refuses_only_what_was_due_an_hour_ago() -> None:
    gates = Gates(calls_per_minute=60, next_release_at=NOON, last_release_at=NOON - MINUTE)
    refused, now = 0, NOON + HOUR + MINUTE
    while isinstance(decision := decided(gates, now, calls=3), Refuse):
        refused += 3
        gates = Gates(calls_per_minute=60, next_release_at=decision.next_release_at, last_release_at=NOON - MINUTE)
    assert 57 <= refused <= 63
    assert isinstance(decision, Release)


def test_a_clock_that_was_put_back_opens_the_gate_once() -> None:
    gates = Gates(calls_per_minute=60, next_release_at=NOON + HOUR, last_release_at=NOON + HOUR - MINUTE)
    decision = decided(gates, calls=3)
    assert isinstance(decision, Release)
    assert decision.next_release_at is not None and NOON < decision.next_release_at < NOON + timedelta(seconds=4)


def test_estimate_of_the_last_release() -> None:
    assert estimate_last_release(Gates(), {(): 10_000}, NOON) == NOON
    hour = estimate_last_release(Gates(calls_per_minute=100), {(): 6000}, NOON)
    assert NOON + HOUR <= hour <= NOON + 1.05 * HOUR
    # Eight hours a day, less the last ten minutes: on the third day.
    gates = Gates(calls_per_minute=10, hours=Hours(9 * 60, 17 * 60))
    estimated = estimate_last_release(gates, {("UTC",): 10_000}, NOON - 3 * HOUR)
    assert estimated.date() == date(2026, 6, 3)
    # Without a pace, when the last zone opens.
    both = estimate_last_release(Gates(hours=Hours(540, 1020)), {("UTC",): 5, ("America/New_York",): 5}, NOON)
    assert both == NOON + HOUR
