"""Pause, resume and cancel a batch; and cancel a whole deployment at the provider, which cannot cancel less."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import connection
from receiver.errors import NotFound
from receiver.queueing.form_fields import LARGEST_ID
from receiver.release.control import cancel_batch, pause_batch, resume_batch
from receiver.release.deployment_cancel import WAITS_FOR_SENDING, get_cancel, list_affected, request_cancel
from receiver.summary.batches import get_batch
from receiver.web.auth import current_key
from receiver.web.dashboard.filters import text_fault
from receiver.web.dashboard.pages import form_page, page, to_batch
from receiver.web.dashboard.wording import counted
from receiver.web.reading import primary
from receiver.web.services import services

POLL_SECONDS = 2


@page("/batches/<int:batch_id>/pause", scope="queue", methods=("POST",))
def pause(batch_id: int) -> Response:
    """Release nothing further of a batch."""
    with connection(services().pool) as conn:
        changed = pause_batch(conn, batch_id, by=current_key().name)
    flash(
        "The batch is paused." if changed else "Nothing was changed: it was paused already, or nothing is unreleased."
    )
    return to_batch(batch_id)


@page("/batches/<int:batch_id>/resume", scope="queue", methods=("POST",))
def resume(batch_id: int) -> Response:
    """Continue to release a batch."""
    with connection(services().pool) as conn:
        changed = resume_batch(conn, batch_id, by=current_key().name)
    flash("The batch is resumed." if changed else "Nothing was changed: the batch was not paused.")
    return to_batch(batch_id)


@page("/batches/<int:batch_id>/cancel", scope="queue", methods=("GET", "POST"))
def cancel(batch_id: int) -> str | Response | tuple[str, int]:
    """Withdraw everything unreleased of a batch, after a confirmation."""
    note, faults = _read_note()
    if request.method == "POST" and not faults:
        with connection(services().pool) as conn:
            done = cancel_batch(conn, batch_id, by=current_key().name, note=note or None)
        there = f" {counted(done.at_provider, 'call')} already at the provider, not canceled."
        flash(f"The batch is canceled: {counted(done.withdrawn, 'call')} withdrawn.{there if done.at_provider else ''}")
        return to_batch(batch_id)
    with connection(services().pool) as conn:
        batch = get_batch(conn, batch_id, with_submissions=False)
        affected = list_affected(conn, batch.application_id, batch.deployment_id, batch_id)
    return form_page(
        "batch_cancel.html",
        faults,
        batch=batch,
        withdrawn=sum(each.withdrawn for each in affected),
        at_provider=sum(each.calls_pending for each in affected),
        note=note,
    )


@page("/deployments/<int:application_id>/<int:deployment_id>/cancel", scope="admin", methods=("GET", "POST"))
def cancel_deployment(application_id: int, deployment_id: int) -> Response | tuple[str, int]:
    """Show what canceling a deployment affects, and request it."""
    if not (1 <= application_id <= LARGEST_ID and 1 <= deployment_id <= LARGEST_ID):
        raise NotFound("There is no such deployment.")
    note, faults = _read_note()
    if request.method == "POST" and not faults:
        with connection(services().pool) as conn:
            cancel_id, done = request_cancel(
                conn, application_id, deployment_id, by=current_key().name, note=note or None
            )
        flash(f"{counted(sum(each.withdrawn for each in done), 'call')} withdrawn.")
        return redirect(url_for("dashboard.cancellation", cancel_id=cancel_id), 303)
    affected = primary().read(list_affected, application_id, deployment_id)
    return form_page(
        "deployment_cancel.html",
        faults,
        application_id=application_id,
        deployment_id=deployment_id,
        affected=affected,
        note=note,
    )


@page("/cancellations/<int:cancel_id>", scope="admin")
def cancellation(cancel_id: int) -> str:
    """What the provider answered to the cancellation of a deployment."""
    with connection(services().pool) as conn:
        found = get_cancel(conn, cancel_id)
        affected = list_affected(conn, found.application_id, found.deployment_id)
    # A worker that starts later gives it up.
    is_late = found.state == "waiting" and datetime.now(UTC) - found.requested_at > WAITS_FOR_SENDING
    return render_template(
        "cancellation.html",
        cancel=found,
        state="sending" if is_late else found.state,
        affected=affected,
        poll_seconds=None if found.is_over or is_late else POLL_SECONDS,
    )


def _read_note() -> tuple[str, dict[str, str]]:
    note = request.form.get("note", "").strip()
    fault = text_fault(note, NOTE_CHARACTERS)
    return note, {} if fault is None else {"note": fault}
