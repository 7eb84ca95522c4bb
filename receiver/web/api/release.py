"""Actions on a batch over REST: pause, resume, cancel and acknowledge it; and cancel a deployment at the provider."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Response
from marshmallow import validate

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import DatabaseUnavailable, Pool, connection, reading
from receiver.errors import NotFound
from receiver.queueing.form_fields import says
from receiver.release import control, deployment_cancel
from receiver.results import acknowledgement
from receiver.summary.batches import get_batch
from receiver.web import schemas
from receiver.web.api import Blueprint, OptionalBody
from receiver.web.auth import answer_later, current_key, waited_for
from receiver.web.json_answer import answer_batch
from receiver.web.json_fields import JsonFlag
from receiver.web.problems import Problem
from receiver.web.services import services

SENDING_SECONDS = deployment_cancel.WAITS_FOR_SENDING.total_seconds()

ANSWER_SECONDS = 130.0
"""How long the provider's answer is waited for after that: a little longer than the worker waits for it."""

blueprint = Blueprint("release", tag="batches")


class Noted(OptionalBody):
    note = schemas.text("Why. It is stored with your key's name.", validate=validate.Length(max=NOTE_CHARACTERS))


class DeploymentCancel(Noted):
    dry_run = JsonFlag(load_default=False, metadata=says("true: only return what would be canceled."))


class AffectedBatchAnswer(schemas.Answer):
    id = schemas.whole("The batch's id.")
    name = schemas.text("Its name.")
    calls_pending = schemas.whole("Calls that were sent and have no result yet.")
    withdrawn = schemas.whole("Unreleased calls, which are withdrawn.")


class DeploymentCancelAnswer(schemas.Answer):
    batches = schemas.several(AffectedBatchAnswer, "The batches that are affected.")
    calls_pending = schemas.whole("The sum over these batches.")
    withdrawn = schemas.whole("The sum over these batches.")
    provider_status = schemas.whole("The HTTP status of the provider's answer; null if there is none.", allow_none=True)
    provider_state = schemas.word(
        ["accepted", "refused", "unknown"],
        "`accepted`: the provider cancels the calls; their results follow. `unknown`: its answer was lost. Null for"
        " a dry run.",
        allow_none=True,
    )
    error = schemas.text("The provider's message, or why it was not asked.", allow_none=True)


@blueprint.operation("POST /batches/<int:batch_id>/pause", "queue", schemas.Batch, body=Noted)
def pause_batch(said: dict[str, Any], batch_id: int) -> Response:
    """Pause a batch

    Nothing further is released until it is resumed. A request in progress is finished, and calls that were sent
    continue. If the batch is paused already, or nothing is unreleased, nothing changes.
    """
    with connection(services().pool) as conn:
        control.pause_batch(conn, batch_id, by=current_key().name, note=said.get("note"))
        return answer_batch(get_batch(conn, batch_id))


@blueprint.operation("POST /batches/<int:batch_id>/resume", "queue", schemas.Batch, body=Noted)
def resume_batch(said: dict[str, Any], batch_id: int) -> Response:
    """Resume a paused batch

    Release continues at the previous pace. If the batch is not paused, nothing changes.
    """
    with connection(services().pool) as conn:
        control.resume_batch(conn, batch_id, by=current_key().name, note=said.get("note"))
        return answer_batch(get_batch(conn, batch_id))


@blueprint.operation("POST /batches/<int:batch_id>/cancel", "queue", schemas.CanceledBatch, body=Noted)
def cancel_batch(said: dict[str, Any], batch_id: int) -> Response:
    """Cancel a batch: withdraw everything unreleased

    This cannot be undone. Calls that were sent continue: the provider cannot cancel a single batch. To stop them,
    cancel the whole deployment. If the batch is canceled already, nothing further changes.
    """
    with connection(services().pool) as conn:
        canceled = control.cancel_batch(conn, batch_id, by=current_key().name, note=said.get("note"))
        batch = get_batch(conn, batch_id)
    return answer_batch(batch, withdrawn=canceled.withdrawn, at_provider=canceled.at_provider)


@blueprint.operation("POST /batches/<int:batch_id>/acknowledge", "queue", schemas.Batch, body=Noted)
def acknowledge_batch(said: dict[str, Any], batch_id: int) -> Response:
    """Mark the refused and overdue calls of a batch as seen by a person

    They are no longer listed as needing attention. All counts stay. Calls that are refused or become overdue later
    are listed again.
    """
    with connection(services().pool) as conn:
        acknowledgement.acknowledge_batch(conn, batch_id, by=current_key().name, note=said.get("note"))
        return answer_batch(get_batch(conn, batch_id))


@dataclass(frozen=True, slots=True)
class _Requested:
    """`since`: when the cancellation was requested, on the monotonic clock."""

    cancel_id: int
    affected: Sequence[deployment_cancel.AffectedBatch]
    since: float


@blueprint.operation(
    "POST /deployments/<int:application_id>/<int:deployment_id>/cancel",
    "admin",
    DeploymentCancelAnswer,
    body=DeploymentCancel,
    tag="deployments",
)
def cancel_deployment(said: dict[str, Any], application_id: int, deployment_id: int) -> dict[str, Any]:
    """Cancel every pending call of a deployment, in any batch

    The provider can only cancel a whole deployment. Everything unreleased in it is withdrawn, nothing of it is
    released meanwhile, and once nothing is being sent, the provider is asked to cancel all pending calls. Their
    results follow later, as `canceled`. With `dry_run`, nothing changes: see first which batches are affected.
    """
    if (stored := waited_for()) is not None:
        return _finish(stored)
    if not (application_id and deployment_id):
        raise NotFound("There is no such deployment.")
    if said["dry_run"]:
        with reading(services().pool) as conn:
            return _answer(deployment_cancel.list_affected(conn, application_id, deployment_id))
    with connection(services().pool) as conn:
        by, note = current_key().name, said.get("note")
        requested = _Requested(
            *deployment_cancel.request_cancel(conn, application_id, deployment_id, by=by, note=note), time.monotonic()
        )
    answer_later(requested, partial(_is_over, services().pool, requested), SENDING_SECONDS + ANSWER_SECONDS)
    return _answer(requested.affected)


def _is_over(pool: Pool, requested: _Requested) -> bool:
    """Whether there is nothing to wait for: there is an answer, or what is being sent took too long."""
    try:
        with reading(pool) as conn:
            found = deployment_cancel.get_cancel(conn, requested.cancel_id)
    except DatabaseUnavailable:
        return False
    return found.is_over or (found.state == "waiting" and time.monotonic() - requested.since >= SENDING_SECONDS)


def _finish(requested: _Requested) -> dict[str, Any]:
    with connection(services().pool) as conn:
        found = deployment_cancel.give_up_cancel(conn, requested.cancel_id)
    if found.state == "sending":
        raise Problem(
            "sending",
            "Everything unreleased was withdrawn, but the provider was not asked: a submission is still being sent, or"
            " no worker is running. Try again.",
        )
    return _answer(requested.affected, found)


def _answer(
    affected: Sequence[deployment_cancel.AffectedBatch], found: deployment_cancel.CancelRequest | None = None
) -> dict[str, Any]:
    state = None
    if found is not None:
        state = found.state if found.is_over else "unknown"
    return {
        "batches": affected,
        "calls_pending": sum(batch.calls_pending for batch in affected),
        "withdrawn": sum(batch.withdrawn for batch in affected),
        "provider_status": None if found is None else found.provider_status,
        "provider_state": state,
        "error": None if found is None else found.error,
    }
