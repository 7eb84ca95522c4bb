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

_BY_TIME = f"select {{value}}, {_SUMS} from result_total r join batch b using (batch_id) where {{where}} group by 1"

# Counted for each batch before the batches are joined: joining every result would take as long as counting it. The join
# leaves out the results of batches that are being purged.
_BY_CALL = (
    "select r.value, r.outcome, sum(r.calls)::bigint from (select r.batch_id, {value} as value, r.outcome,"
    " count(*) as calls from result r {join} where r.outcome is not null and {where} group by 1, 2, 3) r"
    " join batch b using (batch_id) group by 1, 2"
)

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
    if not by_time and where != "true":
        where = f"r.batch_id in (select b.batch_id from batch b where {where})"
    at = "r.at" if by_time else "r.received_at"
    if wanted.from_ is not None:
        where += f" and {at} >= {QUARTER_HOUR_OF.format('from_')}"
    if wanted.to is not None:
        # The quarter hour that begins before `to` is included completely, as in the counters.
        before = f"{QUARTER_HOUR_OF.format('to')} + case when {QUARTER_HOUR_OF.format('to')} = %(to)s"
        where += f" and {at} < {before} then interval '0' else interval '15 minutes' end"
    counted: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    if by_time:
        for every in range(24 if by == "hour_of_day" else 7):
            counted[_name(by, every)] = Counter()
        for value, *numbers in conn.execute(_BY_TIME.format(value=_VALUES[by], where=where), values):
            counted[_name(by, value)].update(dict(zip(OUTCOMES, numbers, strict=True)))
    else:
        for value, outcome, calls in conn.execute(_BY_CALL.format(value=_VALUES[by], join="", where=where), values):
            counted[_name(by, value)][outcome] += calls
    if by == "area" and None in counted:
        # An earlier release wrote these results, or the numbers were erased.
        del counted[None]
        unknown = _BY_CALL.format(
            value=AREA, join="join call c using (batch_id, row)", where=f"r.area is null and {where}"
        )
        for value, outcome, calls in conn.execute(unknown, values):
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
