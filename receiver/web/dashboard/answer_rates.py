"""Answer rates: the share of ended calls that were completed, by attempt, hour, weekday and area; and the same of
two batches beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flask import render_template, request
from markupsafe import Markup

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

MOST_AREAS = 20
OFFERED_BATCHES = 25

TITLES: dict[Breakdown, str] = {
    "attempt": "By attempt",
    "hour_of_day": "By hour of day",
    "weekday": "By weekday",
    "area": "By area",
}


@dataclass(slots=True)
class Rate:
    """Calls and how many of them were completed."""

    calls: int = 0
    completed: int = 0


@dataclass(slots=True)
class Section:
    """One picture with its table: by name, the rate in each selection. None: not counted yet."""

    by: Breakdown
    rates: dict[str, list[Rate]] | None = None
    left_out: int = 0
    """Areas beyond `MOST_AREAS`."""
    picture: Markup = field(default_factory=Markup)


@page("/answer-rates", scope="read")
def answer_rates() -> str:
    """The answer rates of all calls that the filters choose, or of one or two batches."""
    filters = Filters.read(request.args, zone())
    first_id, second_id = filters.whole_number("batch_id"), filters.whole_number("with")
    if second_id and not first_id:
        filters.faults.setdefault("batch_id", "Choose a batch to compare with.")
    chosen = filters.one_of("by", BREAKDOWNS)
    label = filters.label()
    if not first_id and "from" not in filters.texts and "to" not in filters.texts:
        filters.first_day = datetime.now(zone()).date() - timedelta(days=DAYS - 1)
    ids = [first_id, second_id] if second_id else [first_id]
    wanted = [
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

    def read(conn: Connection) -> tuple[list[Batch], list[Batch], list[Section]]:
        offered = list_batches(conn, BatchFilter(), OFFERED_BATCHES, with_submissions=False)
        if filters.faults:  # rates that ignore a wrong filter would be misleading
            return [], offered, []
        batches = [get_batch(conn, batch_id, with_submissions=False) for batch_id in ids if batch_id]
        return batches, offered, _read_sections(conn, wanted, chosen)

    batches, offered, sections = reader().read_at_one_moment(read)
    names = [f"Batch {batch.id}" for batch in batches] or ["All calls"]
    for section in sections:
        if section.rates:
            section.picture = _draw(section, names)
    return render_template(
        "answer_rates.html",
        batches=batches,
        filters=filters,
        names=names,
        offered=offered,
        sections=sections,
        titles=TITLES,
        total=sum(rate.calls for rates in _of(sections, "hour_of_day").values() for rate in rates),
    )


def _read_sections(conn: Connection, wanted: Sequence[SummaryFilter], chosen: str | None) -> list[Section]:
    sections = [Section("hour_of_day"), Section("weekday"), Section("attempt"), Section("area")]
    for section in sections:
        results = sum(rate.calls for rates in _of(sections, "hour_of_day").values() for rate in rates)
        if section.by in ("hour_of_day", "weekday", chosen) or results <= FEW_RESULTS:
            counted = [_rates(section.by, get_breakdown(conn, section.by, each)) for each in wanted]
            named = list(dict.fromkeys(name for rates in counted for name in rates))
            section.rates = {name: [rates.get(name, Rate()) for rates in counted] for name in named}
            if section.by == "area":
                largest = sorted(named, key=lambda name: -sum(rate.calls for rate in section.rates[name]))  # type: ignore[index]  # was just set
                section.left_out = max(len(named) - MOST_AREAS, 0)
                section.rates = {name: section.rates[name] for name in largest[:MOST_AREAS]}
    return sorted(sections, key=lambda section: list(TITLES).index(section.by))


def _of(sections: Sequence[Section], by: Breakdown) -> dict[str, list[Rate]]:
    return next((section.rates for section in sections if section.by == by and section.rates), {})


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


def _draw(section: Section, names: Sequence[str]) -> Markup:
    drawn: Markup = drawings.rates(
        f"rates-{section.by}", f"Answer rates {TITLES[section.by].lower()}", names, section.rates
    )
    return drawn
