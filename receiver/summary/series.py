"""The summary: the balance of many batches, and their results by hour or day of any time zone.

Read from counters only. Results are counted for each quarter hour, because the hours and days of every time zone
consist of whole quarter hours, even those that a clock change makes longer or shorter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Literal, get_args

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from receiver.database.pool import Connection
from receiver.errors import InvalidInput, invalid_parameter
from receiver.model import OUTCOMES
from receiver.summary.batches import balance

MOST_POINTS = 10_000
"""Longest series: more than a year of hours, or 27 years of days."""

Interval = Literal["hour", "day"]
INTERVALS: tuple[Interval, ...] = get_args(Interval)

_LENGTH = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SummaryFilter:
    """The conditions of a summary; None: no condition.

    `from_` and `to` (exclusive) limit the series, to whole quarter hours. They do not limit the totals, which balance.
    """

    application_id: int | None = None
    deployment_id: int | None = None
    batch_id: int | None = None
    label: tuple[str, str] | None = None
    """Its name and its value."""
    from_: datetime | None = None
    to: datetime | None = None
    interval: Interval = "day"
    time_zone: str = "UTC"
    """An IANA name."""


@dataclass(frozen=True, slots=True)
class Summary:
    """`totals`: the balance, attempts and seconds of talk of the chosen batches, whenever their results were received.

    `series_json`: the points of `get_series` as the API writes them. Postgres writes this JSON, because Python takes a
    second for ten thousand points.
    """

    totals: dict[str, int]
    series_json: str


QUARTER_HOUR_OF = "date_bin('15 minutes', %({})s::timestamptz, timestamptz 'epoch')"
"""SQL: the beginning of the quarter hour that contains the time with this name."""

_COUNTERS = ("rows", "skipped", "refused", "withdrawn", "overdue", *OUTCOMES, "attempts", "duration_seconds")
_OF_RESULTS = (*OUTCOMES, "attempts", "duration_seconds")
"""The counters that are also kept by time."""


def get_summary(conn: Connection, wanted: SummaryFilter) -> Summary:
    """Totals and series of the same moment. Raises InvalidInput as `get_series`."""
    check_filter(conn, wanted)
    (totals, totals_values), (series, series_values) = _totals(wanted), _series(wanted)
    final = " + ".join(OUTCOMES)
    # In one statement: a second one would cost as much as the totals.
    both = f"""
        select (select row_to_json(totals) from ({totals}) totals) as totals, count(*) as points,
            '[' || coalesce(string_agg(row_to_json(point)::text, ',' order by at), '') || ']' as series
        from (
            select to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at, {final} as final, {", ".join(_OF_RESULTS)}
            from ({series}) results
        ) point
    """
    (row,) = _rows(conn, both, totals_values | series_values)
    if row["points"] > MOST_POINTS:
        raise _too_long()
    summed = row["totals"]
    more = {"attempts": summed["attempts"], "duration_seconds": summed["duration_seconds"]}
    return Summary(balance(summed) | more, row["series"])


def get_series(conn: Connection, wanted: SummaryFilter) -> list[dict[str, Any]]:
    """Results by the time they were received: one point for each interval, at most MOST_POINTS.

    Each point has `at`, the beginning of its hour or day in the time zone; `final` and the outcomes; `attempts`;
    `duration_seconds`. Without `from_` the series begins with the first result, without `to` it ends with the last.
    Raises InvalidInput for an unknown time zone, bounds out of order, or a series that is too long.
    """
    check_filter(conn, wanted)
    return _points(_rows(conn, *_series(wanted)))


def get_quarter_hours(conn: Connection, batch_id: int) -> list[dict[str, Any]]:
    """The points of one batch, one for each quarter hour from its first to its last result."""
    of_batch = "from result_total where batch_id = %(batch_id)s"
    sums = ", ".join(f"coalesce(sum(r.{name}), 0)::bigint as {name}" for name in _OF_RESULTS)
    query = f"""
        select quarter as at, {sums}
        from generate_series((select min(at) {of_batch}), (select max(at) {of_batch}), interval '15 minutes') quarter
            left join result_total r on r.batch_id = %(batch_id)s and r.at = quarter
        group by quarter
    """
    return _points(_rows(conn, query, {"batch_id": batch_id}))


def _rows(conn: Connection, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()


def _totals(wanted: SummaryFilter) -> tuple[str, dict[str, Any]]:
    """The query and its values. It returns one row."""
    where, values = batches_where(wanted)
    sums = ", ".join(f"coalesce(sum(c.{name}), 0)::bigint as {name}" for name in _COUNTERS)
    return f"select {sums} from batch b join batch_total c using (batch_id) where {where}", values


def _series(wanted: SummaryFilter) -> tuple[str, dict[str, Any]]:
    """The query, and its values: one row for each point, in any order."""
    where, values = batches_where(wanted)
    first, last = "earliest", "latest"
    if wanted.from_ is not None:
        first = QUARTER_HOUR_OF.format("from_")
        where += f" and r.at >= {first}"
    if wanted.to is not None:
        last = "%(to)s::timestamptz - interval '1 microsecond'"
        where += " and r.at < %(to)s"
    # A series without a bound is counted only until it is certainly too long.
    values["longest"] = MOST_POINTS * _LENGTH[wanted.interval] * 1.1
    # The join leaves out results of purged batches, which may still be counted.
    names = ", ".join(_OF_RESULTS)
    sql = f"""
        with counted as materialized (
            -- Summed before they are truncated, which is slower: many batches share a quarter hour.
            select r.at, {", ".join(f"sum(r.{name})::bigint as {name}" for name in _OF_RESULTS)}
            from result_total r join batch b using (batch_id) where {where} group by r.at
        ), bounds as materialized (
            select {first} as first, {last} as last
            from (select min(at) as earliest, max(at) as latest from counted) as results
        ), points as (
            select truncated, min(quarter) as at
            from bounds, lateral ({_QUARTERS[wanted.interval]}) q,
                lateral (select date_trunc(%(interval)s, quarter, %(time_zone)s) as truncated) t
            where quarter <= last and truncated >= date_trunc(%(interval)s, first, %(time_zone)s)
            group by truncated
        ), both_of_them as (
            select truncated, at, {", ".join(f"0 as {name}" for name in _OF_RESULTS)} from points
            union all
            select date_trunc(%(interval)s, at, %(time_zone)s), null, {names} from counted
        )
        select max(at) as at, {", ".join(f"sum({name})::bigint as {name}" for name in _OF_RESULTS)}
        from both_of_them group by truncated
    """
    return sql, values


def _points(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) > MOST_POINTS:
        raise _too_long()
    return [
        {
            "at": row["at"],
            "final": sum(row[outcome] for outcome in OUTCOMES),
            **{name: row[name] for name in _OF_RESULTS},
        }
        for row in sorted(rows, key=itemgetter("at"))
    ]


# A point begins with its first quarter hour. The value of date_trunc may be earlier than that (on Lord Howe, where
# clocks change by half an hour) or later (in Havana, where one midnight comes twice). Here this value only groups the
# quarter hours of a point. So each quarter hour is generated; for days, only those around midnight, because no clock
# change across midnight is longer than an hour. They begin early enough to contain the start of the first point.
_QUARTERS: dict[Interval, str] = {
    "hour": """
        select generate_series(date_trunc('hour', first, %(time_zone)s) - interval '2 hours',
            least(last, first + %(longest)s), interval '15 minutes') as quarter""",
    "day": """
        select midnight + around * interval '15 minutes' as quarter from (
            select distinct date_trunc('day', half_day, %(time_zone)s) as midnight
            from generate_series(first - interval '1 day', least(last, first + %(longest)s) + interval '1 day',
                interval '12 hours') as half_day
        ) midnights, generate_series(-4, 4) as around""",
}
"""SQL: quarter hours, among them the first one of each point."""


def batches_where(wanted: SummaryFilter) -> tuple[str, dict[str, Any]]:
    """The condition that chooses the batches, and the values of all conditions."""
    given = {
        "b.application_id = %(application_id)s": wanted.application_id,
        "b.deployment_id = %(deployment_id)s": wanted.deployment_id,
        "b.batch_id = %(batch_id)s": wanted.batch_id,
        "b.labels @> %(label)s": wanted.label,
    }
    conditions = [condition for condition, value in given.items() if value is not None]
    label = None if wanted.label is None else Jsonb(dict([wanted.label]))
    return " and ".join(conditions) or "true", {**asdict(wanted), "label": label}


def check_filter(conn: Connection, wanted: SummaryFilter) -> None:
    """Raises InvalidInput as `get_series`."""
    if wanted.time_zone not in time_zones(conn):
        raise invalid_parameter("time_zone", "invalid", "Enter an IANA name such as America/New_York.")
    for name, moment in (("from", wanted.from_), ("to", wanted.to)):
        if moment is not None and not _EARLIEST <= moment <= _LATEST:
            raise invalid_parameter(name, "out_of_range", "It must be between the years 1970 and 9000.")
    if wanted.from_ is not None and wanted.to is not None:
        if wanted.from_ > wanted.to:
            raise invalid_parameter("to", "out_of_order", "It must not be earlier than `from`.")
        if (wanted.to - wanted.from_) / _LENGTH[wanted.interval] > MOST_POINTS:
            raise _too_long()


_known_time_zones: frozenset[str] = frozenset()


def time_zones(conn: Connection) -> frozenset[str]:
    """The IANA names that the database knows. It also accepts other texts as time zones. Read once."""
    global _known_time_zones
    if not _known_time_zones:
        # The other names are copies of all zones, some with leap seconds, and names that do not name a place.
        _known_time_zones = frozenset(
            name
            for (name,) in conn.execute("select name from pg_timezone_names")
            if not name.startswith(("posix", "right/")) and name not in ("Factory", "localtime")
        )
    return _known_time_zones


def _too_long() -> InvalidInput:
    return invalid_parameter("from", "range_too_long", f"The series would have more than {MOST_POINTS} points.")
