"""The audit trail: who changed what, when, and with which note."""

from __future__ import annotations

from flask import render_template, request

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.web.dashboard.filters import Filters
from receiver.web.dashboard.pages import page
from receiver.web.reading import primary

PAGE_CHANGES = 50

ACTIONS = {
    "queue": "queued a batch",
    "pause": "paused a batch",
    "resume": "resumed a batch",
    "cancel": "canceled a batch",
    "change": "changed a batch",
    "cancel_deployment": "canceled a deployment",
    "resolve": "resolved a submission",
    "replay": "replayed callbacks",
    "acknowledge": "marked as seen",
    "suppress": "suppressed numbers",
    "unsuppress": "removed a suppression",
    "erase": "erased a number",
    "purge": "purged a batch",
    "make_key": "created a key",
    "revoke_key": "revoked a key",
    "create_endpoint": "created an endpoint",
    "change_endpoint": "changed an endpoint",
    "rotate_endpoint": "rotated an endpoint's secret",
    "retry_deliveries": "sent events again",
    "disable_endpoint": "disabled an endpoint",
    "delete_endpoint": "deleted an endpoint",
}
"""What each action is called on the page. An action that is not here is shown by its name."""


@page("/audit", scope="admin")
def audit() -> str:
    """All changes, newest first."""
    filters = Filters.read(request.args)
    action, before = filters.one_of("action", ACTIONS), filters.whole_number("before")
    actor = filters.texts.get("actor") or None
    if actor is not None and not actor.isprintable():
        filters.faults["actor"] = "Enter a name without control characters."
    batch_id = filters.whole_number("batch_id")
    wanted = ChangeFilter(actor, action, filters.starts_at, filters.ends_at, batch_id)
    found = []
    if not filters.faults:
        found = primary().read(list_changes, wanted, PAGE_CHANGES + 1, before)
    return render_template(
        "audit.html",
        changes=found[:PAGE_CHANGES],
        more=len(found) > PAGE_CHANGES,
        before=before,
        filters=filters,
        kept={name: filters.texts.get(name) or None for name in ("actor", "action", "batch_id", "from", "to")},
        actions=list(ACTIONS.items()),
        words=ACTIONS,
    )
