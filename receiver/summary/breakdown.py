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
_COUNTS = ", ".join(f"count(*) filter (where r.outcome = '{name}')" for name in OUTCOMES)

_QUERIES: dict[Breakdown, str] = {
    "hour_of_day": f"select extract(hour from r.at at time zone %(time_zone)s)::integer, {_SUMS}"
    " from result_count r join batch b using (batch_id) where {where} group by 1",
    "weekday": f"select extract(isodow from r.at at time zone %(time_zone)s)::integer - 1, {_SUMS}"
    " from result_count r join batch b using (batch_id) where {where} group by 1",
    "attempt": f"select r.attempts, {_COUNTS} from result r join batch b using (batch_id)"
    " where r.outcome is not null and {where} group by 1",
    "area": f"select r.area, {_COUNTS} from result r join batch b using (batch_id)"
    " where r.outcome is not null and r.area is not null and {where} group by 1 union all"
    f" select {AREA}, {_COUNTS} from result r join batch b using (batch_id) join call c using (batch_id, row)"
    " where r.outcome is not null and r.area is null and {where} group by 1",
}


def get_breakdown(conn: Connection, by: Breakdown, wanted: SummaryFilter) -> list[dict[str, Any]]:
    """One row for each hour, weekday, number of attempts or area: `value` (None: unknown), `final`, the outcomes, and
    `completed_share` (None without results). Hours and weekdays are all there. Raises InvalidInput as `get_series`.
    """
    check_filter(conn, wanted)
    where, values = batches_where(wanted)
    at = "r.at" if by in ("hour_of_day", "weekday") else "r.received_at"
    if wanted.from_ is not None:
        where += f" and {at} >= {QUARTER_HOUR_OF.format('from_')}"
    if wanted.to is not None:
        # The quarter hour that begins before `to` is included completely, as in the counters.
        before = f"{QUARTER_HOUR_OF.format('to')} + case when {QUARTER_HOUR_OF.format('to')} = %(to)s"
        where += f" and {at} < {before} then interval '0' else interval '15 minutes' end"
    counted: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    for every in {"hour_of_day": range(24), "weekday": range(7)}.get(by, ()):
        counted[_name(by, every)] = Counter()
    for value, *numbers in conn.execute(_QUERIES[by].format(where=where), values):
        counted[_name(by, value)].update(dict(zip(OUTCOMES, numbers, strict=True)))
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
