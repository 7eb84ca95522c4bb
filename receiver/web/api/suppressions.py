"""Suppressions over REST: numbers that must not be called."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from marshmallow import Schema, post_dump
from werkzeug.exceptions import UnsupportedMediaType

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import connection
from receiver.model import e164
from receiver.phone_numbers.destination import candidates, read_number
from receiver.queueing import suppressions
from receiver.queueing.form_fields import read_fields, short_text
from receiver.queueing.suppression_files import read_numbers, suppress_file
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.api.batches import read_form
from receiver.web.auth import current_key
from receiver.web.cursors import answer_list
from receiver.web.json_answer import json_writer
from receiver.web.json_body import JSON_BYTES, read_json
from receiver.web.problems import errors_of
from receiver.web.reading import primary
from receiver.web.services import services

blueprint = Blueprint("suppressions")


class SuppressionsQuery(schemas.PageQuery):
    phone_number = schemas.number("Only this number, in any usual format. An erased number is found, too.")
    reason = short_text(suppressions.REASON_CHARACTERS, "Only entries with exactly this reason.", least=1)


_MAY_BE_ABSENT: dict[str, Any] = {"allow_none": True, "load_default": None}


class SuppressionForm(Schema):
    reason = short_text(
        suppressions.REASON_CHARACTERS,
        "Why the number must not be called, in a word such as `opted_out`.",
        **_MAY_BE_ABSENT,
    )
    note = short_text(NOTE_CHARACTERS, "A note for people; kept in the audit trail, too.", **_MAY_BE_ABSENT)


class SuppressionRequest(SuppressionForm):
    phone_number = schemas.one_number()


class SuppressionAnswer(schemas.Answer):
    id = schemas.whole("The id.")
    phone_number = schemas.text("In E.164 format; null once it is erased.", allow_none=True)
    reason = schemas.text("Why it must not be called.", allow_none=True)
    note = schemas.text("A note for people.", allow_none=True)
    created_by = schemas.text("An API key's name, `command line`, or `system` if a result suppressed the number.")
    created_at = schemas.moment("When it was suppressed.")

    @post_dump
    def _write_number(self, written: dict[str, Any], **_: Any) -> dict[str, Any]:
        number = written["phone_number"]
        return {**written, "phone_number": None if number is None else e164(int(number))}


class SuppressionsAnswer(schemas.Page):
    suppressions = schemas.several(SuppressionAnswer, "Newest first.")


class SuppressionFileAnswer(schemas.Answer):
    added = schemas.whole("Numbers that were not suppressed before.")
    present = schemas.whole("Rows whose number was suppressed before, or is in an earlier row.")
    invalid = schemas.whole("Rows without a valid number.")
    errors = schemas.several(schemas.RowFault, "The first 100 invalid rows, each with what is wrong.")


_suppression = SuppressionAnswer()


@blueprint.operation("GET /suppressions", "read", SuppressionsAnswer, query=SuppressionsQuery)
def list_suppressions(query: dict[str, Any]) -> Response:
    """List suppressions, newest first"""
    number = query.get("phone_number")
    numbers = None if number is None else candidates(number, services().config.default_region)

    def read(limit: int, before: int | None) -> list[suppressions.Suppression]:
        return primary().read(
            suppressions.list_suppressions, limit, phone_numbers=numbers, reason=query.get("reason"), before=before
        )

    return answer_list("suppressions", query, read, json_writer(_suppression))


@blueprint.operation(
    "POST /suppressions", "queue", SuppressionAnswer, status=201, description="The number is suppressed from now on."
)
@blueprint.alt_response(
    200, schema=SuppressionFileAnswer, success=True, description="The file's numbers are suppressed."
)
def suppress() -> Response:
    """Suppress a number, or a file of numbers

    From now on the number is called by no batch: its rows are skipped when a batch is queued, and its calls that
    are not released yet are withdrawn when their submission is released. Calls that were sent already continue.
    If the number was suppressed before, the answer is 200 with its entry, which stays as it is.

    A file is sent as `multipart/form-data`: `csv`, a CSV with a column `phone_number` and perhaps a column
    `reason`, in the encodings and with the delimiters of a batch, at most 1,000,000 numbers; and `reason` and
    `note` for all of them. Its numbers are stored in blocks; its invalid rows are left out and listed.
    """
    if request.mimetype == "application/json":
        return _suppress_number()
    if request.mimetype == "multipart/form-data":
        return _suppress_file()
    raise UnsupportedMediaType("Send a number as application/json, or a file as multipart/form-data.")


@blueprint.operation(
    "DELETE /suppressions/<int:suppression_id>", "admin", status=204, description="The number can be called again."
)
def delete_suppression(suppression_id: int) -> Response:
    """Remove a suppression, so that the number can be called again

    Rows that were skipped and calls that were withdrawn stay so.
    """
    with connection(services().pool) as conn:
        suppressions.delete_suppression(conn, suppression_id, by=current_key().name)
    return Response(status=204)


def _suppress_number() -> Response:
    request.max_content_length = JSON_BYTES
    given = read_fields(SuppressionRequest(), read_json(request.get_data()))
    number = read_number(given.pop("phone_number"), services().config.default_region)
    with connection(services().pool) as conn:
        found, is_new = suppressions.suppress(conn, number, by=current_key().name, **given)
    answer = jsonify(_suppression.dump(found))
    answer.status_code = 201 if is_new else 200
    return answer


def _suppress_file() -> Response:
    csv, form = read_form()
    given = read_fields(SuppressionForm(), {name: text for name, text in form.items() if text})
    file = read_numbers(csv.stream, services().config.default_region, given.get("reason"))
    with connection(services().pool) as conn:
        done = suppress_file(conn, file, by=current_key().name, note=given.get("note"))
    return jsonify(
        {name: getattr(done, name) for name in ("added", "present", "invalid")} | {"errors": errors_of(done.errors)}
    )
