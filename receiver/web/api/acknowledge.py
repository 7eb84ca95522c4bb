"""Acknowledgements over REST: a person has seen what needed attention."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import connection
from receiver.queueing.form_fields import says
from receiver.results import acknowledgement
from receiver.summary.batches import Batch, get_batch
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.api.release import Noted
from receiver.web.api.replay import MOST_IDS, Ids, check_ids_or_state
from receiver.web.auth import current_key
from receiver.web.services import services

blueprint = Blueprint("acknowledge", tag="batches")


class AcknowledgeRequest(Schema):
    ids = Ids(f"These callbacks, at most {MOST_IDS}; or `state`.")
    state = schemas.one_of(
        acknowledgement.NEED_ATTENTION,
        f"All callbacks in this state, at most {acknowledgement.ACKNOWLEDGED_AT_ONCE:,} at once; or `ids`.",
    )
    note = schemas.text("Why. It is stored with your key's name.", validate=validate.Length(max=NOTE_CHARACTERS))

    _check_one = check_ids_or_state


class AcknowledgeAnswer(schemas.Answer):
    acknowledged = schemas.whole("Callbacks that were not acknowledged before.")
    more = schemas.flag("Whether there may be more callbacks in this state: send the request again.")
    passed_over = fields.List(
        fields.Integer(),
        metadata=says("The `ids` that do not exist, do not need attention, or were acknowledged before."),
    )


@blueprint.operation(
    "POST /callbacks/acknowledge", "queue", AcknowledgeAnswer, body=AcknowledgeRequest, tag="callbacks"
)
def acknowledge_callbacks(said: dict[str, Any]) -> dict[str, Any]:
    """Mark callbacks as seen by a person

    They are no longer listed as needing attention. Their state and all counts stay. If a replay gives a callback
    another state that needs attention, it is listed again.
    """
    with connection(services().pool) as conn:
        found = acknowledgement.acknowledge_callbacks(conn, by=current_key().name, **said)
    return {
        "acknowledged": len(found),
        "more": len(found) == acknowledgement.ACKNOWLEDGED_AT_ONCE,
        "passed_over": sorted(set(said.get("ids", ())) - set(found)),
    }


@blueprint.operation("POST /batches/<int:batch_id>/acknowledge", "queue", schemas.Batch, body=Noted)
def acknowledge_batch(said: dict[str, Any], batch_id: int) -> Batch:
    """Mark the refused and overdue calls of a batch as seen by a person

    They are no longer listed as needing attention. All counts stay. Calls that are refused or become overdue later
    are listed again.
    """
    with connection(services().pool) as conn:
        acknowledgement.acknowledge_batch(conn, batch_id, by=current_key().name, note=said.get("note"))
        return get_batch(conn, batch_id)
