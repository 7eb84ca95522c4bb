"""Callbacks that need attention, one callback with its body, and replay after a preview."""

from __future__ import annotations

from collections import Counter

from flask import Response, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from receiver.database.pool import Connection, connection
from receiver.errors import Fault, InvalidInput
from receiver.model import CALLBACK_STATES, CallbackState
from receiver.results.acknowledgement import NEED_ATTENTION
from receiver.results.reading.call_details import read_call_details
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.replay import REPLAY_CALLBACKS, Change, replay_all
from receiver.summary.callbacks import (
    NEWEST_COUNTED,
    Callback,
    CallbackBody,
    count_by_reason,
    count_reasons,
    get_callback,
    list_callbacks,
)
from receiver.web.auth import current_key
from receiver.web.dashboard import wording
from receiver.web.dashboard.body_text import body_text
from receiver.web.dashboard.filters import Filters
from receiver.web.dashboard.number_masking import numbers_whole
from receiver.web.dashboard.pages import page
from receiver.web.problems import Problem
from receiver.web.reading import primary, reader
from receiver.web.services import services

ANY = "any"
"""Used instead of a state: all callbacks, including those that were applied."""

PAGE_CALLBACKS = 50

MOST_CHANGES_SHOWN = 50


@page("/callbacks", scope="read")
def callbacks() -> str:
    """Callbacks that need attention, by reason, and a list of them."""
    filters = Filters.read(request.args)
    state = filters.one_of("state", (*CALLBACK_STATES, ANY))
    batch_id, before = filters.whole_number("batch_id"), filters.whole_number("before")
    wanted = _as_state(state)
    states = NEED_ATTENTION if state is None else (wanted,)
    reason = request.args.get("reason", "")[:100] if wanted in NEED_ATTENTION else ""

    def read(conn: Connection) -> tuple[dict[CallbackState, dict[str, int]], list[Callback]]:
        found: list[Callback] = []
        for name in () if filters.faults else states:
            found += list_callbacks(
                conn,
                PAGE_CALLBACKS + 1,
                state=name,
                reason=reason or None,
                batch_id=batch_id,
                before=before,
                unseen=name in NEED_ATTENTION,
            )
        return {name: count_by_reason(conn, name) for name in NEED_ATTENTION}, found

    reasons, found = reader().read_at_one_moment(read)
    found.sort(key=lambda callback: -callback.id)
    return render_template(
        "callbacks.html",
        reasons=reasons,
        callbacks=found[:PAGE_CALLBACKS],
        more=len(found) > PAGE_CALLBACKS,
        before=before,
        state=state,
        reason=reason,
        batch_id=batch_id,
        not_understood=[f"The value of {name} in this address is not valid." for name in filters.faults],
        states=(*CALLBACK_STATES, ANY),
        newest_counted=NEWEST_COUNTED,
        counted_in_part=any(sum(counted.values()) >= NEWEST_COUNTED for counted in reasons.values()),
    )


@page("/callbacks/<int:callback_id>", scope="read")
def callback(callback_id: int) -> str:
    """One callback with its body."""
    as_received = request.args.get("as") == "received"
    found = primary().read(get_callback, callback_id)
    return render_template(
        "callback.html",
        callback=found.callback,
        is_step=_is_step(found),
        content_encoding=found.content_encoding,
        size=len(found.body),
        body=body_text(found.body, found.content_encoding, as_received=as_received),
        as_received=as_received,
        needs_attention=found.callback.state in NEED_ATTENTION,
    )


def _is_step(found: CallbackBody) -> bool | None:
    """Whether it reports a step before the end. None if the body is erased or cannot be read."""
    try:
        details = read_call_details(found.body, found.callback.content_type, found.content_encoding)
    except UnreadableBody:
        return None
    return details.outcome is None


@page("/callbacks/<int:callback_id>/body", scope="read")
def download_body(callback_id: int) -> Response:
    """A callback's body, byte for byte, as a file that no program executes."""
    if not numbers_whole():
        raise Problem(
            "forbidden", "The body contains a phone number. Choose “Show whole numbers” first, then download it."
        )
    found = primary().read(get_callback, callback_id)
    answer = Response(found.body, content_type="application/octet-stream")
    answer.headers["Content-Disposition"] = f'attachment; filename="callback-{callback_id}.bin"'
    return answer


@page("/callbacks/replay", scope="admin", methods=("POST",))
def replay_callbacks() -> AnyResponse | str:
    """Settle callbacks again: first a preview, then, when it is confirmed, the replay.

    The form contains `ids`, or `state` and `reason` for the newest callbacks with these. The preview contains the ids,
    so exactly these callbacks are replayed.
    """
    confirmed = request.form.get("confirmed") == "1"
    with connection(services().pool) as conn:
        done = list(
            replay_all(
                conn,
                by=current_key().name,
                ids=chosen_callbacks(conn),
                dry_run=not confirmed,
                suppress_statuses=services().config.suppress_statuses,
            )
        )
        ids = [callback_id for piece in done for callback_id in piece.callback_ids]
        unchanged = count_reasons(conn, ids) if not confirmed else {}
    changes = [change for piece in done for change in piece.changes]
    if confirmed:
        flash(f"{wording.counted(len(ids), 'callback')} settled again: {_changed(changes)}")
        return redirect(url_for("dashboard.callbacks"), 303)
    return render_template(
        "callbacks_replay.html",
        ids=ids,
        changes=changes[:MOST_CHANGES_SHOWN],
        more_changes=max(len(changes) - MOST_CHANGES_SHOWN, 0),
        unchanged={} if changes else unchanged,
        sentence=_changed(changes),
    )


def chosen_callbacks(conn: Connection) -> list[int]:
    """The `ids` of the form, or the newest callbacks with its `state` and `reason`. Raises InvalidInput."""
    if ids := _ids():
        return ids
    if (state := _as_state(request.form.get("state"))) is None:
        return []
    reason = request.form.get("reason", "")[:100] or None
    return [found.id for found in list_callbacks(conn, REPLAY_CALLBACKS, state=state, reason=reason, unseen=True)]


def _ids() -> list[int]:
    texts = request.form.get("ids", "").split(",")
    ids = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) <= 18]
    if len(ids) > REPLAY_CALLBACKS:
        raise InvalidInput(
            "These are too many callbacks for one replay.",
            [Fault("ids", "too_many", f"At most {REPLAY_CALLBACKS:,} at a time; the command line has no limit.")],
        )
    return ids


def _changed(changes: list[Change]) -> str:
    """`3 changes: 2 from unreadable to applied, 1 from conflict to duplicate.`"""
    if not changes:
        return "nothing changes."
    moves = Counter(
        f"still {change.state_after}, {change.difference}"
        if change.difference
        else f"from {change.state_before} to {change.state_after}"
        for change in changes
    )
    return (
        f"{wording.counted(len(changes), 'change')}: "
        + ", ".join(f"{wording.number(count)} {move}" for move, count in moves.most_common())
        + "."
    )


def _as_state(text: str | None) -> CallbackState | None:
    return next((state for state in CALLBACK_STATES if state == text), None)
