"""The shapes of requests and answers, each field with its meaning; the OpenAPI description is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from marshmallow import Schema, fields, validate

from receiver.model import (
    BATCH_STATES,
    CALL_STATES,
    CALLBACK_STATES,
    OUTCOMES,
    SUBMISSION_STATES,
    rfc3339,
)
from receiver.queueing.parameters import STORABLE, Timestamp, WholeNumber, says, storable
from receiver.web.json_answer import ReadyJson

LARGEST_ID = 10**18 - 1


class Moment(fields.Field[datetime]):
    """A time in answers, as `rfc3339` writes it."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else rfc3339(value)


class Answer(Schema):
    """What is answered: every field is there, unless its metadata say `optional`."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.required = not field_obj.metadata.get("optional", False)


def _whole(description: str, **options: Any) -> fields.Integer:
    return fields.Integer(metadata=says(description), **options)


def _text(description: str, **options: Any) -> fields.String:
    return fields.String(metadata=says(description), **options)


def _moment(description: str, **options: Any) -> Moment:
    return Moment(metadata=says(description), **options)


def _one_of(choices: Sequence[str], description: str, **options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(choices), metadata=says(description), **options)


def _id(description: str) -> WholeNumber:
    return WholeNumber(validate=validate.Range(1, LARGEST_ID), metadata=says(description))


def _number(**options: Any) -> fields.String:
    description = "A number in any usual spelling; without its country it is read as `DEFAULT_REGION`'s, too."
    return fields.String(validate=validate.Length(min=1, max=200), metadata=says(description), **options)


class NoQuery(Schema):
    """Of what takes none: `?dry_run=1` beside the form must not be passed over."""


class PageQuery(Schema):
    limit = WholeNumber(load_default=100, validate=validate.Range(1, 1000), metadata=says("Most items in this answer."))
    cursor = fields.String(
        validate=validate.Length(max=300), metadata=says("`next_cursor` of the page before; leave it out to begin.")
    )


class BatchesQuery(PageQuery):
    state = _one_of(BATCH_STATES, "Only batches in this state.")
    application_id = _id("Only this application's.")
    deployment_id = _id("Only this deployment's.")
    created_from = Timestamp(metadata=says("Only batches created at this time or later, to the microsecond."))
    created_to = Timestamp(metadata=says("Only batches created before this time, to the microsecond."))
    name = fields.String(
        validate=[validate.Length(max=200), storable],
        metadata=says("Only batches with this in their name, case aside.", pattern=STORABLE),
    )


class CallsQuery(PageQuery):
    state = _one_of(CALL_STATES, "Only calls in this state.")
    outcome = _one_of(OUTCOMES, "Only calls that ended so.")
    phone_number = _number()


class NumberQuery(PageQuery):
    phone_number = _number(required=True)


class CallbacksQuery(PageQuery):
    state = _one_of(CALLBACK_STATES, "Only callbacks in this state.")
    batch_id = _id("Only this batch's.")


class RowFault(Answer):
    row = fields.Integer(metadata=says("The CSV's row, from 1 after the header; or `field`.", optional=True))
    field = fields.String(metadata=says("The parameter; or `row`.", optional=True))
    code = _text("A short stable word to branch on.")
    message = _text("What is wrong, for people.")


class Problem(Answer):
    class Meta:
        description = "RFC 9457 problem details."

    type = _text("Names the problem; it is no address.")
    title = _text("The status in words.")
    status = _whole("The HTTP status.")
    detail = _text("What happened and what to do, for people.")
    code = _text("A short stable word to branch on.")


class InvalidProblem(Problem):
    errors = fields.List(
        fields.Nested(RowFault), metadata=says("Each fault with its row or field: the first 100.", optional=True)
    )
    errors_total = fields.Integer(metadata=says("How many faults there are.", optional=True))
    batch_id = fields.Integer(metadata=says("The batch that an `Idempotency-Key` became before.", optional=True))


class RefusedProblem(Problem):
    batch_id = fields.Integer(metadata=says("The batch that is stored all the same.", optional=True))
    provider_status = fields.Integer(
        allow_none=True, metadata=says("HTTP status that the provider answered.", optional=True)
    )
    provider_error = fields.String(allow_none=True, metadata=says("What the provider said.", optional=True))


class Parameters(Answer):
    start_timestamp = _moment("When dialing may begin; null: at once.", allow_none=True)
    end_timestamp = _moment("When dialing must stop; null: a day after the start.", allow_none=True)
    max_attempts = _whole("Tries a number; null: the provider's default.", allow_none=True)
    reattempt_wait = _whole("Seconds between two tries.", allow_none=True)
    is_pci = fields.Boolean(metadata=says("Whether calls run in the provider's HIPAA/PCI environment."))


class ReadyList(fields.List[Any]):
    """A list that is given as its JSON text, members as in the schema, and is put into the answer as it is."""

    def _serialize(self, value: str, *_: Any, **__: Any) -> ReadyJson:  # type: ignore[override]  # text, not a list
        return ReadyJson(value)


class Submission(Answer):
    id = _whole("Its number in the batch, from 1.")
    state = _one_of(
        SUBMISSION_STATES,
        "`pending` → `sending` → `accepted`, `refused`, or `unknown`, which is never sent again by itself.",
    )
    calls = _whole("Calls sent in it.")
    calls_queued = _whole("What the provider says it queued; it can differ from `calls`.", allow_none=True)
    provider_status = _whole("HTTP status that the provider answered.", allow_none=True)
    error = _text("What the provider said, or what kept it from being sent.", allow_none=True)


class Counts(Answer):
    class Meta:
        description = "`rows = skipped + refused + pending + overdue + final`; `final` is the sum of the outcomes."

    rows = _whole("Rows of the CSV, blank lines not counted.")
    skipped = _whole("Left out as invalid or duplicate.")
    refused = _whole("Not queued: the provider refused.")
    pending = _whole("Waiting for a result.")
    overdue = _whole("Without a result after `due_at`.")
    final = _whole("With a result.")
    completed = _whole("Ended `completed`.")
    failed = _whole("Ended `failed`.")
    canceled = _whole("Ended `canceled`.")
    rejected = _whole("Ended `rejected`.")
    other = _whole("Ended with a status that nobody documented.")


class CallbackCounts(Answer):
    class Meta:
        description = "`received` is the sum of the others."

    received = _whole("Stored.")
    waiting = _whole("Not yet settled.")
    applied = _whole("Gave a call its result.")
    duplicate = _whole("Said what another had said.")
    conflict = _whole("Said something else about a call that has a result.")
    unmatched = _whole("Named a number that is not in the submission.")
    unreadable = _whole("Without a number or a status that anybody could recognise.")


class Batch(Answer):
    id = _whole("Its number.")
    name = _text("As given, else the file's name.")
    application_id = _whole("The provider's application.")
    deployment_id = _whole("The provider's deployment.")
    state = _one_of(BATCH_STATES, "`partial`: its submissions ended differently.")
    simulated = fields.Boolean(metadata=says("Whether it was made for the simulator: nobody is called."))
    parameters = fields.Nested(Parameters, metadata=says("What the provider was told."))
    created_at = _moment("When it was handed in.")
    queued_at = _moment("When the provider had accepted all of it.", allow_none=True)
    due_at = _moment("A call without a result after this is overdue.")
    submissions = ReadyList(
        fields.Nested(Submission), attribute="submissions_json", metadata=says("The requests it was sent in.")
    )
    counts = fields.Nested(Counts, metadata=says("The balance of its calls."))
    callbacks = fields.Nested(CallbackCounts, metadata=says("The balance of its callbacks."))
    attempts = _whole("Tries of all its calls that ended.")
    duration_seconds = _whole("Seconds of all its completed calls.")
    progress = fields.Float(
        validate=validate.Range(0, 1), metadata=says("final / (rows - skipped - refused); 1 with nobody to call.")
    )
    first_result_at = _moment("When its first result was received.", allow_none=True)
    last_result_at = _moment("When its latest result was received.", allow_none=True)
    loss_rate = fields.Float(
        allow_none=True,
        validate=validate.Range(0, 1),
        metadata=says(
            "Share of its results that were never delivered: overdue, or fetched. Null before `due_at`, and with nobody"
            " to call."
        ),
    )


def _next_cursor() -> fields.String:
    return _text("`cursor` of the next page; null: this is the last.", allow_none=True)


class Batches(Answer):
    batches = fields.List(fields.Nested(Batch), metadata=says("Newest first."))
    next_cursor = _next_cursor()


class Preview(Answer):
    rows = _whole("Rows of the CSV, blank lines not counted.")
    valid = _whole("Rows that would be called.")
    invalid = _whole("Rows that cannot be called.")
    duplicates = _whole("Rows whose destination stands further up.")
    submissions = _whole("Requests that it would be sent in.")
    due_at = _moment("What `due_at` would be, were it queued now.")
    warnings = fields.List(
        fields.Nested(RowFault),
        metadata=says("What was noticed about the file. `exported_file`: columns that an export added are left out."),
    )
    errors = fields.List(fields.Nested(RowFault), metadata=says("What is wrong with which row: the first 100."))
    errors_total = _whole("How many errors there are.")


class Event(Answer):
    event = _text("The provider's word, such as `dialing`.")
    at = _moment("When; null where the provider did not say.", allow_none=True)


class Call(Answer):
    batch_id = _whole("Its batch.")
    row = _whole("Its row in the CSV, from 1 after the header.")
    phone_number = _text("E.164.")
    destination = _text("The user's own spelling.")
    variables = fields.Dict(
        keys=fields.String(), values=fields.String(), metadata=says("The row's other cells, by their column's name.")
    )
    state = _one_of(CALL_STATES, "`final`: it has a result.")
    outcome = _one_of(OUTCOMES, "How it ended; null while it has not.", allow_none=True)
    provider_status = _text("The provider's own word for it.", allow_none=True)
    attempts = _whole("Tries made.", allow_none=True)
    max_attempts = _whole("Tries allowed, as the result says.", allow_none=True)
    queued_at = _moment("When the provider queued it.", allow_none=True)
    started_at = _moment("When it was connected.", allow_none=True)
    ended_at = _moment("When it was over.", allow_none=True)
    duration_seconds = _whole("Seconds connected.", allow_none=True)
    events = fields.List(
        fields.Nested(Event),
        metadata=says(
            "What happened, in the provider's order. In lists and files the first 50; all when one call is read."
        ),
    )
    events_total = _whole("How many events the provider reported.")
    result_received_at = _moment("When its result came in.", allow_none=True)
    result_source = _one_of(["callback", "poll"], "How its result came.", allow_none=True)


class CallbackOfCall(Answer):
    id = _whole("Its number.")
    received_at = _moment("When it was received.")
    state = _one_of(CALLBACK_STATES, "What settlement made of it.")


class CallWithCallbacks(Call):
    callbacks = fields.List(
        fields.Nested(CallbackOfCall), metadata=says("Every callback received for it, in the order they came.")
    )


class Calls(Answer):
    calls = fields.List(fields.Nested(Call))
    next_cursor = _next_cursor()


class Callback(CallbackOfCall):
    batch_id = _whole("The batch whose `result_url` it was posted to.")
    submission_id = _whole("The submission, from 1 in the batch.")
    reason = _text("Why it was set aside; null where it was not.", allow_none=True)
    row = _whole("The call that it names, where it was set aside and names one.", allow_none=True)
    content_type = _text("As the sender said.")


class CallbackWithBody(Callback):
    body = fields.String(metadata=says("The body, where it is UTF-8 text; or `body_base64`.", optional=True))
    body_base64 = fields.String(metadata=says("The body in base64, where it is not.", optional=True))


class Callbacks(Answer):
    callbacks = fields.List(fields.Nested(Callback), metadata=says("Newest first."))
    next_cursor = _next_cursor()
