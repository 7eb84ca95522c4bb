"""One call: its timeline, its details, and all callbacks that were received for it."""

from __future__ import annotations

from flask import render_template
from markupsafe import Markup

from receiver.database.pool import at_one_moment
from receiver.summary.batches import get_batch
from receiver.summary.callbacks import list_callbacks_of_call
from receiver.summary.calls import Call, get_call
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.safe_text import visible
from receiver.web.dashboard.session import time_zone
from receiver.web.dashboard.timeline import timeline
from receiver.web.services import services

MOST_CALLBACKS = 50
"""Listed callbacks of one call. A call usually has one or two."""

VARIABLES_CHARACTERS = 40_000
"""Maximum length of all variables together, as HTML."""

MARKUP_CHARACTERS = 60
"""Length of the HTML around each variable."""


@page("/batches/<int:batch_id>/calls/<int:row>", scope="read")
def call(batch_id: int, row: int) -> str:
    """One call."""
    with at_one_moment(services().pool) as conn:
        found = get_call(conn, batch_id, row)
        batch = get_batch(conn, batch_id, with_submissions=False)
        callbacks = list_callbacks_of_call(conn, batch_id, row)
    variables = _shown(found.variables)
    return render_template(
        "call.html",
        batch=batch,
        call=found,
        timeline=_timeline(found),
        variables=variables,
        more_variables=len(found.variables) - len(variables),
        callbacks=callbacks[:MOST_CALLBACKS],
        more_callbacks=max(len(callbacks) - MOST_CALLBACKS, 0),
    )


def _timeline(found: Call) -> Markup | None:
    """The events of the result or, without one, of the latest step. None if there is neither."""
    if found.result_body is None:
        return None
    title = f"Row {found.row}: events and waits, to scale"
    return timeline(found.read_events().first, time_zone=time_zone(), key="timeline", title=title)


def _shown(variables: dict[str, str]) -> dict[str, str]:
    """The first variables, as many as fit into the page. The template cuts each value."""
    room = VARIABLES_CHARACTERS
    shown = {}
    for name, text in variables.items():
        room -= len(visible(name)) + len(visible(text)) + MARKUP_CHARACTERS
        if room < 0:
            break
        shown[name] = text
    return shown
