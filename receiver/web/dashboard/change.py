"""Change a batch: its names at any time, and the pace, hours and end of what is unreleased."""

from __future__ import annotations

from typing import Any

from flask import flash, request
from werkzeug.wrappers import Response

from receiver.database.pool import connection
from receiver.errors import InvalidInput
from receiver.model import rfc3339
from receiver.queueing.form_fields import DAYS, read_fields
from receiver.release.control import change_batch
from receiver.summary.batches import Batch, get_batch
from receiver.web.api.batches import BatchChanges
from receiver.web.auth import current_key
from receiver.web.dashboard.batch_fields import by_field, field_words, labels_json, read_form, shown
from receiver.web.dashboard.pages import form_page, page, to_batch
from receiver.web.reading import primary
from receiver.web.services import services


@page("/batches/<int:batch_id>/change", scope="queue", methods=("GET", "POST"))
def change(batch_id: int) -> Response | tuple[str, int]:
    """Show what can be changed, and change it."""
    batch = primary().read(get_batch, batch_id, with_submissions=False)
    before = _form(batch)
    form, faults = before, dict[str, str]()
    if request.method == "POST":
        form = before | read_form(request.form, before)
        changed = {name: text for name, text in form.items() if name in before and text != before[name]}
        try:
            if changed:
                changes = read_fields(BatchChanges(), {name: _value(name, text) for name, text in changed.items()})
                with connection(services().pool) as conn:
                    change_batch(conn, batch_id, changes, by=current_key().name, grace=services().limits.grace)
            flash("The batch is changed." if changed else "Nothing was changed.")
            return to_batch(batch_id)
        except InvalidInput as error:
            faults = by_field(error.faults)
    return form_page("batch_change.html", faults, batch=batch, before=before, form=shown(form), **field_words())


def _form(batch: Batch) -> dict[str, str]:
    """What can be changed, as the form's texts."""
    end, pace, hours, days = (
        batch.parameters[name] for name in ("end_timestamp", "calls_per_minute", "calling_hours", "calling_days")
    )
    form = {"name": batch.name, "external_id": batch.external_id or "", "labels": labels_json(batch.labels)}
    if batch.phase in ("paused", "scheduled", "releasing"):
        form |= {"calls_per_minute": str(pace or ""), "end_timestamp": rfc3339(end) if end else ""}
        if hours is not None:
            form |= {"calling_hours": hours, "calling_days": days or ",".join(DAYS)}
    return form


def _value(name: str, text: str) -> Any:
    """A field's text as `BatchChanges` takes it. An empty text removes what can be absent."""
    if not text and name in ("calls_per_minute", "end_timestamp", "external_id"):
        return None
    if name == "calls_per_minute" and text.isascii() and text.isdigit():
        return int(text)
    return text or {} if name == "labels" else text
