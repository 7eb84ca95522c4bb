"""The schemas of requests and answers. The OpenAPI description is generated from these schemas and their texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from receiver.model import (
    BATCH_PHASES,
    BATCH_STATES,
    CALL_STATES,
    CALLBACK_STATES,
    OUTCOMES,
    SUBMISSION_STATES,
    WITHDRAWN_REASONS,
    rfc3339,
)
from receiver.queueing.follow_ups import LEFT_OUT
from receiver.queueing.form_fields import (
    LARGEST_ID,
    Coded,
    Timestamp,
    WholeNumber,
    says,
    short_text,
    storable,
    whole_number,
)
from receiver.summary.lineage import MOST_ROWS

_Field = TypeVar("_Field", bound=fields.Field[Any])


class Moment(fields.Field[datetime]):
    """A time in an answer, in the format of `rfc3339`."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else rfc3339(value)


class Answer(Schema):
    """An answer. Every field is present unless its metadata has `optional`. Later releases may add fields."""

    class Meta:
        unknown = EXCLUDE  # the description says nothing about other fields

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.required = not field_obj.metadata.get("optional", False)


def whole(description: str, **options: Any) -> fields.Integer:
    return _described(fields.Integer, description, **options)


def text(description: str, **options: Any) -> fields.String:
    return _described(fields.String, description, **options)


def moment(description: str, **options: Any) -> Moment:
    return _described(Moment, description, **options)


def flag(description: str, **options: Any) -> fields.Boolean:
    return _described(fields.Boolean, description, **options)


def one_of(choices: Sequence[str], description: str, **options: Any) -> fields.String:
    return text(description, validate=validate.OneOf(choices), **options)


def word(choices: Sequence[str], description: str, **options: Any) -> fields.String:
    """One of these words, in an answer. It is no enum, because later releases may add words."""
    field = text(description, **options)
    field.metadata = {**field.metadata, "x-extensible-enum": list(choices)}
    return field


def nested(schema: type[Schema], description: str, **options: Any) -> fields.Nested:
    return _described(partial(fields.Nested, schema), description, **options)


def several(schema: type[Schema], description: str, **options: Any) -> fields.List[Any]:
    return _described(partial(fields.List, fields.Nested(schema)), description, **options)


def texts(description: str, **options: Any) -> fields.Dict:
    return _described(partial(fields.Dict, keys=fields.String(), values=fields.String()), description, **options)


def _described(kind: Callable[..., _Field], description: str, *, optional: bool = False, **options: Any) -> _Field:
    """A field. `optional`: an answer may be without it."""
    return kind(metadata=says(description, **({"optional": True} if optional else {})), **options)


def id_of(description: str) -> WholeNumber:
    return whole_number(1, LARGEST_ID, description)


def number(description: str, **options: Any) -> fields.String:
    return text(description, validate=validate.Length(min=1, max=200), **options)


def searched_number(**options: Any) -> fields.String:
    return number(
        "A phone number in any usual format. Without a country code it is also read as a number of `DEFAULT_REGION`.",
        **options,
    )


def one_number() -> fields.String:
    return number(
        "The number in any usual format. Without a country code it is one of `DEFAULT_REGION`.", required=True
    )


class Page(Answer):
    """A part of a list. A subclass has the items."""

    next_cursor = text("`cursor` of the next page; null on the last page.", allow_none=True)


class NoQuery(Schema):
    """No parameters. So a misplaced `?dry_run=1` is refused, not ignored."""


class PageQuery(Schema):
    limit = WholeNumber(
        load_default=100, validate=validate.Range(1, 1000), metadata=says("Maximum number of items in this answer.")
    )
    cursor = text(
        "`next_cursor` of the previous page. Leave it out for the first page.", validate=validate.Length(max=300)
    )


class PeriodQuery(Schema):
    """Refuses a period that ends before it begins."""

    @validates_schema
    def _check_period(self, values: dict[str, Any], **_: Any) -> None:
        for start, end in (("from_", "to"), ("created_from", "created_to")):
            if start in values and end in values and values[start] > values[end]:
                message = f"It must not be earlier than `{start.rstrip('_')}`."
                raise ValidationError({end: [Coded("out_of_order", message)]})


