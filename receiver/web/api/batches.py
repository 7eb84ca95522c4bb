"""Batches over REST: queue one, list them, read and change one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any, TypeVar

from flask import Response, jsonify, request, url_for
from marshmallow import Schema, validate
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import UnsupportedMediaType

from receiver.database.pool import Connection, DatabaseUnavailable, connection, reading
from receiver.errors import Fault, InvalidInput, invalid_parameter
from receiver.queueing.acceptance import (
    Accepted,
    IdempotentRequest,
    accept,
    find_accepted,
    preview,
    recent_calls,
    request_digest,
)
from receiver.queueing.batches import Preview, check_external_id
from receiver.queueing.form_fields import (
    DAYS_PATTERN,
    HOURS_PATTERN,
    CallingDays,
    CallingHours,
    Flag,
    Labels,
    WholeSecond,
    says,
    short_text,
)
from receiver.queueing.parameters import BatchParameters, read_parameters, without_defaults
from receiver.queueing.recent import FindRecent
from receiver.queueing.submissions import FindSuppressed
from receiver.queueing.suppressions import find_suppressed
from receiver.queueing.workbook import opened_csv
from receiver.release import control
from receiver.summary import batches
from receiver.summary.call_json import batch_json
from receiver.web import schemas
from receiver.web.api import Blueprint, OptionalBody
from receiver.web.auth import View, answer_later, current_key, waited_for
from receiver.web.cursors import answer_list
from receiver.web.json_answer import answer_batch
from receiver.web.json_fields import JsonNumber
from receiver.web.problems import Problem, errors_of
from receiver.web.reading import primary, reader
from receiver.web.services import services
from receiver.web.waiting import preferred_wait

WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10, 60

LABELS_BYTES = 64 << 10
"""How much of a part with labels is read: more than ten of the longest labels need, however they are escaped."""

BATCHES_AT_ONCE = 25
"""Batches that one query reads: a batch with many repeated numbers can have a megabyte of submissions."""

_Found = TypeVar("_Found")


class BatchChanges(OptionalBody):
    name = short_text(200, "A name for lists.")
    external_id = short_text(
        255, "Your own name for the batch. It must be unique. null: none.", least=1, allow_none=True
    )
    labels = Labels(metadata=says("Your own labels, in place of all labels that the batch has."))
    calls_per_minute = JsonNumber(
        allow_none=True,
        validate=validate.Range(1, 100_000),
        metadata=says(
            "The pace of what is unreleased. It cannot be less than the largest unreleased submission. null: no pace."
        ),
    )
    calling_hours = CallingHours(
        metadata=says("The hours in which the rest is released, such as 09:00-21:00.", pattern=HOURS_PATTERN)
    )
    calling_days = CallingDays(
        metadata=says("The days on which the rest is released, such as mon,tue.", pattern=DAYS_PATTERN)
    )
    end_timestamp = WholeSecond(allow_none=True, metadata=says("When dialing of the rest must stop. null: no end."))


blueprint = Blueprint("batches")


def queueing(
    of: Blueprint, name: str, answer: type[Schema], preview: type[Schema], **more: Any
) -> Callable[[View], View]:
    """Declare an operation that queues a batch."""

    def declare(view: View) -> View:
        for status, schema, text in (
            (200, preview, "`dry_run`: a preview. Nothing was stored or sent."),
            (202, answer, "Still queueing, or will be released later, or some submission is `unknown`."),
        ):
            view = of.alt_response(status, schema=schema, success=True, description=text)(view)
        accepted = "The provider accepted every submission."
        return of.operation(name, "queue", answer, status=201, description=accepted, **more)(view)

    return declare


@blueprint.operation("GET /batches", "read", schemas.BatchPage, query=schemas.BatchesQuery, conditional=True)
def list_batches(query: dict[str, Any]) -> Response:
    """List batches, newest first

    Each batch has its whole balance. A batch is listed if it matches all filters.
    """
    wanted = batches.BatchFilter(**{name: value for name, value in query.items() if name not in ("limit", "cursor")})

    def read(limit: int, before: int | None) -> list[batches.Batch]:
        return reader().read(batches.list_batches, wanted, limit, before)

    return answer_list("batches", query, read, batch_json, at_once=BATCHES_AT_ONCE)


@queueing(blueprint, "POST /batches", schemas.Batch, schemas.Preview)
def queue_batch() -> Response:
    """Queue a CSV

    The first row is a header whose first cell is `destination`; every other column becomes a variable of its call.
    If any row is invalid, or any destination appears twice, the whole file is refused unless `on_invalid` or
    `on_duplicate` allow it. A submission is sent to the provider at most once. If the answer is lost, it becomes
    `unknown` until a callback proves that it was queued, or a person resolves it.
    """
    if (stored := waited_for()) is not None:
        return answer_stored(stored)
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send the CSV and its parameters as multipart/form-data.")
    csv, form = read_form()
    key = idempotency_key()
    is_dry = form.get("dry_run", "").lower() in Flag.truthy
    repeatable = None if key is None or is_dry else repeatable_request(key, csv.stream, form, csv.filename or "")
    if repeatable is not None:
        # Before any check: a repeated request must get the same answer, even if its times are in the past now.
        earlier = primary().read(find_accepted, repeatable)
        if earlier is not None:
            return answer_accepted(earlier)
    parameters = read_parameters(form, services().config.default_region, csv.filename or "")
    if parameters.dry_run:
        primary().read(check_external_id, parameters)
        with opened_csv(csv.stream) as text:
            seen = preview(text, parameters, services().limits, *number_lookups(parameters))
        return jsonify(schemas.Preview().dump(preview_members(seen)))
    with opened_csv(csv.stream) as text, connection(services().pool) as conn:
        accepted = accept(conn, text, parameters, services().limits, repeatable, created_by=current_key().name)
    return answer_accepted(accepted)


@blueprint.operation("GET /batches/<int:batch_id>", "read", schemas.Batch, conditional=True)
def get_batch(batch_id: int) -> Response:
    """One batch with its balance

    The balance is read from counters, so it costs the same for ten calls and for ten million.
    """
    return answer_batch(primary().read(batches.get_batch, batch_id))


@blueprint.operation("PATCH /batches/<int:batch_id>", "queue", schemas.Batch, body=BatchChanges)
def change_batch(changes: dict[str, Any], batch_id: int) -> Response:
    """Change a batch

    `name`, `external_id` and `labels` can always be changed. The other members change what is unreleased; if
    nothing is unreleased, the answer is 409 `nothing_unreleased`. `calling_hours` and `calling_days` can be changed
    only if the batch was queued with calling hours. What is not given stays as it is.
    """
    with connection(services().pool) as conn:
        if changes:
            control.change_batch(conn, batch_id, changes, by=current_key().name, grace=services().limits.grace)
        return answer_batch(batches.get_batch(conn, batch_id))


def preview_members(seen: Preview) -> dict[str, Any]:
    """A preview for its schema."""
    return {
        **{name: getattr(seen, name) for name in seen.__slots__},
        "warnings": errors_of(seen.warnings),
        "errors": errors_of(seen.errors),
    }


def number_lookups(parameters: BatchParameters) -> tuple[FindSuppressed, FindRecent]:
    """They find suppressed numbers, and recent ones. No connection is held while a file is read."""
    return _looked_up(find_suppressed), _looked_up(recent_calls(parameters, services().limits).find)


def _looked_up(find: Callable[[Connection, Sequence[int]], _Found]) -> Callable[[Sequence[int]], _Found]:
    def look_up(phone_numbers: Sequence[int]) -> _Found:
        with reading(services().pool) as conn:
            return find(conn, phone_numbers)

    return look_up


def idempotency_key() -> str | None:
    """The value of the header, if there is one. Raises InvalidInput."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= 255 and key.isprintable()):
        raise invalid_parameter("Idempotency-Key", "invalid", "It must be 1 to 255 printable characters.")
    return key


