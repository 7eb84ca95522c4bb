"""Resolve unknown submissions: a person decides whether the provider queued one, or all of a batch."""

from __future__ import annotations

from flask import flash, request
from werkzeug.wrappers import Response as AnyResponse

from receiver.database.pool import connection
from receiver.errors import InvalidInput
from receiver.release.resolution import NotInDoubt, get_doubt, resolve_batch, resolve_submission
from receiver.summary.batches import get_batch
from receiver.summary.submissions import count_submissions
from receiver.web.auth import current_key
from receiver.web.dashboard.pages import form_page, page, to_batch
from receiver.web.dashboard.wording import counted
from receiver.web.services import services

_SAID = {
    "accepted": "It counts as accepted. Its results are expected.",
    "pending": "It is sent again as soon as it can be released.",
    "refused": "Its time window has ended, so it is not sent again. Its calls count as refused.",
    "withdrawn": "Its calls are not made.",
}


@page("/batches/<int:batch_id>/submissions/<int:submission_no>/resolve", scope="queue", methods=("GET", "POST"))
def resolve(batch_id: int, submission_no: int) -> AnyResponse | tuple[str, int]:
    """Record that a submission was queued, or that it was not and must be sent again."""
    return _resolve(batch_id, submission_no)


@page("/batches/<int:batch_id>/resolve", scope="queue", methods=("GET", "POST"))
def resolve_all(batch_id: int) -> AnyResponse | tuple[str, int]:
    """Record the same for all unknown submissions of a batch."""
    return _resolve(batch_id, None)


def _resolve(batch_id: int, submission_no: int | None) -> AnyResponse | tuple[str, int]:
    faults = _faults() if request.method == "POST" else {}
    if request.method == "POST" and not faults:
        queued, note, by = request.form["queued"] == "yes", request.form.get("note", ""), current_key().name
        try:
            with connection(services().pool) as conn:
                if submission_no is None:
                    resolved = resolve_batch(conn, batch_id, queued=queued, note=note, by=by)
                    done = f"{counted(resolved, 'submission')} resolved."
                else:
                    state = resolve_submission(conn, batch_id, submission_no, queued=queued, note=note, by=by)
                    done = f"Submission {submission_no:,} is {state} now. {_SAID.get(state, '')}"
            flash(done)
            return to_batch(batch_id)
        except InvalidInput as error:
            faults = {str(fault.where): fault.message for fault in error.faults}
    with connection(services().pool) as conn:
        batch = get_batch(conn, batch_id, with_submissions=False)
        doubt = None if submission_no is None else get_doubt(conn, batch_id, submission_no)
        unknown = count_submissions(conn, batch_id).get("unknown", 0)
    if not unknown:
        raise NotInDoubt(f"Batch {batch_id} has no submission that needs a decision.")
    return form_page("batch_resolve.html", faults, batch=batch, doubt=doubt, unknown=unknown, form=request.form)


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
