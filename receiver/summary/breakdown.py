"""Results by hour of day, weekday, number of attempts, or area of the number.

Hours and weekdays are read from counters. Attempts and areas are counted from the results, because counters of areas
would be nearly as many as the results, and each settlement would have to write most of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Literal, get_args

from receiver.database.pool import Connection
from receiver.model import OUTCOMES
from receiver.phone_numbers.numbering_plan import area_of_prefix
from receiver.queueing.form_fields import DAYS
from receiver.results.result_rows import AREA
from receiver.summary.series import QUARTER_HOUR_OF, SummaryFilter, batches_where, check_filter

Breakdown = Literal["hour_of_day", "weekday", "attempt", "area"]
BREAKDOWNS: tuple[Breakdown, ...] = get_args(Breakdown)

_SUMS = ", ".join(f"sum(r.{name})::bigint" for name in OUTCOMES)

_BY_TIME = f"select {{value}}, {_SUMS} from result_total r {{join}} where {{where}} group by 1"

# Calls without an outcome are counted, too, because a condition for each row would take longer.
_BY_CALL = "select {value}, r.outcome, count(*) from result r {join} where {where} group by 1, 2"

_JOIN = "join batch b using (batch_id)"
"""Leaves out the results of batches that are being purged."""

_VALUES: dict[Breakdown, str] = {
    "hour_of_day": "extract(hour from r.at at time zone %(time_zone)s)::integer",
    "weekday": "extract(isodow from r.at at time zone %(time_zone)s)::integer - 1",
    "attempt": "r.attempts",
    "area": "r.area",
}


def get_breakdown(conn: Connection, by: Breakdown, wanted: SummaryFilter) -> list[dict[str, Any]]:
    """One row for each hour, weekday, number of attempts or area: `value` (None: unknown), `final`, the outcomes, and
    `completed_share` (None without results). Hours and weekdays are all there. Raises InvalidInput as `get_series`.
    """
    check_filter(conn, wanted)
    where, values = batches_where(wanted)
    by_time = by in ("hour_of_day", "weekday")
    join = _JOIN
    if not by_time:
        where = where.replace("b.batch_id", "r.batch_id")
        if "b." not in where and conn.execute("select from purge limit 1").fetchone() is None:
            join = ""  # the join takes a quarter of the time
    at = "r.at" if by_time else "r.received_at"
    if wanted.from_ is not None:
        where += f" and {at} >= {QUARTER_HOUR_OF.format('from_')}"
    if wanted.to is not None:
        # The quarter hour that begins before `to` is included completely, as in the counters.
        before = f"{QUARTER_HOUR_OF.format('to')} + case when {QUARTER_HOUR_OF.format('to')} = %(to)s"
        where += f" and {at} < {before} then interval '0' else interval '15 minutes' end"

    def read(sql: str, value: str, join: str, where: str) -> list[Any]:
        # Not prepared: a plan for all periods might sort the results.
        return conn.execute(sql.format(value=value, join=join, where=where), values, prepare=False).fetchall()

    counted: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    if by_time:
        for every in range(24 if by == "hour_of_day" else 7):
            counted[_name(by, every)] = Counter()
        for value, *numbers in read(_BY_TIME, _VALUES[by], join, where):
            counted[_name(by, value)].update(dict(zip(OUTCOMES, numbers, strict=True)))
    else:
        found = read(_BY_CALL, _VALUES[by], join, where)
        if by == "area" and any(area is None for area, *_ in found):
            # An earlier release wrote these results, or the numbers were erased.
            unknown = read(_BY_CALL, AREA, f"{join} join call c using (batch_id, row)", f"r.area is null and {where}")
            found = [row for row in found if row[0] is not None] + unknown
        for value, outcome, calls in found:
            if outcome is not None:
                counted[_name(by, value)][outcome] += calls
    return [
        {
            "value": value,
            "final": counter.total(),
            **{name: counter[name] for name in OUTCOMES},
            "completed_share": round(counter["completed"] / counter.total(), 4) if counter.total() else None,
        }
        for value, counter in sorted(counted.items(), key=lambda item: _order(by, item[0]))
    ]


def _name(by: Breakdown, value: int | None) -> str | None:
    if value is None:
        return None
    if by == "area":
        return area_of_prefix(value)
    return {"hour_of_day": f"{value:02}", "weekday": DAYS[value % 7], "attempt": str(value)}[by]


def _order(by: Breakdown, name: str | None) -> tuple[bool, int, str]:
    """Unknown last; weekdays from Monday; attempts as numbers."""
    text = name or ""
    return name is None, DAYS.index(text) if text in DAYS else int(text or 0) if by == "attempt" else 0, text