class Label(fields.String):
    """`key:value`, split at the first colon."""

    default_error_messages = {"invalid": "Write a label as key:value."}  # noqa: RUF012 as declared by marshmallow

    def _deserialize(  # type: ignore[override]  # the two parts, not a text
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> tuple[str, str]:
        name, _, text = super()._deserialize(value, attr, data, **kwargs).partition(":")
        if not (1 <= len(name) <= 64 and 1 <= len(text) <= 255):
            raise self.make_error("invalid")
        storable(name + text)
        return name, text


def by_label(**options: Any) -> Label:
    return Label(
        metadata=says(
            "Only batches with this label, as `key:value`. The text is split at the first colon.",
            pattern="^[^:\\x00-\\x1f\\x7f]{1,64}:[^\\x00-\\x1f\\x7f]{1,255}$",
        ),
        **options,
    )


class BatchesQuery(PageQuery, PeriodQuery):
    state = one_of(BATCH_STATES, "Only batches in this state.")
    phase = one_of(BATCH_PHASES, "Only batches in this phase.")
    application_id = id_of("Only batches of this application.")
    deployment_id = id_of("Only batches of this deployment.")
    created_from = Timestamp(metadata=says("Only batches created at this time or later, to the microsecond."))
    created_to = Timestamp(metadata=says("Only batches created before this time, to the microsecond."))
    name = short_text(200, "Only batches whose name contains this text; case is ignored.")
    external_id = short_text(255, "Only the batch with this external id.", least=1)
    idempotency_key = short_text(
        255, "Only batches that were queued with this `Idempotency-Key`, by any API key.", least=1
    )
    label = by_label()


class CallFilters(Schema):
    state = one_of(CALL_STATES, "Only calls in this state.")
    outcome = one_of(OUTCOMES, "Only calls with this outcome.")
    phone_number = searched_number()


class CallsQuery(CallFilters, PageQuery):
    pass


class EveryCallQuery(BatchesQuery):
    class Meta:
        exclude = ("limit", "cursor", "state", "phase", "name", "external_id", "idempotency_key")

    outcome = one_of(OUTCOMES, "Only calls with this outcome.")


class NumberQuery(PageQuery):
    phone_number = searched_number(required=True)


class CallbacksQuery(PageQuery):
    state = one_of(CALLBACK_STATES, "Only callbacks in this state.")
    batch_id = id_of("Only callbacks of this batch.")


class RowFault(Answer):
    row = whole("The row of the CSV, numbered from 1 after the header; absent if `field` is present.", optional=True)
    line = whole("The row's line in a spreadsheet, where the header has line 1.", optional=True)
    field = text("The parameter; absent if `row` is present.", optional=True)
    code = text("A short stable code for programs.")
    message = text("What is wrong, in words.")


class Problem(Answer):
    class Meta:
        description = "RFC 9457 problem details."

    type = text("A URN that identifies the problem.")
    title = text("The status in words.")
    status = whole("The HTTP status.")
    detail = text("What happened and what to do, in words.")
    code = text("A short stable code for programs.")


class PhoneColumn(Answer):
    name = text("The column's name.")
    valid = whole("How many of its cells are valid phone numbers, in the first rows of the file.")
    cells = whole("How many of its cells are not empty, in these rows.")


class InvalidProblem(Problem):
    errors = several(RowFault, "The first 100 faults, each with its row or field.", optional=True)
    errors_total = whole("How many faults there are.", optional=True)
    batch_id = whole("The batch that was created with this `Idempotency-Key` before.", optional=True)
    columns = several(
        PhoneColumn,
        "With `missing_destination`: the columns that look like phone numbers, most valid cells first.",
        optional=True,
    )
    left_out = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata=says("How many rows cannot be followed up, by reason.", optional=True),
    )


class ConflictProblem(Problem):
    batch_id = whole("The batch that has this `external_id`.", optional=True)


class RefusedProblem(Problem):
    batch_id = whole("The batch, which is stored.", optional=True)
    provider_status = whole("The HTTP status of the provider's answer.", allow_none=True, optional=True)
    provider_error = text("The provider's error message.", allow_none=True, optional=True)


