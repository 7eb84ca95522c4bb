"""Answer rates: the share of ended calls that were completed, by attempt, hour, weekday and area; and the same of
two batches beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flask import render_template, request

from receiver.database.pool import Connection
from receiver.summary.batches import Batch, BatchFilter, get_batch, list_batches
from receiver.summary.breakdown import BREAKDOWNS, Breakdown, get_breakdown
from receiver.summary.series import SummaryFilter
from receiver.web.dashboard.charts import drawings
from receiver.web.dashboard.filters import Filters
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import time_zone, zone
from receiver.web.reading import reader

DAYS = 30
"""Default period, unless a batch is chosen."""

FEW_RESULTS = 100_000
"""Up to this many results, those by attempt and by area are counted at once. Hours and weekdays have counters."""

MOST_ROWS = 24
"""The hours of a day. Of the areas, those with the most calls are shown."""

OFFERED_BATCHES = 25

TITLES: dict[Breakdown, str] = {
    "attempt": "By attempt",
    "hour_of_day": "By hour of day",
    "weekday": "By weekday",
    "area": "By area",
}


class Rate(NamedTuple):
    """Calls, and how many of them were completed."""

    calls: int = 0
    completed: int = 0


Rates = dict[str, list[Rate]]
"""By name, the rate in each selection."""


@page("/answer-rates", scope="read")
def answer_rates() -> str:
    """The answer rates of all calls that the filters choose, or of one or two batches."""
    filters = Filters.read(request.args)
    first_id, second_id = filters.whole_number("batch_id"), filters.whole_number("with")
    if second_id and not first_id:
        filters.faults.setdefault("batch_id", "Choose a batch to compare with.")
    chosen, label = filters.one_of("by", BREAKDOWNS), filters.label()
    if not first_id and "from" not in filters.texts and "to" not in filters.texts:
        filters.first_day = datetime.now(zone()).date() - timedelta(days=DAYS - 1)
    ids = [first_id, second_id] if second_id else [first_id]
    selections = [
        SummaryFilter(
            application_id=filters.application_id,
            deployment_id=filters.deployment_id,
            batch_id=batch_id,
            label=label,
            from_=filters.starts_at,
            to=filters.ends_at,
            time_zone=time_zone(),
        )
        for batch_id in ids
    ]

    def read(conn: Connection) -> tuple[list[Batch], list[Batch], dict[Breakdown, Rates], int]:
        offered = list_batches(conn, BatchFilter(), OFFERED_BATCHES, with_submissions=False)
        if filters.faults:  # rates that ignore a wrong filter would be misleading
            return [], offered, {}, 0
        batches = [get_batch(conn, batch_id, with_submissions=False) for batch_id in ids if batch_id]
        hours = _count(conn, "hour_of_day", selections)
        results = sum(rate.calls for rates in hours.values() for rate in rates)
        counted = {
            by: hours if by == "hour_of_day" else _count(conn, by, selections)
            for by in TITLES
            if by in ("hour_of_day", "weekday", chosen) or results <= FEW_RESULTS
        }
        return batches, offered, counted, results

    batches, offered, counted, results = reader().read_at_one_moment(read)
    names = [f"Batch {batch.id}" for batch in batches] or ["All calls"]
    shown = {by: dict(list(rates.items())[:MOST_ROWS]) for by, rates in counted.items()}
    return render_template(
        "answer_rates.html",
        batches=batches,
        counted=counted,
        filters=filters,
        names=names,
        offered=offered,
        pictures={
            by: drawings.rates(f"rates-{by}", f"Answer rates {TITLES[by].lower()}", names, rates)
            for by, rates in shown.items()
        },
        results=results,
        shown=shown,
        titles=TITLES,
    )


def _count(conn: Connection, by: Breakdown, selections: Sequence[SummaryFilter]) -> Rates:
    counted = [_rates(by, get_breakdown(conn, by, each)) for each in selections]
    named = {name: [rates.get(name, Rate()) for rates in counted] for each in counted for name in each}
    if by != "area":
        return named
    return dict(sorted(named.items(), key=lambda item: -sum(rate.calls for rate in item[1])))


def _rates(by: Breakdown, rows: Sequence[dict[str, Any]]) -> dict[str, Rate]:
    """The rates by name. An attempt counts for all calls that had it: those that ended with it, or with a later one."""
    if by != "attempt":
        return {_name(by, row["value"]): Rate(row["final"], row["completed"]) for row in rows}
    known = [row for row in rows if row["value"] is not None]
    return {
        row["value"]: Rate(sum(later["final"] for later in known[index:]), row["completed"])
        for index, row in enumerate(known)
    }


def _name(by: Breakdown, value: str | None) -> str:
    if value is None:
        return "unknown"
    return {"hour_of_day": f"{value}:00", "weekday": value.capitalize()}.get(by, value)
