"""Follow-ups over REST: call again those that were not reached, and see what a list came to in the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from flask import Response, jsonify, request
from marshmallow import ValidationError, fields, validate, validates_schema

from receiver.database.pool import at_one_moment, connection, reading
from receiver.queueing.acceptance import accept, find_accepted, preview_follow_up
from receiver.queueing.follow_ups import (
    DEFAULT_OUTCOMES,
    FOLLOWED_OUTCOMES,
    INCLUDABLE,
    FollowUp,
    follow_up_parameters,
)
from receiver.queueing.form_fields import Flag, Labels, WholeNumber, says
from receiver.queueing.parameters import BatchForm
from receiver.summary import lineage
from receiver.summary.batches import Batch
from receiver.summary.call_json import batch_json
from receiver.web import schemas
from receiver.web.api import Blueprint, OptionalBody
from receiver.web.api.batches import (
    answer_accepted,
    answer_stored,
    idempotency_key,
    preview_members,
    queueing,
    repeatable_request,
)
from receiver.web.auth import current_key, waited_for
from receiver.web.json_answer import answer_json
from receiver.web.json_body import read_json
from receiver.web.reading import primary
from receiver.web.services import services

blueprint = Blueprint("follow_ups", tag="batches")


class FollowUpRequest(BatchForm, OptionalBody):
    """Every field may be absent: then it is taken from the earlier batch. null: the follow-up does without it."""

    outcomes = fields.List(
        fields.String(validate=validate.OneOf(FOLLOWED_OUTCOMES)),
        metadata=says("Calls with these outcomes are called again.", default=list(DEFAULT_OUTCOMES)),
    )
    include = fields.List(
        fields.String(validate=validate.OneOf(INCLUDABLE)),
        metadata=says("Calls in these states are called again, too.", default=[]),
    )
    on_duplicate = fields.String(
        validate=validate.OneOf(["keep"]), metadata=says("Repeated destinations are kept.", default="keep")
    )

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.required = False
        field_obj.allow_none = field_name not in ("outcomes", "include", "dry_run")

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check_rules(self, _: Any, given: Mapping[str, Any], **__: Any) -> None:
        """Numbers, flags and labels are not texts, as in a form. The rest needs the earlier batch's parameters."""
        texts = {name: self.fields.get(name) for name, value in given.items() if isinstance(value, str)}
        wrong = {name: field for name, field in texts.items() if isinstance(field, WholeNumber | Flag | Labels)}
        if wrong:
            raise ValidationError({name: [field.error_messages["invalid"]] for name, field in wrong.items()})


_DEFAULTS = {
    "outcomes": sorted(DEFAULT_OUTCOMES),
    "include": [],
    "on_duplicate": "keep",
    "on_recent": "allow",
    "recent_hours": 24,
    "start_timestamp": None,
    "end_timestamp": None,
    "external_id": None,
}
"""What is the same as leaving the field out. Elsewhere null means to do without what the earlier batch has."""


@queueing(
    blueprint,
    "POST /batches/<int:batch_id>/follow-ups",
    schemas.FollowUpBatch,
    schemas.FollowUpPreview,
    body=FollowUpRequest,
)
def follow_up(said: dict[str, Any], batch_id: int) -> Response:
    """Call again those that were not reached

    Queues a new batch of calls of this batch, chosen by outcome. Each call is followed up at most once; its
    follow-up can be followed up in turn. Completed and pending calls, and calls in an `unknown` submission, are
    never chosen. If the result of the earlier call is received after all and is `completed`, the unreleased
    follow-up is withdrawn. The fields are those of a new batch; an absent field is taken from this batch, except
    the window, `external_id` and `on_recent`. `destination_column` and `default_region` have no effect: the
    numbers are those of the earlier calls.
    """
    if (stored := waited_for()) is not None:
        return answer_stored(stored)
    body = request.get_data()
    given = read_json(body) if body else {}
    given.pop("dry_run", None)
    key = idempotency_key()
    if said.get("dry_run"):
        return _preview(batch_id, given)
    written_out = {name: sorted(set(value)) if isinstance(value, list) else value for name, value in given.items()}
    if given.get("is_pci") is not None:
        written_out["is_pci"] = bool(given["is_pci"])  # 1 and true are the same
    content = {name: value for name, value in written_out.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
    canonical = json.dumps({"follows": batch_id, **content}, sort_keys=True).encode()
    repeatable = None if key is None else repeatable_request(key, BytesIO(canonical), {})
    if repeatable is not None:
        earlier = primary().read(find_accepted, repeatable)
        if earlier is not None:
            return answer_accepted(earlier)
    wanted = _wanted(batch_id, given)
    with connection(services().pool) as conn:
        parameters = follow_up_parameters(conn, batch_id, given)
        accepted = accept(conn, wanted, parameters, services().limits, repeatable, created_by=current_key().name)
    return answer_accepted(accepted)


def _wanted(batch_id: int, given: dict[str, Any]) -> FollowUp:
    return FollowUp(batch_id, given.pop("outcomes", DEFAULT_OUTCOMES), given.pop("include", ()))


def _preview(batch_id: int, given: dict[str, Any]) -> Response:
    wanted = _wanted(batch_id, given)
    with reading(services().pool) as conn:
        parameters = follow_up_parameters(conn, batch_id, given)
        seen, calls = preview_follow_up(conn, wanted, parameters, services().limits)
    content = {**preview_members(seen), "chosen": calls.chosen, "left_out": calls.left_out}
    return jsonify(schemas.FollowUpPreview().dump(content))


@blueprint.operation("GET /batches/<int:batch_id>/lineage", "read", schemas.Lineage)
def get_lineage(batch_id: int) -> Response:
    """A batch with its follow-ups, and what its rows came to in the end

    `batches`: the first batch and all batches that follow from it. `latest`: the rows of the first batch. A row is
    completed if any call of its chain is completed; else it counts by its last call that was not withdrawn as
    `answered`.
    """
    with at_one_moment(services().pool) as conn:
        found = lineage.get_lineage(conn, batch_id)
    texts = [
        batch_json(each) if isinstance(each, Batch) else json.dumps({"id": each, "purged": True})
        for each in found.batches
    ]
    return answer_json(f'{{"batches":[{",".join(texts)}],"latest":{json.dumps(found.latest)}}}')
