"""Series along the hours and days of time zones whose clocks change, and totals that balance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from receiver.database.pool import Connection
from receiver.errors import InvalidInput
from receiver.model import OUTCOMES
from receiver.summary.series import (
    MOST_POINTS,
    Interval,
    SummaryFilter,
    get_series,
    get_summary,
    time_zones,
)
from tests.factories import (
    NOON,
    REFUSED,
    answer_submissions,
    deliver,
    journal,
    make_batch,
    make_callback,
    phone_number,
    present,
    purge_batch,
    result_body,
    settle_all,
)

QUARTER = timedelta(minutes=15)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def receive(conn: Connection, *moments: datetime, status: str = "completed", **parameters: Any) -> int:
    """A batch with one call for each of these times, whose result was received then."""
    batch_id = make_batch(conn, [phone_number(index) for index in range(len(moments))], **parameters)
    journal(
        conn,
        *(
            make_callback(batch_id, result_body(phone_number(index), status), received_at=moment)
            for index, moment in enumerate(moments)
        ),
    )
    settle_all(conn)
    return batch_id


def points(conn: Connection, begin: str, end: str, interval: Interval, time_zone: str) -> list[tuple[str, int]]:
    """(beginning, number of results) of each point between two times in UTC."""
    wanted = SummaryFilter(from_=utc(begin), to=utc(end), interval=interval, time_zone=time_zone)
    return [(f"{point['at']:%m-%d %H:%M}", point["final"]) for point in get_series(conn, wanted)]


def every_quarter(begin: str, end: str) -> list[datetime]:
    first, last = utc(begin), utc(end)
    return [first + number * QUARTER for number in range(int((last - first) / QUARTER))]


def test_day_that_loses_an_hour_has_23_and_one_that_gains_it_25(conn: Connection) -> None:
    receive(conn, *every_quarter("2026-03-07T00:00", "2026-03-10T00:00"))
    receive(conn, *every_quarter("2026-10-31T00:00", "2026-11-03T00:00"))
    assert points(conn, "2026-03-07T05:00", "2026-03-09T04:00", "day", "America/New_York") == [
        ("03-07 05:00", 24 * 4),
        ("03-08 05:00", 23 * 4),
    ]
    assert points(conn, "2026-10-31T04:00", "2026-11-02T05:00", "day", "America/New_York") == [
        ("10-31 04:00", 24 * 4),
        ("11-01 04:00", 25 * 4),
    ]


def test_repeated_hour_is_two_points_and_skipped_hour_is_none(conn: Connection) -> None:
    receive(conn, *every_quarter("2026-11-01T05:00", "2026-11-01T08:00"))
    assert points(conn, "2026-11-01T05:00", "2026-11-01T08:00", "hour", "America/New_York") == [
        ("11-01 05:00", 4),  # 01:00 EDT
        ("11-01 06:00", 4),  # 01:00 EST
        ("11-01 07:00", 4),
    ]
    assert points(conn, "2026-03-08T06:00", "2026-03-08T08:00", "hour", "America/New_York") == [
        ("03-08 06:00", 0),  # 01:00 EST
        ("03-08 07:00", 0),  # 03:00 EDT
    ]


def test_hours_of_a_zone_half_an_hour_off_begin_at_half_past(conn: Connection) -> None:
    receive(conn, utc("2026-03-01T10:29"), utc("2026-03-01T10:31"))
    assert points(conn, "2026-03-01T10:00", "2026-03-01T11:30", "hour", "Asia/Kolkata") == [
        ("03-01 09:30", 1),
        ("03-01 10:30", 1),
    ]
    assert points(conn, "2026-03-01T10:00", "2026-03-01T11:00", "hour", "Asia/Kathmandu") == [
        ("03-01 09:15", 0),
        ("03-01 10:15", 2),
    ]


def test_clock_change_by_half_an_hour_makes_hours_of_30_and_90_minutes(conn: Connection) -> None:
    receive(conn, *every_quarter("2026-04-04T13:00", "2026-04-04T17:00"))
    # 02:00 summer time is 01:30 standard time: the hour from one o'clock begins again in its middle.
    assert points(conn, "2026-04-04T13:00", "2026-04-04T16:30", "hour", "Australia/Lord_Howe") == [
        ("04-04 13:00", 4),
        ("04-04 14:00", 4),
        ("04-04 15:00", 2),
        ("04-04 15:30", 4),
    ]
    receive(conn, *every_quarter("2026-10-03T13:00", "2026-10-03T17:00"))
    # 02:00 standard time is 02:30 summer time.
    assert points(conn, "2026-10-03T13:30", "2026-10-03T17:00", "hour", "Australia/Lord_Howe") == [
        ("10-03 13:30", 4),
        ("10-03 14:30", 4),
        ("10-03 15:30", 2),
        ("10-03 16:00", 4),
    ]


@pytest.mark.parametrize(
    ("time_zone", "day"),
    [("America/Havana", "2026-11-01"), ("America/Santiago", "2026-09-06"), ("Africa/Cairo", "2026-10-30")],
)
def test_day_whose_midnight_comes_twice_or_never_begins_with_its_first_moment(
    conn: Connection, time_zone: str, day: str
) -> None:
    zone = ZoneInfo(time_zone)
    begin = utc(f"{day}T00:00") - timedelta(days=3)
    moments = [begin + number * QUARTER for number in range(6 * 96)]
    receive(conn, *moments)
    expected: dict[str, tuple[datetime, int]] = {}
    for moment in moments:
        date = f"{moment.astimezone(zone):%Y-%m-%d}"
        first, count = expected.get(date, (moment, 0))
        expected[date] = first, count + 1
    wanted = SummaryFilter(from_=begin, to=moments[-1] + QUARTER, time_zone=time_zone)
    found = [(point["at"], point["final"]) for point in get_series(conn, wanted)]
    # The first day begins before the series.
    assert found[1:] == list(expected.values())[1:]
    assert found[0][1] == next(iter(expected.values()))[1]


@pytest.mark.parametrize("interval", ["hour", "day"])
def test_every_zone_counts_each_result_once(conn: Connection, interval: Interval) -> None:
    moments = every_quarter("2026-03-28T00:00", "2026-03-31T00:00") + every_quarter(
        "2026-10-24T00:00", "2026-10-27T00:00"
    )
    receive(conn, *moments)
    for time_zone in sorted(time_zones(conn))[::31]:
        series = get_series(conn, SummaryFilter(interval=interval, time_zone=time_zone))
        assert sum(point["final"] for point in series) == len(moments), time_zone
        begins = [point["at"] for point in series]
        assert begins == sorted(set(begins)), time_zone


def test_point_has_outcomes_attempts_and_seconds(conn: Connection) -> None:
    receive(conn, NOON, NOON + timedelta(minutes=5))
    receive(conn, NOON, status="failed")
    (point,) = get_series(conn, SummaryFilter(interval="hour"))
    assert point.pop("at") == NOON
    assert present(point) == {"final": 3, "completed": 2, "failed": 1, "attempts": 3, "duration_seconds": 60}
    assert set(point) == {"final", *OUTCOMES, "attempts", "duration_seconds"}


def test_points_without_results_are_included(conn: Connection) -> None:
    receive(conn, utc("2026-03-01T12:00"), utc("2026-03-04T12:00"))
    assert [point["final"] for point in get_series(conn, SummaryFilter())] == [1, 0, 0, 1]
    assert points(conn, "2026-02-27T00:00", "2026-03-03T00:00", "day", "UTC") == [
        ("02-27 00:00", 0),
        ("02-28 00:00", 0),
        ("03-01 00:00", 1),
        ("03-02 00:00", 0),
    ]


def test_bounds_are_rounded_to_quarter_hours_and_the_end_is_exclusive(conn: Connection) -> None:
    receive(conn, utc("2026-03-01T12:14"), utc("2026-03-01T12:15"), utc("2026-03-01T12:30"))

    def count(begin: str, end: str) -> int:
        return sum(number for _, number in points(conn, begin, end, "hour", "UTC"))

    assert count("2026-03-01T12:15", "2026-03-01T12:30") == 1
    assert count("2026-03-01T12:29", "2026-03-01T12:30") == 1
    assert count("2026-03-01T12:29", "2026-03-01T12:31") == 2
    assert count("2026-03-01T12:00", "2026-03-01T13:00") == 3


def test_series_without_results_is_empty(conn: Connection) -> None:
    make_batch(conn)
    assert get_series(conn, SummaryFilter()) == []
    assert get_series(conn, SummaryFilter(from_=NOON)) == []
    assert get_series(conn, SummaryFilter(to=NOON)) == []


def test_filters_combine(conn: Connection) -> None:
    batch_id = receive(conn, NOON, application_id=1, deployment_id=1)
    receive(conn, NOON, application_id=1, deployment_id=2)
    receive(conn, NOON, application_id=2, deployment_id=1)

    def finals(**given: Any) -> tuple[int, int]:
        summary = get_summary(conn, SummaryFilter(**given))
        return summary.totals["final"], sum(point["final"] for point in json.loads(summary.series_json))

    assert finals() == (3, 3)
    assert finals(application_id=1) == finals(deployment_id=1) == (2, 2)
    assert finals(application_id=1, deployment_id=2) == (1, 1)
    assert finals(batch_id=batch_id) == (1, 1)
    assert finals(batch_id=batch_id, application_id=2) == finals(application_id=9) == (0, 0)


def test_late_results_of_a_purged_batch_are_in_no_series(conn: Connection) -> None:
    batch_id = receive(conn, NOON)
    conn.execute("create temp table kept as select * from result_count")
    purge_batch(conn, batch_id)
    conn.execute("insert into result_count select * from kept")
    assert get_series(conn, SummaryFilter()) == []


def balances(totals: dict[str, int]) -> bool:
    return totals["rows"] == sum(
        totals[name] for name in ("skipped", "refused", "pending", "overdue", "final")
    ) and totals["final"] == sum(totals[outcome] for outcome in OUTCOMES)


def test_totals_balance_over_batches_in_every_state(conn: Connection) -> None:
    assert balances(get_summary(conn, SummaryFilter()).totals)
    numbers = [phone_number(index) for index in range(5)]
    deliver(conn, make_batch(conn, numbers), result_body(numbers[0]), result_body(numbers[1], "busy-ish"))
    deliver(conn, make_batch(conn, numbers, past_due=True), result_body(numbers[0], "failed"))
    make_batch(conn, [*numbers, "nobody", numbers[0]], on_invalid="skip", on_duplicate="skip")
    make_batch(conn, numbers, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    totals = get_summary(conn, SummaryFilter()).totals
    assert balances(totals)
    assert present(totals) == {
        "rows": 22,
        "skipped": 2,
        "refused": 5,
        "pending": 8,
        "overdue": 4,
        "final": 3,
        "completed": 1,
        "failed": 1,
        "other": 1,
        "attempts": 3,
        "duration_seconds": 30,
    }


@pytest.mark.parametrize(
    "time_zone",
    [
        "",
        "nowhere",
        "utc",
        "america/new_york",
        "EST5EDT4",
        "+02",
        "GMT+25",
        "posix/Europe/Paris",
        "Factory",
        "' or 1=1",
    ],
)
def test_time_zone_that_is_not_an_iana_name_is_refused(conn: Connection, time_zone: str) -> None:
    assert refusal(conn, time_zone=time_zone) == [("time_zone", "invalid")]


def test_iana_names_are_known(conn: Connection) -> None:
    names: Sequence[str] = ("UTC", "Etc/UTC", "America/Argentina/Ushuaia", "Europe/Kyiv", "Asia/Calcutta", "US/Eastern")
    assert set(names) <= time_zones(conn)


def test_impossible_bounds_are_refused(conn: Connection) -> None:
    assert refusal(conn, from_=NOON, to=NOON - timedelta(microseconds=1)) == [("to", "out_of_order")]
    assert refusal(conn, from_=utc("1969-12-31T23:59")) == [("from", "out_of_range")]
    assert refusal(conn, to=utc("9001-01-01T00:00")) == [("to", "out_of_range")]
    too_long: dict[str, Any] = {"from_": NOON, "to": NOON + timedelta(hours=MOST_POINTS + 1)}
    assert refusal(conn, interval="hour", **too_long) == [("from", "range_too_long")]
    assert len(get_series(conn, SummaryFilter(**too_long))) == 418


def test_series_without_a_bound_that_is_too_long_is_refused(conn: Connection) -> None:
    receive(conn, NOON)
    assert refusal(conn, interval="hour", from_=utc("1970-01-01T00:00")) == [("from", "range_too_long")]
    assert refusal(conn, interval="hour", to=utc("8999-12-31T00:00")) == [("from", "range_too_long")]


def test_longest_series_is_answered(conn: Connection) -> None:
    wanted = SummaryFilter(from_=NOON, to=NOON + timedelta(hours=MOST_POINTS), interval="hour", time_zone="Asia/Tokyo")
    assert len(get_series(conn, wanted)) == MOST_POINTS


def refusal(conn: Connection, **wanted: Any) -> list[tuple[str | int, str]]:
    with pytest.raises(InvalidInput) as refused:
        get_series(conn, SummaryFilter(**wanted))
    return [(fault.where, fault.code) for fault in refused.value.faults]
