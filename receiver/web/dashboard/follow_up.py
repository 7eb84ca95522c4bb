"""Follow up a batch: choose calls that did not reach anybody, check the preview, and queue them again.

Nothing is stored between the steps. The form of the preview contains everything, and queues only one batch, even if it
is sent repeatedly.
"""

from __future__ import annotations

from io import BytesIO
from secrets import token_hex

from flask import render_template, request
from werkzeug.wrappers import Response

from receiver.database.pool import Connection, connection
from receiver.errors import InvalidInput
from receiver.queueing.acceptance import IdempotentRequest, accept, preview_follow_up, request_digest
from receiver.queueing.follow_ups import (
    DEFAULT_OUTCOMES,
    FOLLOWED_OUTCOMES,
    INCLUDABLE,
    FollowUp,
    NothingToFollowUp,
    follow_up_parameters,
)
from receiver.queueing.form_fields import days_text
from receiver.queueing.parameters import BatchForm, BatchParameters
from receiver.summary.batches import get_batch
from receiver.web.auth import current_key
from receiver.web.dashboard.batch_fields import FIELDS, by_field, field_words, for_schema, labels_json, read_form, shown
from receiver.web.dashboard.new_batch import blocked
from receiver.web.dashboard.pages import page, to_batch
from receiver.web.services import services

FOLLOW_UP = ", follow-up"
"""The end of a follow-up's name."""


@page("/batches/<int:batch_id>/follow-up", scope="queue", methods=("GET", "POST"))
def follow_up(batch_id: int) -> Response | tuple[str, int]:
    """Show the form, then a preview, then queue."""
    is_get = request.method == "GET"
    ticked = (request.args if is_get else request.form).getlist
    outcomes = DEFAULT_OUTCOMES if is_get else [name for name in FOLLOWED_OUTCOMES if name in ticked("outcomes")]
    wanted = FollowUp(batch_id, outcomes, [name for name in INCLUDABLE if name in ticked("include")])
    with connection(services().pool) as conn:
        batch = get_batch(conn, batch_id, with_submissions=False)
        form = _form(follow_up_parameters(conn, batch_id, {}))
    form |= read_form(request.form, form)
    parameters, seen, calls, has_changed, faults = None, None, None, False, dict[str, str]()
    try:
        with connection(services().pool) as conn:
            if not is_get:
                parameters = follow_up_parameters(conn, batch_id, for_schema(form))
                if "once" in request.form:
                    return to_batch(_queue(conn, wanted, parameters))
                seen, calls = preview_follow_up(conn, wanted, parameters, services().limits)
    except InvalidInput as error:
        faults = by_field(fault for fault in error.faults if fault.where in FIELDS)
        has_changed = not faults
    except NothingToFollowUp:
        has_changed = True
    content = render_template(
        "follow_up.html",
        batch=batch,
        wanted=wanted,
        outcomes=FOLLOWED_OUTCOMES,
        form=shown(form),
        checked=form,
        once=token_hex(16),
        parameters=parameters,
        seen=seen,
        calls=calls,
        blocked=blocked(seen, parameters),
        has_changed=has_changed,
        faults=faults,
        simulated=services().config.simulated,
        **field_words(),
    )
    return content, 422 if faults or has_changed else 200


def _queue(conn: Connection, wanted: FollowUp, parameters: BatchParameters) -> int:
    """Queue the follow-up that was previewed, and return its id. The same form again returns the same batch."""
    digest = request_digest(BytesIO(), {name: "\n".join(texts) for name, texts in request.form.lists()})
    key = current_key()
    repeatable = IdempotentRequest(key.key_id, f"follow-up {digest.hex()}", digest)
    return accept(conn, wanted, parameters, services().limits, repeatable, created_by=key.name).batch_id


def _form(parameters: BatchParameters) -> dict[str, str]:
    """Parameters as the form's texts. The answers to the preview's questions are not taken over."""
    values = BatchForm(exclude=("dry_run", "on_recent", "recent_hours")).dump(parameters)
    values |= {"labels": labels_json(parameters.labels), "is_pci": int(parameters.is_pci)}
    if parameters.name.strip():  # so that lists show which of the two it is
        values["name"] = f"{parameters.name[:180].removesuffix(FOLLOW_UP)}{FOLLOW_UP}"
    if parameters.hours is not None:
        values["calling_days"] = days_text(parameters.hours.days)
    return {name: str(value) for name, value in values.items() if value is not None}