class BatchParameters(Answer):
    start_timestamp = moment("When dialing may begin; null means at once.", allow_none=True)
    end_timestamp = moment("When dialing must stop; null means a day after the start.", allow_none=True)
    max_attempts = whole("Maximum attempts per number; null means the provider's default.", allow_none=True)
    reattempt_wait = whole("Seconds between two attempts.", allow_none=True)
    is_pci = flag("Whether calls run in the provider's HIPAA/PCI environment.")
    calls_per_minute = whole("The pace: at most this many calls are released in any 60 seconds.", allow_none=True)
    calling_hours = text("The hours in which calls are released, in the callee's local time.", allow_none=True)
    calling_days = text("The days on which calls are released; null means every day.", allow_none=True)
    time_zone = text(
        "The time zone of all rows; null means that each row has its own zones, if there are calling hours.",
        allow_none=True,
    )


class Submission(Answer):
    id = whole("The submission's number in the batch, from 1.")
    state = word(
        SUBMISSION_STATES,
        "`pending` → `sending` → `accepted`, `refused` or `unknown`; an `unknown` one is not sent again automatically."
        " `withdrawn`: it was not sent and will not be sent.",
    )
    calls = whole("Number of calls in this submission.")
    calls_queued = whole("Calls that the provider reports as queued; can differ from `calls`.", allow_none=True)
    provider_status = whole("The HTTP status of the provider's answer.", allow_none=True)
    error = text("The provider's error message, or the reason why it was not sent.", allow_none=True)
    error_code = text(
        "Why it was refused without being sent: `window_over`, `not_sent_in_time` or `erased`.", allow_none=True
    )
    time_zone = text("The time zones of its numbers, separated by commas. Null without calling hours.", allow_none=True)
    release_at = moment(
        "When it was released, or the earliest time when it can be released. Null while the batch is paused.",
        allow_none=True,
    )
    due_at = moment(
        "Its calls without a result after this time are overdue. Null until it is released.", allow_none=True
    )


class SubmissionPage(Page):
    submissions = several(Submission, "In the order of their numbers.")


class Outcomes(Answer):
    final = whole("Results: the sum of the outcomes.")
    completed = whole("Ended `completed`.")
    failed = whole("Ended `failed`.")
    canceled = whole("Ended `canceled`.")
    rejected = whole("Ended `rejected`.")
    other = whole("Ended with an undocumented status.")


class Counts(Outcomes):
    class Meta:
        description = (
            "`rows = skipped + refused + withdrawn + pending + overdue + final`; `final` is the sum of the outcomes."
        )

    rows = whole("Rows of the CSV; blank lines are not counted.")
    skipped = whole("Rows that were skipped as invalid, duplicate, suppressed or recent.")
    refused = whole("Calls that the provider refused to queue, or that could not be sent in time.")
    withdrawn = whole("Calls that were not sent and will not be sent.")
    pending = whole("Calls without a result that are not due yet.")
    overdue = whole("Calls without a result after `due_at` of their submission.")
    final = whole("Calls with a result.")


class CallbackCounts(Answer):
    class Meta:
        description = "`received` is the sum of the others."

    received = whole("All stored callbacks.")
    waiting = whole("Not yet settled.")
    applied = whole("Applied to a call, as its result or its latest status.")
    duplicate = whole("Repeats an earlier callback.")
    conflict = whole("Reports another result of a call that has a result.")
    unmatched = whole("Has a phone number that is not in the submission.")
    unreadable = whole("Has no recognisable phone number or status.")


