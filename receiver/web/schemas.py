"""The shapes of requests and answers; the OpenAPI description is made from them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, fields, validate

from receiver.model import (
    BATCH_STATES,
    CALL_STATES,
    CALLBACK_STATES,
    OUTCOMES,
    SUBMISSION_STATES,
)
from receiver.queueing.parameters import Timestamp, WholeNumber, storable

_LARGEST_ID = 2**63 - 1


class Moment(fields.Field[datetime]):
    """A time in answers: RFC 3339, UTC, `Z`, with microseconds where there are any."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _id() -> WholeNumber:
    return WholeNumber(validate=validate.Range(1, _LARGEST_ID))


class NoQuery(Schema):
    """Of what takes none: `?dry_run=1` beside the form must not be passed over."""


class PageQuery(Schema):
    limit = WholeNumber(load_default=100, validate=validate.Range(1, 1000))
    cursor = fields.String(validate=validate.Length(max=300))


class BatchesQuery(PageQuery):
    state = fields.String(validate=validate.OneOf(BATCH_STATES))
    application_id = _id()
    deployment_id = _id()
    created_from = Timestamp()
    created_to = Timestamp()
    name = fields.String(validate=[validate.Length(max=200), storable])


class CallsQuery(PageQuery):
    state = fields.String(validate=validate.OneOf(CALL_STATES))
    outcome = fields.String(validate=validate.OneOf(OUTCOMES))
    phone_number = fields.String(validate=validate.Length(min=1, max=200))


class NumberQuery(PageQuery):
    phone_number = fields.String(required=True, validate=validate.Length(min=1, max=200))


class CallbacksQuery(PageQuery):
    state = fields.String(validate=validate.OneOf(CALLBACK_STATES))
    batch_id = _id()


class RowFault(Schema):
    row = fields.Integer()
    field = fields.String()
    code = fields.String()
    message = fields.String()


class Parameters(Schema):
    start_timestamp = Moment(allow_none=True)
    end_timestamp = Moment(allow_none=True)
    max_attempts = fields.Integer(allow_none=True)
    reattempt_wait = fields.Integer(allow_none=True)
    is_pci = fields.Boolean()


class Submission(Schema):
    id = fields.Integer()
    state = fields.String(validate=validate.OneOf(SUBMISSION_STATES))
    calls = fields.Integer()
    calls_queued = fields.Integer(allow_none=True)
    provider_status = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)


class Counts(Schema):
    rows = fields.Integer()
    skipped = fields.Integer()
    refused = fields.Integer()
    pending = fields.Integer()
    overdue = fields.Integer()
    final = fields.Integer()
    completed = fields.Integer()
    failed = fields.Integer()
    canceled = fields.Integer()
    rejected = fields.Integer()
    other = fields.Integer()


class CallbackCounts(Schema):
    received = fields.Integer()
    waiting = fields.Integer()
    applied = fields.Integer()
    duplicate = fields.Integer()
    conflict = fields.Integer()
    unmatched = fields.Integer()
    unreadable = fields.Integer()


class Batch(Schema):
    id = fields.Integer()
    name = fields.String()
    application_id = fields.Integer()
    deployment_id = fields.Integer()
    state = fields.String(validate=validate.OneOf(BATCH_STATES))
    parameters = fields.Nested(Parameters)
    created_at = Moment()
    queued_at = Moment(allow_none=True)
    due_at = Moment()
    submissions = fields.List(fields.Nested(Submission))
    counts = fields.Nested(Counts)
    callbacks = fields.Nested(CallbackCounts)
    attempts = fields.Integer()
    duration_seconds = fields.Integer()
    progress = fields.Float()
    first_result_at = Moment(allow_none=True)
    last_result_at = Moment(allow_none=True)


class Batches(Schema):
    batches = fields.List(fields.Nested(Batch))
    next_cursor = fields.String(allow_none=True)


class Preview(Schema):
    rows = fields.Integer()
    valid = fields.Integer()
    invalid = fields.Integer()
    duplicates = fields.Integer()
    submissions = fields.Integer()
    due_at = Moment()
    errors = fields.List(fields.Nested(RowFault))
    errors_total = fields.Integer()


class Event(Schema):
    event = fields.String()
    at = Moment(allow_none=True)


class Call(Schema):
    batch_id = fields.Integer()
    row = fields.Integer()
    phone_number = fields.String()
    destination = fields.String()
    variables = fields.Dict(keys=fields.String(), values=fields.String())
    state = fields.String(validate=validate.OneOf(CALL_STATES))
    outcome = fields.String(validate=validate.OneOf(OUTCOMES), allow_none=True)
    provider_status = fields.String(allow_none=True)
    attempts = fields.Integer(allow_none=True)
    max_attempts = fields.Integer(allow_none=True)
    queued_at = Moment(allow_none=True)
    started_at = Moment(allow_none=True)
    ended_at = Moment(allow_none=True)
    duration_seconds = fields.Integer(allow_none=True)
    events = fields.List(fields.Nested(Event))
    result_received_at = Moment(allow_none=True)
    result_source = fields.String(validate=validate.OneOf(["callback", "poll"]), allow_none=True)


class CallbackOfCall(Schema):
    id = fields.Integer()
    received_at = Moment()
    state = fields.String(validate=validate.OneOf(CALLBACK_STATES))


class CallWithCallbacks(Call):
    callbacks = fields.List(fields.Nested(CallbackOfCall))


class Calls(Schema):
    calls = fields.List(fields.Nested(Call))
    next_cursor = fields.String(allow_none=True)


class Callback(CallbackOfCall):
    batch_id = fields.Integer()
    submission_id = fields.Integer()
    reason = fields.String(allow_none=True)
    row = fields.Integer(allow_none=True)
    content_type = fields.String()


class CallbackWithBody(Callback):
    body = fields.String(metadata={"description": "The body, where it is UTF-8 text."})
    body_base64 = fields.String(metadata={"description": "The body in base64, where it is not."})


class Callbacks(Schema):
    callbacks = fields.List(fields.Nested(Callback))
    next_cursor = fields.String(allow_none=True)
