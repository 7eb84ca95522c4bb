"""Resolve an unknown submission: a person decides whether the provider queued it."""

from __future__ import annotations

from flask import flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from receiver.database.pool import connection
from receiver.errors import InvalidInput
from receiver.release.resolution import NOTE_CHARACTERS, get_doubt, resolve_submission
from receiver.summary.batches import get_batch
from receiver.web.auth import current_key
from receiver.web.dashboard.pages import page
from receiver.web.services import services

_SAID = {
    "accepted": "It counts as accepted. Its results are expected.",
    "pending": "It will be sent again now.",
    "refused": "Its time window has ended, so it is not sent again. Its calls count as refused.",
}


@page("/batches/<int:batch_id>/submissions/<int:submission_no>/resolve", scope="queue", methods=("GET", "POST"))
def resolve(batch_id: int, submission_no: int) -> AnyResponse | tuple[str, int]:
    """Record that a submission was queued, or that it was not and must be sent again."""
    faults: dict[str, str] = {}
    if request.method == "POST":
        faults = _faults()
        if not faults:
            try:
                with connection(services().pool) as conn:
                    state = resolve_submission(
                        conn,
                        batch_id,
                        submission_no,
                        queued=request.form["queued"] == "yes",
                        note=request.form.get("note", ""),
                        by=current_key().name,
                    )
            except InvalidInput as error:
                faults = {str(fault.where): fault.message for fault in error.faults}
            else:
                flash(f"Submission {submission_no:,} is {state} now. {_SAID.get(state, '')}")
                return redirect(url_for("dashboard.batch", batch_id=batch_id), 303)
    with connection(services().pool) as conn:
        batch = get_batch(conn, batch_id, with_submissions=False)
        doubt = get_doubt(conn, batch_id, submission_no)
    content = render_template(
        "batch_resolve.html", batch=batch, doubt=doubt, faults=faults, form=request.form, longest=NOTE_CHARACTERS
    )
    return content, 422 if faults else 200


def _faults() -> dict[str, str]:
    """What is missing in the form. A wrong decision can call everybody twice, so there are no defaults."""
    found = {}
    if request.form.get("queued") not in ("yes", "no"):
        found["queued"] = "Choose what you found."
    if not request.form.get("note", "").strip():
        found["note"] = "Enter how you know."
    if request.form.get("queued") == "no" and request.form.get("sure") != "1":
        found["sure"] = "Confirm this. If it was queued after all, everybody is called twice."
    return found