class Batch(Answer):
    id = whole("The id.")
    name = text("The given name, or the file's name.")
    external_id = text("Your own name for the batch. No other batch has it.", allow_none=True)
    labels = texts("Your own labels for the batch.")
    application_id = whole("The provider's id of the application.")
    deployment_id = whole("The provider's id of the deployment.")
    state = word(
        BATCH_STATES,
        "`queueing`: something is unreleased or being sent. `queued`: the provider accepted it, with or without"
        " withdrawn calls. `canceled`: everything was withdrawn. `partial`: any other mixture.",
    )
    phase = word(
        BATCH_PHASES,
        "The first that applies. `paused`: something is unreleased, and the batch is paused. `scheduled`: nothing is"
        " released yet. `releasing`: something is unreleased. `calling`: some call is pending. `overdue`: some call is"
        " overdue. `ended`.",
    )
    simulated = flag("Whether it was made for the simulator, so that nobody is called.")
    follows = whole("The earlier batch whose calls it follows up.", allow_none=True)
    follow_ups = fields.List(fields.Integer(), metadata=says("The batches that follow up calls of this one."))
    created_by = text("The name of the API key that queued it, or `command line`.", allow_none=True)
    parameters = nested(BatchParameters, "The parameters of the batch.")
    created_at = moment("When the batch was created.")
    queued_at = moment("When the provider had accepted all submissions.", allow_none=True)
    due_at = moment("The latest `due_at` of its submissions. After it, calls without a result are overdue.")
    due_at_estimated = flag("Whether `due_at` is an estimate, because some submissions are unreleased.")
    paused_at = moment("Since when the batch is paused; null if its phase is not `paused`.", allow_none=True)
    ended_at = moment("When the batch ended; null until the phase is `ended`.", allow_none=True)
    submissions_total = whole("How many submissions the batch has.")
    submissions = several(
        Submission,
        "The requests to the provider that the batch is split into: at most 100, `unknown` and `refused` first.",
    )
    counts = nested(Counts, "The number of calls in each state.")
    callbacks = nested(CallbackCounts, "The number of callbacks in each state.")
    attempts = whole("Attempts of all calls that ended.")
    duration_seconds = whole("Total seconds of all completed calls.")
    progress = fields.Float(
        validate=validate.Range(0, 1),
        metadata=says("final / (rows - skipped - refused - withdrawn); 1 if there is nobody to call."),
    )
    first_result_at = moment("When the first result was received.", allow_none=True)
    last_result_at = moment("When the latest result was received.", allow_none=True)
    loss_rate = fields.Float(
        allow_none=True,
        validate=validate.Range(0, 1),
        metadata=says(
            "Share of the results that were never delivered by callback: overdue, or fetched from the provider. Null"
            " before `due_at`, and if there is nobody to call."
        ),
    )


class CanceledBatch(Batch):
    withdrawn = whole("Calls that were withdrawn now.")
    at_provider = whole("Calls that were sent and have no result yet. They continue.")


def _left_out() -> fields.Dict:
    return fields.Dict(
        keys=fields.String(validate=validate.OneOf(LEFT_OUT)),
        values=fields.Integer(),
        metadata=says(
            "How many rows of the earlier batch are not called again, by reason; each row under the first that applies."
            " `completed`: it or an earlier call of its chain is. `unknown`: it is in an `unknown` submission."
        ),
    )


class FollowUpBatch(Batch):
    chosen = whole("How many calls of the earlier batch are called again.")
    left_out = _left_out()


class LineageBatch(Batch):
    class Meta:
        description = "A batch. Of a purged one there are only `id` and `purged`."

    purged = flag("The batch was purged.")

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.required = field_name == "id"


class Lineage(Answer):
    batches = several(LineageBatch, "In the order of their ids.")
    latest = nested(
        Counts,
        "The rows of the first batch by what they came to. Null if that batch was purged, or if its follow-ups have"
        f" more than {MOST_ROWS:,} rows.",
        allow_none=True,
    )


class BatchPage(Page):
    batches = several(Batch, "Newest first.")


class ZoneRows(Answer):
    time_zone = text("One time zone, or several separated by commas: the hours must be open in all of them.")
    rows = whole("Calls in these zones.")
    opens_at = moment("When the first of them can be released; null means never.", allow_none=True)


class SampleRow(Answer):
    row = whole("The row, numbered from 1 after the header.")
    line = whole("Its line in a spreadsheet, where the header has line 1. Null in a follow-up.", allow_none=True)
    destination = text("The destination as it was read.")
    variables = texts("The other cells of the row, by column name.")


class RecentBatch(Answer):
    id = whole("The id.")
    name = text("Its name.")
    created_at = moment("When it was created.")
    rows = whole("How many rows of the CSV have a number of it.")


class RecentRows(Answer):
    rows = whole("How many rows of the CSV have a number that was queued recently.")
    batches = several(RecentBatch, "The batches that they were queued in, at most 100.")


class Preview(Answer):
    rows = whole("Rows of the CSV; blank lines are not counted.")
    valid = whole("Rows with a valid destination whose number is not suppressed, including duplicates.")
    invalid = whole("Rows that cannot be called.")
    duplicates = whole("Rows that repeat the destination of an earlier row.")
    suppressed = whole("Rows whose number is suppressed. They are skipped.")
    recent = nested(
        RecentRows, "Rows whose number waits for release in a batch, or was released within `recent_hours`."
    )
    submissions = whole("Number of requests to the provider.")
    zones = several(ZoneRows, "The time zones of the calls, most calls first. Empty without hours.")
    due_at = moment("What `due_at` would be if the batch were queued now. With pace or hours it is an estimate.")
    sample = several(SampleRow, "The first 10 rows as they were read.")
    warnings = several(
        RowFault,
        "What you should know. `exported_file`: columns that an export added are left out. `title_rows`:"
        " rows above the header are left out. `retries_do_not_fit`: the waits between attempts are longer than the"
        " calling hours of a day. `unusual_characters`: numbers are written with characters that the provider may not"
        " accept; with the first such row.",
    )
    errors = several(RowFault, "The first 100 errors, each with its row.")
    errors_total = whole("How many errors there are.")