def repeatable_request(key: str, content: IO[bytes], form: Mapping[str, str], file_name: str = "") -> IdempotentRequest:
    plain = without_defaults(form, {"default_region": services().config.default_region, "name": file_name})
    as_sent = None if plain == form else request_digest(content, form)
    return IdempotentRequest(current_key().key_id, key, request_digest(content, plain), as_sent)


def answer_stored(stored: tuple[int, dict[str, str]]) -> Response:
    """The answer to a request that has waited for the provider."""
    batch_id, headers = stored
    return _answer(_read(batch_id, headers), headers)


def answer_accepted(accepted: Accepted) -> Response:
    """The answer with the batch. If the request waits for the provider, it is resumed with `answer_stored`."""
    headers = {"Location": url_for("batches.get_batch", batch_id=accepted.batch_id)}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    batch = _read(accepted.batch_id, headers)
    wait_seconds = preferred_wait(request.headers.get("Prefer", ""), WAIT_SECONDS, LONGEST_WAIT_SECONDS)
    if batch.state == "queueing" and wait_seconds:
        answer_later((batch.id, headers), partial(services().decisions.is_met, batch.id), wait_seconds)
    return _answer(batch, headers)


def read_form() -> tuple[FileStorage, dict[str, str]]:
    try:
        request.form  # noqa: B018 reads the whole body
    except ValueError as error:
        raise InvalidInput(
            "The body cannot be read as multipart/form-data; nothing was stored.",
            [Fault("body", "broken_form", f"{error}.")],
        ) from None
    faults = [
        Fault(name, "repeated_field", "It must not be given more than once.")
        for name in {**request.form, **request.files}
        if len(request.form.getlist(name)) + len(request.files.getlist(name)) > 1
    ]
    unknown = [name for name in request.files if name not in ("csv", "labels")]
    faults += [Fault(name, "unknown_field", "Unknown field.") for name in unknown]
    csv = request.files.get("csv")
    if csv is None:
        faults.append(Fault("csv", "required", "Send the file in the field `csv`."))
    if csv is None or faults:
        raise InvalidInput("Some parameters are not valid.", faults)
    form = request.form.to_dict()
    if "labels" in request.files:  # browsers send a JSON part as a file
        form["labels"] = request.files["labels"].read(LABELS_BYTES).decode(errors="replace")
    return csv, form


def _read(batch_id: int, headers: dict[str, str]) -> batches.Batch:
    try:
        return primary().read(batches.get_batch, batch_id)
    except DatabaseUnavailable:
        # After a plain "try again" a client would queue the batch twice.
        raise Problem(
            "database_unavailable",
            "The batch is stored, but the database is unavailable. Do not send it again; check its state later.",
            headers=headers,
            batch_id=batch_id,
        ) from None


def _answer(batch: batches.Batch, headers: dict[str, str]) -> Response:
    if batch.state == "refused":
        refused = next(submission for submission in batch.submissions if submission.state == "refused")
        raise Problem(
            "provider_refused",
            "The provider refused the calls; nobody will be called. The batch is stored as refused.",
            headers=headers,
            batch_id=batch.id,
            provider_status=refused.provider_status,
            provider_error=refused.error,
        )
    chosen = {} if batch.follows is None else {"chosen": batch.counts["rows"], "left_out": batch.left_out}
    answer = answer_batch(batch, **chosen)
    answer.status_code = 201 if batch.state == "queued" else 202
    answer.headers.update(headers)
    return answer
