"""The summary over REST: many batches at once, for dashboards."""

from __future__ import annotations

from typing import Any

from flask.views import MethodView
from marshmallow import Schema, fields, validate

from receiver.queueing.parameters import Timestamp, WholeNumber, says
from receiver.summary.series import INTERVALS, Summary, SummaryFilter, get_summary
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import requires
from receiver.web.conditional import revalidated
from receiver.web.reading import reader

blueprint = Blueprint("summary", __name__, description="Totals and series over many batches")


class SummaryQuery(Schema):
    from_ = Timestamp(
        data_key="from",
        metadata=says(
            "Begin the series here; else with the first result. Results are counted by the quarter hour of UTC: that"
            " which this lies in belongs to the series from its beginning on."
        ),
    )
    to = Timestamp(
        metadata=says(
            "End the series before this; else with the last result. Results are counted by the quarter hour of UTC:"
            " one that has begun before this belongs to the series to its end."
        )
    )
    interval = fields.String(
        load_default="day", validate=validate.OneOf(INTERVALS), metadata=says("What each point of the series is.")
    )
    time_zone = fields.String(
        load_default="UTC",
        validate=validate.Length(min=1, max=100),
        metadata=says("Whose hours and days: an IANA name.", example="America/New_York"),
    )
    application_id = WholeNumber(
        validate=validate.Range(1, schemas.LARGEST_ID), metadata=says("Only this application's batches.")
    )
    deployment_id = WholeNumber(
        validate=validate.Range(1, schemas.LARGEST_ID), metadata=says("Only this deployment's batches.")
    )
    batch_id = WholeNumber(validate=validate.Range(1, schemas.LARGEST_ID), metadata=says("Only this batch."))


class TotalsAnswer(schemas.Counts):
    attempts = fields.Integer(metadata=says("Tries of all calls that ended."))
    duration_seconds = fields.Integer(metadata=says("Seconds of all completed calls."))


class PointAnswer(schemas.Answer):
    at = schemas.Moment(metadata=says("When the hour or day begins."))
    final = fields.Integer(metadata=says("Results received in it: the sum of the outcomes."))
    completed = fields.Integer(metadata=says("Ended `completed`."))
    failed = fields.Integer(metadata=says("Ended `failed`."))
    canceled = fields.Integer(metadata=says("Ended `canceled`."))
    rejected = fields.Integer(metadata=says("Ended `rejected`."))
    other = fields.Integer(metadata=says("Ended with a status that nobody documented."))
    attempts = fields.Integer(metadata=says("Their tries."))
    duration_seconds = fields.Integer(metadata=says("Their seconds."))


class SummaryAnswer(schemas.Answer):
    totals = fields.Nested(TotalsAnswer, metadata=says("Of the batches as they stand."))
    series = schemas.ReadyList(
        fields.Nested(PointAnswer),
        attribute="series_json",
        metadata=says("Results by when they came in, oldest first."),
    )


@blueprint.route("/summary")
class SummaryOfBatches(MethodView):
    @requires("read")
    @revalidated
    @blueprint.arguments(SummaryQuery, location="query")
    @blueprint.response(200, SummaryAnswer)
    @blueprint.doc(operationId="get_summary")
    def get(self, query: dict[str, Any]) -> Summary:
        """Totals of all batches, and their results by hour or day

        `totals` are of the batches as they stand, whenever their results came in, so that they balance. `series` has
        the results received from `from` until before `to`, in hours or days of `time_zone`: none is left out, and one
        that a clock change makes longer or shorter is one of them. At most 10,000.
        """
        return reader().read(get_summary, SummaryFilter(**query))
