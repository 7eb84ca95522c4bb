"""Callbacks over REST: the stored requests to `result_url`s, settled again, and marked as seen."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

from flask import Response
from marshmallow import Schema, fields, validate

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import connection
from receiver.model import CALLBACK_STATES
from receiver.queueing.form_fields import says
from receiver.results import acknowledgement
from receiver.results.replay import Change, replay_all
from receiver.summary import callbacks
from receiver.summary.batches import get_batch
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import current_key
from receiver.web.cursors import answer_list
from receiver.web.json_answer import json_writer
from receiver.web.json_fields import MOST_IDS, Ids, JsonFlag, exactly_one
from receiver.web.reading import primary, reader
from receiver.web.services import services

CALLBACKS_AT_ONCE = 100
"""Callbacks that one query reads: the bodies of those that were applied are read for their rows."""

CHANGES_SHOWN = 1000

blueprint = Blueprint("callbacks")


@blueprint.operation("GET /callbacks", "read", schemas.CallbackPage, query=schemas.CallbacksQuery)
def list_callbacks(query: dict[str, Any]) -> Response:
    """List callbacks, newest first"""
    state, batch_id = query.get("state"), query.get("batch_id")

    def read(limit: int, before: int | None) -> list[callbacks.Callback]:
        found = reader().read(callbacks.list_callbacks, limit, state=state, batch_id=batch_id, before=before)
        if batch_id is not None and before is None and not found:  # a batch that was purged can have later callbacks
            reader().read(get_batch, batch_id, with_submissions=False)
        return found

    return answer_list("callbacks", query, read, json_writer(schemas.Callback()), at_once=CALLBACKS_AT_ONCE)


@blueprint.operation("GET /callbacks/<int:callback_id>", "read", schemas.CallbackWithBody)
def get_callback(callback_id: int) -> dict[str, Any]:
    """One callback with its body"""
    found = primary().read(callbacks.get_callback, callback_id)
    content = dataclasses.asdict(found.callback)
    try:
        text = found.body.decode()
    except UnicodeDecodeError:
        return {**content, "body_base64": base64.b64encode(found.body).decode()}
    return {**content, "body": text}


class ReplayRequest(Schema):
    ids = Ids(f"These callbacks, at most {MOST_IDS}; or `state`.")
    state = schemas.one_of(
        [state for state in CALLBACK_STATES if state != "waiting"], "All callbacks in this state; or `ids`."
    )
    dry_run = JsonFlag(load_default=False, metadata=says("Only return what would change."))

    _check_one = exactly_one("ids", "state")


class ChangeAnswer(schemas.Answer):
    callback_id = schemas.whole("The callback.")
    batch_id = schemas.whole("Its batch.")
    state_before = schemas.word(CALLBACK_STATES, "Its state before the replay.")
    state_after = schemas.word(CALLBACK_STATES, "Its state after the replay.")
    reason_after = schemas.text("Why it was not applied; null if it was.", allow_none=True)
    row_before = schemas.whole("The row of its call before the replay.", allow_none=True)
    row_after = schemas.whole("The row of its call after the replay.", allow_none=True)


class ReplayAnswer(schemas.Answer):
    dry_run = schemas.flag("Whether this was a dry run, so that nothing was changed.")
    replayed = schemas.whole("Callbacks settled again.")
    changed = schemas.whole("Changes, including those of other callbacks for the same calls.")
    changes = schemas.several(ChangeAnswer, f"The first {CHANGES_SHOWN} changes.")
    passed_over = fields.List(
        fields.Integer(), metadata=says("The `ids` that do not exist, are not settled yet, or were erased.")
    )


@blueprint.operation("POST /callbacks/replay", "admin", ReplayAnswer, body=ReplayRequest)
def replay_callbacks(wanted: dict[str, Any]) -> dict[str, Any]:
    """Settle stored callbacks again

    They are settled as if they had just been received. Use this after an upgrade that reads more bodies, or after
    an error was fixed. All other callbacks of the same calls are decided again too. Each thousand callbacks are one
    transaction. If the request fails half-way, send it again: callbacks already settled again do not change.
    """
    replayed, changed, passed_over = 0, 0, set(wanted.get("ids", ()))
    changes: list[Change] = []
    with connection(services().pool) as conn:
        statuses = services().config.suppress_statuses
        for piece in replay_all(conn, by=current_key().name, suppress_statuses=statuses, **wanted):
            replayed += len(piece.callback_ids)
            changed += len(piece.changes)
            changes += piece.changes[: CHANGES_SHOWN - len(changes)]
            passed_over -= set(piece.callback_ids)
    return {
        "dry_run": wanted["dry_run"],
        "replayed": replayed,
        "changed": changed,
        "changes": changes,
        "passed_over": sorted(passed_over),
    }


class AcknowledgeRequest(Schema):
    ids = Ids(f"These callbacks, at most {MOST_IDS}; or `state`.")
    state = schemas.one_of(
        acknowledgement.NEED_ATTENTION,
        f"All callbacks in this state, at most {acknowledgement.ACKNOWLEDGED_AT_ONCE:,} at once; or `ids`.",
    )
    note = schemas.text("Why. It is stored with your key's name.", validate=validate.Length(max=NOTE_CHARACTERS))

    _check_one = exactly_one("ids", "state")


class AcknowledgeAnswer(schemas.Answer):
    acknowledged = schemas.whole("Callbacks that were not acknowledged before.")
    more = schemas.flag("Whether there may be more callbacks in this state: send the request again.")
    passed_over = fields.List(
        fields.Integer(),
        metadata=says("The `ids` that do not exist, do not need attention, or were acknowledged before."),
    )


@blueprint.operation("POST /callbacks/acknowledge", "queue", AcknowledgeAnswer, body=AcknowledgeRequest)
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
