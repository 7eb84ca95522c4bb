"""The summary: the balance of many batches at once, and their results by hour or day of any time zone.

Read from counters only. Those by time are kept for each quarter hour, which every time zone's hours and
days, those that a clock change makes longer or shorter included, are made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.rows import dict_row

from receiver.database.pool import Connection
from receiver.errors import Fault, InvalidInput
from receiver.model import OUTCOMES
from receiver.summary.batches import balance

MOST_POINTS = 10_000
"""Longest series: more than a year of hours."""

Interval = Literal["hour", "day"]


@dataclass(frozen=True, slots=True)
class SummaryFilter:
    """What a summary is about; None leaves a condition out.

    `from_` and `to` bound the series, to the quarter hour that each lies in; the totals are of the batches
    as they stand, so that they balance.
    """

    application_id: int | None = None
    deployment_id: int | None = None
    batch_id: int | None = None
    from_: datetime | None = None
    to: datetime | None = None
    interval: Interval = "day"
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Summary:
    """`totals`: the balance, attempts and seconds of talk. `series`: one point an interval, none left out."""

    totals: dict[str, int]
    series: list[dict[str, Any]]


_COUNTERS = ("rows", "skipped", "refused", *OUTCOMES, "attempts", "duration_seconds")


def get_summary(conn: Connection, wanted: SummaryFilter) -> Summary:
    """Totals and series. Raises InvalidInput for an unknown time zone, or a series too long."""
    if wanted.time_zone not in _time_zones(conn):
        raise _refused("time_zone", "invalid", "Write an IANA name such as America/New_York.")
    values: dict[str, Any] = {
        "application_id": wanted.application_id,
        "deployment_id": wanted.deployment_id,
        "batch_id": wanted.batch_id,
        "from": wanted.from_,
        "to": wanted.to,
        "interval": wanted.interval,
        "time_zone": wanted.time_zone,
        "most": MOST_POINTS,
    }
    conditions = [
        f"b.{column} = %({column})s"
        for column in ("application_id", "deployment_id", "batch_id")
        if values[column] is not None
    ]
    where = " and ".join(conditions) or "true"
    return Summary(_totals(conn, where, values), _series(conn, where, values))


def _totals(conn: Connection, where: str, values: dict[str, Any]) -> dict[str, int]:
    sums = ", ".join(f"coalesce(sum(c.{name}), 0)::bigint as {name}" for name in _COUNTERS)
    with conn.cursor(row_factory=dict_row) as cursor:
        halves = cursor.execute(
            f"select b.due_at < now() as past_due, {sums} from batch b join batch_count c using (batch_id)"
            f" where {where} group by past_due",
            values,
        ).fetchall()
    totals = balance(dict.fromkeys(_COUNTERS, 0), past_due=False) | {"attempts": 0, "duration_seconds": 0}
    for half in halves:
        counts = balance(half, half["past_due"])
        counts |= {"attempts": half["attempts"], "duration_seconds": half["duration_seconds"]}
        totals = {name: number + counts[name] for name, number in totals.items()}
    return totals


def _series(conn: Connection, where: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    # Without conditions on the batch, the results of purged batches would count, too: they have no batch.
    sums = ", ".join(
        f"coalesce(sum(r.{name}), 0)::bigint as {name}" for name in (*OUTCOMES, "attempts", "duration_seconds")
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""
            with counted as materialized (
                select r.* from result_count r join batch b using (batch_id)
                where {where}
                    and (%(from)s::timestamptz is null or r.at >= date_bin('15 minutes', %(from)s, timestamptz 'epoch'))
                    and (%(to)s::timestamptz is null or r.at < %(to)s)
            ), bounds as (
                select date_bin('15 minutes', coalesce(%(from)s::timestamptz, min(at)), timestamptz 'epoch') as first,
                    coalesce(%(to)s::timestamptz, max(at) + interval '1 minute') - interval '1 microsecond' as last
                from counted
            ), points as (
                select distinct date_trunc(%(interval)s, quarter, %(time_zone)s) as at
                from bounds, generate_series(first, last, interval '15 minutes') as quarter
                limit %(most)s + 1
            )
            select points.at, {sums}
            from points left join counted r on date_trunc(%(interval)s, r.at, %(time_zone)s) = points.at
            group by points.at order by points.at
            """,
            values,
        ).fetchall()
    if len(rows) > MOST_POINTS:
        raise _refused("from", "range_too_long", f"The series would have more than {MOST_POINTS} points.")
    return [
        {
            "at": row["at"],
            "final": sum(row[outcome] for outcome in OUTCOMES),
            **{name: row[name] for name in (*OUTCOMES, "attempts", "duration_seconds")},
        }
        for row in rows
    ]


_known_time_zones: frozenset[str] = frozenset()


def _time_zones(conn: Connection) -> frozenset[str]:
    """The names that the database knows; it takes other things for time zones, too. Read once."""
    global _known_time_zones
    if not _known_time_zones:
        _known_time_zones = frozenset(name for (name,) in conn.execute("select name from pg_timezone_names"))
    return _known_time_zones


def _refused(field: str, code: str, message: str) -> InvalidInput:
    return InvalidInput("Some parameters cannot be taken.", [Fault(field, code, message)])
