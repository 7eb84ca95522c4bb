"""The list of batches, each with its progress and the outcomes of its calls."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import render_template, request

from receiver.errors import InvalidInput
from receiver.model import BATCH_PHASES, BATCH_STATES
from receiver.summary.batches import BatchFilter, list_batches
from receiver.web.cursors import read_cursor, write_cursor
from receiver.web.dashboard.filters import Filters, text_fault
from receiver.web.dashboard.pages import page
from receiver.web.reading import reader
from receiver.web.services import services

PAGE_BATCHES = 25

RUNNING = "running"
"""A choice beside the phases: batches whose calls are being released or made."""

NEEDS = {
    "running": "that are running",
    "overdue": "with overdue calls",
    "unknown": "with an unknown submission",
    "refused": "with a refused submission",
    "provider": "that wait for another kind of provider (real or simulated)",
}
"""Filters besides the state. The overview links to them."""


@page("/batches", scope="read")
def batches() -> str:
    """All batches, newest first."""
    filters = Filters.read(request.args)
    state = filters.one_of("state", BATCH_STATES)
    phase = filters.one_of("phase", (*BATCH_PHASES, RUNNING))
    needs = filters.one_of("needs", NEEDS)
    texts: dict[str, str | None] = {}
    for field, most in (("name", 200), ("external_id", 255)):
        texts[field] = filters.texts.get(field) or None
        if (fault := text_fault(texts[field] or "", most)) is not None:
            filters.faults[field] = fault
    wanted = BatchFilter(
        state=state,
        phase="releasing,calling" if phase == RUNNING else phase,
        application_id=filters.application_id,
        deployment_id=filters.deployment_id,
        created_from=filters.starts_at,
        created_to=filters.ends_at,
        name=texts["name"],
        external_id=texts["external_id"],
        label=filters.label(),
        running=True if needs == "running" else None,
        overdue=True if needs == "overdue" else None,
        not_sent_by=services().config.batch_kind if needs == "provider" else None,
        submission_state="unknown" if needs == "unknown" else "refused" if needs == "refused" else None,
    )
    try:
        position = read_cursor("batches", filters.texts.get("cursor") or None, 1)
    except InvalidInput:
        filters.faults["cursor"] = "This page of the list does not exist."
        position = None
    before = position[0] if position else None
    found = []
    if not filters.faults:  # a list that ignores a wrong filter would be misleading
        found = reader().read(list_batches, wanted, PAGE_BATCHES + 1, before, with_submissions=False)
    query = {key: text for key, text in filters.texts.items() if text and key != "cursor"}

    def phase_address(value: str) -> str:
        others = {key: text for key, text in query.items() if key != "phase"} | ({"phase": value} if value else {})
        return "/batches" + ("?" + urlencode(others) if others else "")

    older = None
    if len(found) > PAGE_BATCHES:
        found = found[:PAGE_BATCHES]
        older = "/batches?" + urlencode({**query, "cursor": write_cursor("batches", [found[-1].id])})
    return render_template(
        "batches.html",
        batches=found,
        filters=filters,
        first_page="/batches" + ("?" + urlencode(query) if query else ""),
        needs=needs,
        needs_words=NEEDS,
        older=older,
        paged=position is not None,
        states=[(state, state) for state in BATCH_STATES],
        phase_address=phase_address,
    )
