"""The audit trail over REST: who changed what, when, and with which note."""

from __future__ import annotations

from typing import Any

from flask import Response
from marshmallow import fields

from receiver.changes.audit import Change, ChangeFilter, list_changes
from receiver.queueing.form_fields import Timestamp, says, short_text
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.cursors import answer_list
from receiver.web.json_answer import json_writer
from receiver.web.reading import primary

blueprint = Blueprint("audit")


class AuditQuery(schemas.PageQuery, schemas.PeriodQuery):
    actor = short_text(200, "Only changes by this actor: an API key's name, `command line`, or `system`.", least=1)
    action = short_text(200, "Only this action, such as `cancel`.", least=1)
    from_ = Timestamp(data_key="from", metadata=says("Only changes at this time or later, to the microsecond."))
    to = Timestamp(metadata=says("Only changes before this time, to the microsecond."))


class AuditEntry(schemas.Answer):
    id = schemas.whole("The id.")
    at = schemas.moment("When the change was made.")
    actor = schemas.text("An API key's name, `command line`, or `system`.")
    action = schemas.text(
        "What was done: `queue`, `pause`, `resume`, `cancel`, `change`, `cancel_deployment`, `resolve`, `replay`,"
        " `acknowledge`, `suppress`, `unsuppress`, `erase`, `purge`, `make_key`, `revoke_key`, `create_endpoint`,"
        " `change_endpoint`, `delete_endpoint`, `rotate_endpoint`, `disable_endpoint` or `retry_deliveries`. Others may"
        " be added."
    )
    batch_id = schemas.whole("The batch; null if it is about none.", allow_none=True)
    submission_id = schemas.whole("The submission's number in the batch.", allow_none=True)
    details = fields.Dict(
        keys=fields.String(),
        metadata=says("What else names the subject, by action. A phone number shows only its last two digits."),
    )
    note = schemas.text("The note that was given. Numbers in it are masked.", allow_none=True)


class AuditAnswer(schemas.Page):
    audit = schemas.several(AuditEntry, "Newest first.")


@blueprint.operation("GET /audit", "admin", AuditAnswer, query=AuditQuery)
def list_audit(query: dict[str, Any]) -> Response:
    """List changes, newest first

    Each entry was written in the transaction that made the change. Only an erasure changes entries: it removes the
    erased number from their texts.
    """
    wanted = ChangeFilter(query.get("actor"), query.get("action"), query.get("from_"), query.get("to"))

    def read(limit: int, before: int | None) -> list[Change]:
        return primary().read(list_changes, wanted, limit, before)

    return answer_list("audit", query, read, json_writer(AuditEntry()))
