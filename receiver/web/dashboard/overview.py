"""The overview: what needs attention, what is running, and the results of the calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import render_template, request
from markupsafe import Markup

from receiver.database.pool import Connection
from receiver.errors import InvalidInput
from receiver.relay.deliveries import list_debts
from receiver.relay.endpoints import list_unseen
from receiver.summary.batches import BatchFilter, list_batches
from receiver.summary.health import get_health
from receiver.summary.needs_attention import get_attention
from receiver.summary.series import INTERVALS, Interval, SummaryFilter, get_series
from receiver.web.dashboard.charts import stacked_series
from receiver.web.dashboard.filters import Filters
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import time_zone, zone
from receiver.web.reading import reader
from receiver.web.services import services

DAYS = 30
"""Default period of the totals and the chart."""

HOURLY_DAYS = 2
"""Up to this period, results are shown by hour."""

RUNNING = 5
"""Running batches that are shown; the list of batches has all."""


@page("/", scope="read")
def overview() -> str:
    """What needs attention, what is running, and the results."""
    filters = Filters.read(request.args)
    today = datetime.now(zone()).date()
    # The default period must not hide what needs attention, here or in linked lists.
    asked_for, asked_for_query = _batches(filters), filters.query
    if "from" not in filters.texts and "to" not in filters.texts:
        filters.first_day = today - timedelta(days=DAYS - 1)
    shown = _batches(filters)
    interval = filters.one_of("interval", INTERVALS) or _interval(filters)
    running_of = BatchFilter(application_id=filters.application_id, deployment_id=filters.deployment_id, running=True)
    # If the end is not in the past, the series ends now.
    ends_at = min(filters.ends_at or datetime.max.replace(tzinfo=UTC), datetime.now(UTC))
    results = SummaryFilter(
        application_id=filters.application_id,
        deployment_id=filters.deployment_id,
        from_=filters.starts_at,
        to=ends_at,
        interval=interval,
        time_zone=time_zone(),
    )
    simulated = services().config.batch_kind

    def read(conn: Connection) -> dict[str, Any]:
        points: list[dict[str, Any]] = []
        if filters.starts_at is None or filters.starts_at < ends_at:
            try:
                points = get_series(conn, results)
            except InvalidInput as error:
                filters.faults["interval"] = error.faults[0].message
        running = list_batches(conn, running_of, RUNNING + 1, with_submissions=False)
        attention = get_attention(conn, asked_for, simulated=simulated)
        has_any = filters.texts or running or list_batches(conn, BatchFilter(), 1, with_submissions=False)
        return {
            "alive": get_health(conn),
            "attention": attention,
            "debts": list_debts(conn),
            "figures": attention if shown == asked_for else get_attention(conn, shown),
            "given_up": list_unseen(conn),
            "is_new": not has_any,
            "more_running": len(running) > RUNNING,
            "points": points,
            "running": running[:RUNNING],
        }

    found = reader().read_at_one_moment(read)
    if "interval" in filters.faults:
        chart = Markup('<p class="chart-empty">Not drawn: see “Results by” above.</p>')
    else:
        chart = stacked_series(
            found["points"], interval=interval, time_zone=time_zone(), key="results", title="Results by time received"
        )
    return render_template(
        "overview.html",
        asked_for=asked_for,
        asked_for_query=asked_for_query,
        chart=chart,
        filters=filters,
        interval=interval,
        simulated=simulated,
        today=today,
        totals=found["figures"].totals,
        **found,
    )


def _batches(filters: Filters) -> BatchFilter:
    return BatchFilter(
        application_id=filters.application_id,
        deployment_id=filters.deployment_id,
        created_from=filters.starts_at,
        created_to=filters.ends_at,
    )


def _interval(filters: Filters) -> Interval:
    if filters.first_day is None:
        return "day"
    last = filters.last_day or datetime.now(filters.zone).date()
    return "hour" if (last - filters.first_day).days < HOURLY_DAYS else "day"
