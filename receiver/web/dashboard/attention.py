"""What needs attention, entry by entry: each with what can be done about it, or marked as seen with a note."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import flash, redirect, render_template, request
from werkzeug.wrappers import Response

from receiver.changes.audit import NOTE_CHARACTERS, ChangeFilter, list_changes
from receiver.database.pool import Connection, connection
from receiver.relay.deliveries import acknowledge_given_up, list_debts
from receiver.relay.endpoints import list_unseen
from receiver.results.acknowledgement import NEED_ATTENTION, acknowledge_batch, acknowledge_callbacks
from receiver.summary.batches import BatchFilter, list_batches
from receiver.summary.callbacks import count_by_reason
from receiver.summary.health import get_health
from receiver.web.auth import current_key
from receiver.web.dashboard import wording
from receiver.web.dashboard.callbacks import chosen_callbacks
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import own_path
from receiver.web.reading import reader
from receiver.web.services import services

MOST_BATCHES = 20
"""Batches of one kind that are shown; the list of batches has all."""

MOST_SEEN = 20
"""Entries of the history that are shown; the audit trail has all."""


@page("/attention", scope="read")
def attention() -> str:
    """Everything that needs attention, and what was seen last."""
    every = BatchFilter()
    kinds = {
        "unknown": replace(every, submission_state="unknown"),
        "provider": replace(every, not_sent_by=services().config.batch_kind),
        "overdue": replace(every, overdue=True),
        "refused": replace(every, submission_state="refused"),
    }

    def read(conn: Connection) -> dict[str, Any]:
        return {
            "alive": get_health(conn),
            "debts": list_debts(conn),
            "given_up": list_unseen(conn),
            "batches": {
                kind: list_batches(conn, wanted, MOST_BATCHES + 1, with_submissions=False)
                for kind, wanted in kinds.items()
            },
            "reasons": {state: count_by_reason(conn, state) for state in NEED_ATTENTION},
            "seen": list_changes(conn, ChangeFilter(action="acknowledge"), MOST_SEEN),
        }

    return render_template(
        "attention.html",
        most_batches=MOST_BATCHES,
        simulated=services().config.batch_kind,
        **reader().read_at_one_moment(read),
    )


@page("/batches/<int:batch_id>/acknowledge", scope="queue", methods=("POST",))
def mark_batch_as_seen(batch_id: int) -> Response:
    """Mark the refused and overdue calls of a batch as seen."""
    with connection(services().pool) as conn:
        acknowledge_batch(conn, batch_id, by=current_key().name, note=_note())
    flash(f"The refused and overdue calls of batch {batch_id} are marked as seen. Later ones need attention again.")
    return redirect(own_path(request.form.get("next")), 303)


@page("/callbacks/acknowledge", scope="queue", methods=("POST",))
def mark_callbacks_as_seen() -> Response:
    """Mark callbacks as seen, chosen as for a replay."""
    with connection(services().pool) as conn:
        seen = acknowledge_callbacks(conn, by=current_key().name, ids=chosen_callbacks(conn), note=_note())
    flash(
        f"{wording.counted(len(seen), 'callback is', 'callbacks are')} marked as seen."
        if seen
        else "Nothing was changed: these callbacks were marked as seen before, or need no attention."
    )
    return redirect(own_path(request.form.get("next")), 303)


@page("/endpoints/<int:endpoint_id>/acknowledge", scope="admin", methods=("POST",))
def mark_given_up_as_seen(endpoint_id: int) -> Response:
    """Mark the events of an endpoint that were given up as seen."""
    with connection(services().pool) as conn:
        acknowledge_given_up(conn, endpoint_id, by=current_key().name, note=_note())
    flash(f"The given-up events of endpoint {endpoint_id} are marked as seen. Later ones need attention again.")
    return redirect(own_path(request.form.get("next")), 303)


def _note() -> str | None:
    return request.form.get("note", "").strip()[:NOTE_CHARACTERS].replace("\0", "") or None
