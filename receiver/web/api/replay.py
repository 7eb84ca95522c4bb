"""Replay over REST: settle stored callbacks again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from receiver.database.pool import connection
from receiver.model import CALLBACK_STATES
from receiver.queueing.form_fields import LARGEST_ID, Coded, WholeNumber, says
from receiver.results.replay import Change, replay_all
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import current_key
from receiver.web.json_fields import JsonFlag
from receiver.web.services import services

MOST_IDS = 1000
CHANGES_SHOWN = 1000

blueprint = Blueprint("replay", tag="callbacks")


class Ids(fields.List[int]):
    """A list of ids. Any wrong id is reported as one fault of the whole list."""

    def __init__(self, description: str) -> None:
        ids = WholeNumber(validate=validate.Range(1, LARGEST_ID))
        super().__init__(ids, metadata=says(description, minItems=1, maxItems=MOST_IDS))

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> list[int | None]:
        if isinstance(value, list) and 1 <= len(value) <= MOST_IDS and all(map(_is_id, value)):
            return [int(item) for item in value]
        raise ValidationError(f"It must be a list of 1 to {MOST_IDS} ids, which are whole numbers.")


def _is_id(item: Any) -> bool:
    """Whether a JSON value is a valid id. 7.0 is the same as 7."""
    return type(item) in (int, float) and item == int(item) and 1 <= item <= LARGEST_ID


@validates_schema
def check_ids_or_state(_: Schema, values: dict[str, Any], **__: Any) -> None:
    if ("ids" in values) == ("state" in values):
        raise ValidationError({"ids": [Coded("required", "Either ids or state is required, not both.")]})


class ReplayRequest(Schema):
    ids = Ids(f"These callbacks, at most {MOST_IDS}; or `state`.")
    state = schemas.one_of(
        [state for state in CALLBACK_STATES if state != "waiting"], "All callbacks in this state; or `ids`."
    )
    dry_run = JsonFlag(load_default=False, metadata=says("Only return what would change."))

    _check_one = check_ids_or_state


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