class FollowUpPreview(Preview):
    chosen = whole("How many calls of the earlier batch would be called again.")
    left_out = _left_out()


class Event(Answer):
    event = text("The provider's name of the event, such as `dialing`.")
    at = moment("When it happened; null if the provider did not report it.", allow_none=True)


class CallKey(Answer):
    batch_id = whole("The id of the batch.")
    row = whole("The row.")


class Call(Answer):
    batch_id = whole("The id of the batch.")
    row = whole("The row in the CSV, numbered from 1 after the header.")
    phone_number = text("The phone number in E.164 format, or `erased`.")
    destination = text("The destination as written in the CSV, or `erased`.")
    variables = texts("The other cells of the row, by column name.")
    state = word(
        CALL_STATES,
        "`final`: the call has a result. `withdrawn`: it was not sent and will not be sent.",
    )
    outcome = word(OUTCOMES, "How the call ended; null while it has no result.", allow_none=True)
    provider_status = text("The status as the provider reported it.", allow_none=True)
    attempts = whole("Attempts made.", allow_none=True)
    max_attempts = whole("Maximum attempts, as reported in the result.", allow_none=True)
    queued_at = moment("When the provider queued the call.", allow_none=True)
    started_at = moment("When the call was connected.", allow_none=True)
    ended_at = moment("When the call ended.", allow_none=True)
    duration_seconds = whole("Seconds connected.", allow_none=True)
    events = several(
        Event, "The events in the provider's order. Lists and files have the first 50; a single call has all."
    )
    events_total = whole("How many events the provider reported.")
    result_received_at = moment("When the result was received.", allow_none=True)
    result_source = word(["callback", "poll"], "How the result was received.", allow_none=True)
    withdrawn_reason = word(
        WITHDRAWN_REASONS,
        "Why the call was withdrawn. `canceled`: its batch was canceled. `suppressed`: its number was suppressed."
        " `answered`: its earlier call was answered in the meantime.",
        allow_none=True,
    )
    follows = nested(CallKey, "The earlier call that it follows up; null if there is none.", allow_none=True)
    followed_by = nested(CallKey, "The call that follows it up; null if there is none.", allow_none=True)


class CallbackOfCall(Answer):
    id = whole("The id.")
    received_at = moment("When it was received.")
    state = word(CALLBACK_STATES, "Its state after settlement.")


class CallWithCallbacks(Call):
    callbacks = several(CallbackOfCall, "All callbacks for this call, in the order received.")


class CallPage(Page):
    calls = fields.List(fields.Nested(Call))


class ResultsQuery(PageQuery):
    cursor = text(
        "`next_cursor` of the previous answer, or `now`: only what happens from now on. Without it, the answer starts"
        " with the oldest entry kept.",
        validate=validate.Length(max=300),
    )


class ResultPage(Page):
    results = fields.List(fields.Nested(Call))
    next_cursor = text("`cursor` of the next request. Never null; the same again if there is nothing new.")


class Callback(CallbackOfCall):
    batch_id = whole("The batch whose `result_url` it was posted to.")
    submission_id = whole("The submission's number in the batch, from 1.")
    reason = text("Why it was not applied; null if it was.", allow_none=True)
    row = whole(
        "The row of its call. Null if it belongs to no call or is not settled yet, or if its call was erased and it is"
        " `applied`.",
        allow_none=True,
    )
    acknowledged_at = moment("When a person marked it as seen; null: never, or not in its state.", allow_none=True)
    content_type = text("The `Content-Type` header of the request.")


class CallbackWithBody(Callback):
    body = text("The body, if it is UTF-8 text.", optional=True)
    body_base64 = text("The body in base64, if it is not UTF-8 text.", optional=True)


class CallbackPage(Page):
    callbacks = several(Callback, "Newest first.")
