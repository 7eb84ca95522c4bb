"""The summary over REST: totals and series over many batches."""

from __future__ import annotations

import json
from typing import Any

from flask import Response, jsonify
from marshmallow import fields, validate

from receiver.queueing.form_fields import Timestamp, says
from receiver.summary import breakdown, series
from receiver.summary.batches import get_batch
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.json_answer import answer_json
from receiver.web.reading import reader

blueprint = Blueprint("summary")


class SummaryQuery(schemas.PeriodQuery):
    from_ = Timestamp(
        data_key="from",
        metadata=says(
            "Start of the series; default: the first result. Results are counted by quarter hours of UTC. The quarter"
            " hour that contains this time is included completely."
        ),
    )
    to = Timestamp(
        metadata=says(
            "End of the series, not included; default: the last result. Results are counted by quarter hours of UTC. A"
            " quarter hour that begins before this time is included completely."
        )
    )
    interval = schemas.one_of(series.INTERVALS, "The length of each point of the series.", load_default="day")
    time_zone = fields.String(
        load_default="UTC",
        validate=validate.Length(min=1, max=100),
        metadata=says("The time zone of hours and days: an IANA name.", example="America/New_York"),
    )
    application_id = schemas.id_of("Only this application's batches.")
    deployment_id = schemas.id_of("Only this deployment's batches.")
    batch_id = schemas.id_of("Only this batch.")
    label = schemas.by_label()


class TotalsAnswer(schemas.Counts):
    attempts = schemas.whole("Attempts of all calls that ended.")
    duration_seconds = schemas.whole("Total seconds of all completed calls.")


class PointAnswer(schemas.Outcomes):
    at = schemas.moment("When the hour or day begins.")
    attempts = schemas.whole("Attempts of these calls.")
    duration_seconds = schemas.whole("Total seconds of these calls.")


class SummaryAnswer(schemas.Answer):
    totals = schemas.nested(TotalsAnswer, "The current balance of the batches.")
    series = schemas.several(PointAnswer, "Results by the time they were received, oldest first.")


class BreakdownQuery(SummaryQuery):
    class Meta:
        exclude = ("interval",)

    by = schemas.one_of(breakdown.BREAKDOWNS, "What the results are counted by.", required=True)


class BreakdownRow(schemas.Outcomes):
    value = schemas.text(
        "The hour as two digits, the day as `mon`, the number of attempts, or the area: `+1` with the area code, or"
        " another country's calling code. Null: unknown, or the number was erased.",
        allow_none=True,
    )
    completed_share = fields.Float(
        validate=validate.Range(0, 1),
        allow_none=True,
        metadata=says("The share that ended `completed`; null without results."),
    )


class BreakdownAnswer(schemas.Answer):
    rows = schemas.several(BreakdownRow, "All hours or weekdays; of attempts and areas those that have results.")


@blueprint.operation("GET /summary/breakdown", "read", BreakdownAnswer, query=BreakdownQuery)
def get_breakdown(query: dict[str, Any]) -> Response:
    """Results by hour of day, weekday, number of attempts or area of the number

    Hours and weekdays are those of `time_zone` in which results were received. `from` and `to` have the same effect
    as for the series of the summary.
    """
    _check_batch(query)
    return jsonify(rows=reader().read(breakdown.get_breakdown, query.pop("by"), series.SummaryFilter(**query)))


def _check_batch(query: dict[str, Any]) -> None:
    """Raises NotFound if the query names a batch that does not exist."""
    if "batch_id" in query:
        reader().read(get_batch, query["batch_id"], with_submissions=False)


@blueprint.operation("GET /summary", "read", SummaryAnswer, query=SummaryQuery, conditional=True)
def get_summary(query: dict[str, Any]) -> Response:
    """Totals of all batches, and their results by hour or day

    `totals` are the current balance of the batches, regardless of when their results were received. `series` has
    the results received from `from` until before `to`, one point for every hour or day of `time_zone`. A day or
    hour that a clock change makes longer or shorter is one point. At most 10,000 points.
    """
    _check_batch(query)
    found = reader().read(series.get_summary, series.SummaryFilter(**query))
    return answer_json(f'{{"totals":{json.dumps(found.totals)},"series":{found.series_json}}}')
