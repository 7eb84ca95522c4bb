"""Batches over REST: queue one, list them, read and change one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from flask import Response, jsonify, request, url_for
from flask.views import MethodView
from marshmallow import fields, validate
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import UnsupportedMediaType

from receiver.database.pool import DatabaseUnavailable, connection, reading
from receiver.errors import Fault, InvalidInput
from receiver.queueing.acceptance import (
    Accepted,
    IdempotentRequest,
    accept,
    find_accepted,
    preview,
    request_digest,
)
from receiver.queueing.batches import check_external_id
from receiver.queueing.parameters import (
    DAYS_PATTERN,
    HOURS_PATTERN,
    STORABLE,
    CallingDays,
    CallingHours,
    Flag,
    Labels,
    WholeSecond,
    read_parameters,
    says,
    storable,
)
from receiver.queueing.suppressions import find_suppressed
from receiver.release.control import change_batch
from receiver.summary.batches import Batch, BatchFilter, get_batch, list_batches
from receiver.web import schemas
from receiver.web.api import Blueprint, OptionalBody
from receiver.web.auth import STORED, Stored, current_key, requires
from receiver.web.conditional import revalidated
from receiver.web.cursors import Found, answer_page, first
from receiver.web.json_answer import json_writer
from receiver.web.json_fields import JsonNumber
from receiver.web.problems import Problem, errors_of
from receiver.web.reading import reader
from receiver.web.services import services
from receiver.web.waiting import WAIT, Wait

WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10, 60

LABELS_BYTES = 64 << 10
"""How much of a part with labels is read: more than ten of the longest labels need, however they are escaped."""

BATCHES_AT_ONCE = 25
"""Batches that one query reads: a batch with many repeated numbers can have a megabyte of submissions."""

_batch = schemas.Batch()


class BatchChanges(OptionalBody):
    name = fields.String(
        validate=[validate.Length(max=200), storable], metadata=says("A name for lists.", pattern=STORABLE)
    )
    external_id = fields.String(
        allow_none=True,
        validate=[validate.Length(min=1), validate.Length(max=255), storable],
        metadata=says("Your own name for the batch. It must be unique. null: none.", pattern=STORABLE),
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


blueprint = Blueprint("batches", __name__, description="Batches: a CSV and its parameters, as queued")


@blueprint.route("/batches")
class Batches(MethodView):
    @requires("read")
    @revalidated
    @blueprint.arguments(schemas.BatchesQuery, location="query")
    @blueprint.response(200, schemas.Batches)
    @blueprint.doc(operationId="list_batches")
    def get(self, query: dict[str, Any]) -> Response:
        """List batches, newest first

        Each batch has its whole balance. A batch is listed if it matches all filters.
        """
        wanted = BatchFilter(**{name: value for name, value in query.items() if name not in ("limit", "cursor")})

        def read(limit: int, after: tuple[int, ...] | None) -> Found[Batch]:
            return first(reader().read(list_batches, wanted, limit + 1, after[0] if after else None), limit)

        return answer_page(
            "batches", query, read, lambda batch: (batch.id,), json_writer(_batch), at_once=BATCHES_AT_ONCE
        )

    @requires("queue")
    @blueprint.arguments(schemas.NoQuery, location="query", as_kwargs=True)
    @blueprint.response(201, schemas.Batch, description="The provider accepted every submission.")
    @blueprint.alt_response(
        202,
        schema=schemas.Batch,
        success=True,
        description="Still queueing, or will be released later, or some submission is `unknown`.",
    )
    @blueprint.alt_response(
        200, schema=schemas.Preview, success=True, description="`dry_run`: a preview. Nothing was stored or sent."
    )
    @blueprint.doc(operationId="queue_batch")
    def post(self) -> Response:
        """Queue a CSV

        The first row is a header whose first cell is `destination`; every other column becomes a variable of its call.
        If any row is invalid, or any destination appears twice, the whole file is refused unless `on_invalid` or
        `on_duplicate` allow it. A submission is sent to the provider at most once. If the answer is lost, it becomes
        `unknown` until a callback proves that it was queued, or a person resolves it.
        """
        stored: Stored | None = request.environ.get(STORED)
        if stored is None:
            return queue_batch()
        batch_id, headers = stored.subject
        return _answer(_read(batch_id, headers), headers)


@blueprint.route("/batches/<int:batch_id>")
class OneBatch(MethodView):
    @requires("read")
    @revalidated
    @blueprint.arguments(schemas.NoQuery, location="query", as_kwargs=True)
    @blueprint.response(200, schemas.Batch)
    @blueprint.doc(operationId="get_batch")
    def get(self, batch_id: int) -> Batch:
        """One batch with its balance

        The balance is read from counters, so it costs the same for ten calls and for ten million.
        """
        with reading(services().pool) as conn:
            return get_batch(conn, batch_id)

    @requires("queue")
    @blueprint.arguments(schemas.NoQuery, location="query", as_kwargs=True)
    @blueprint.arguments(BatchChanges)
    @blueprint.response(200, schemas.Batch)
    @blueprint.doc(operationId="change_batch")
    def patch(self, changes: dict[str, Any], batch_id: int) -> Batch:
        """Change a batch

        `name`, `external_id` and `labels` can always be changed. The other members change what is unreleased; if
        nothing is unreleased, the answer is 409 `nothing_unreleased`. `calling_hours` and `calling_days` can be changed
        only if the batch was queued with calling hours. What is not given stays as it is.
        """
        with connection(services().pool) as conn:
            if changes:
                change_batch(conn, batch_id, changes, by=current_key().name, grace=services().limits.grace)
            return get_batch(conn, batch_id)


def queue_batch() -> Response:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send the CSV and its parameters as multipart/form-data.")
    csv, form = _read_form()
    repeatable = None if form.get("dry_run", "").lower() in Flag.truthy else _repeatable(csv, form)
    if repeatable is not None:
        # Before any check: a repeated request must get the same answer, even if its times are in the past now.
        with reading(services().pool) as conn:
            earlier = find_accepted(conn, repeatable)
        if earlier is not None:
            return _accepted(earlier, _preferred_wait())
    parameters = read_parameters(form, services().config.default_region, csv.filename or "")
    if parameters.dry_run:
        if parameters.external_id is not None:
            with reading(services().pool) as conn:
                check_external_id(conn, parameters.external_id)
        seen = preview(csv.stream, parameters, services().limits, suppressed_numbers)
        content: dict[str, Any] = {name: getattr(seen, name) for name in seen.__slots__}
        content |= {"warnings": errors_of(seen.warnings), "errors": errors_of(seen.errors)}
        return jsonify(schemas.Preview().dump(content))

    with connection(services().pool) as conn:
        accepted = accept(conn, csv.stream, parameters, services().limits, repeatable, created_by=current_key().name)
    return _accepted(accepted, _preferred_wait())


def suppressed_numbers(phone_numbers: Sequence[int]) -> set[int]:
    """Those of these numbers that are suppressed. No connection is held while a file is read."""
    with reading(services().pool) as conn:
        return find_suppressed(conn, phone_numbers)


def _repeatable(csv: FileStorage, form: dict[str, str]) -> IdempotentRequest | None:
    idempotency_key = request.headers.get("Idempotency-Key")
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= 255 or not idempotency_key.isprintable():
        raise InvalidInput(
            "Some parameters are not valid.",
            [Fault("Idempotency-Key", "invalid", "It must be 1 to 255 printable characters.")],
        )
    return IdempotentRequest(current_key().key_id, idempotency_key, request_digest(csv.stream, form))


def _accepted(accepted: Accepted, wait_seconds: float) -> Response:
    headers = {"Location": url_for("batches.OneBatch", batch_id=accepted.batch_id)}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    batch = _read(accepted.batch_id, headers)
    if batch.state == "queueing" and wait_seconds:
        stored = Stored(current_key(), (batch.id, headers))
        ready = partial(services().decisions.has, batch.id)
        request.environ[WAIT] = Wait(ready, time.monotonic() + wait_seconds, {STORED: stored, "CONTENT_LENGTH": "0"})
    return _answer(batch, headers)


def _read_form() -> tuple[FileStorage, dict[str, str]]:
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
        faults.append(Fault("csv", "required", "Send the contacts as a file in the field `csv`."))
    if csv is None or faults:
        raise InvalidInput("Some parameters are not valid.", faults)
    form = request.form.to_dict()
    if "labels" in request.files:  # browsers send a JSON part as a file
        form["labels"] = request.files["labels"].read(LABELS_BYTES).decode(errors="replace")
    return csv, form


def _preferred_wait() -> float:
    """Seconds of `Prefer: wait=N`. Other preferences are ignored (RFC 7240)."""
    for preference in request.headers.get("Prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        # isdigit() alone also accepts superscripts, which int() refuses.
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdigit():
            return min(int(seconds[:9]), LONGEST_WAIT_SECONDS)
    return WAIT_SECONDS


def _read(batch_id: int, headers: dict[str, str]) -> Batch:
    try:
        with reading(services().pool) as conn:
            return get_batch(conn, batch_id)
    except DatabaseUnavailable:
        # After a plain "try again" a client would queue the batch twice.
        raise Problem(
            "database_unavailable",
            "The batch is stored, but the database is unavailable. Do not send it again; check its state later.",
            headers=headers,
            batch_id=batch_id,
        ) from None


def _answer(batch: Batch, headers: dict[str, str]) -> Response:
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
    answer = jsonify(_batch.dump(batch))
    answer.status_code = 201 if batch.state == "queued" else 202
    answer.headers.update(headers)
    return answer
