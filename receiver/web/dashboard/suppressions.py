"""Suppressions: numbers that must not be called, added one by one or as a file, searched, and removed."""

from __future__ import annotations

from typing import Any

from flask import flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import connection
from receiver.errors import InvalidInput
from receiver.model import e164
from receiver.phone_numbers.destination import candidates, read_number
from receiver.queueing.suppression_files import Imported, read_numbers, suppress_file
from receiver.queueing.suppressions import (
    REASON_CHARACTERS,
    delete_suppression,
    get_suppression,
    list_suppressions,
    suppress,
)
from receiver.web.auth import current_key
from receiver.web.dashboard.filters import Filters, text_fault
from receiver.web.dashboard.number_masking import shown_text
from receiver.web.dashboard.pages import FORM_BYTES, form_page, page
from receiver.web.dashboard.searches import find_search, remember_search
from receiver.web.reading import primary
from receiver.web.services import services

PAGE_SUPPRESSIONS = 50

FILE_BYTES = 64 << 20
"""Largest file on the page: a million numbers with a reason each take half of it. The API has another limit."""


@page("/suppressions", scope="read")
def suppressions() -> tuple[str, int]:
    """The list, newest first, with the forms that add to it."""
    return _page()


@page("/suppressions/search", scope="read", methods=("POST",))
def search_suppressions() -> Response:
    """Look for a number, in whatever spelling; nothing typed shows all again."""
    reason = request.form.get("reason", "").strip()[:REASON_CHARACTERS] or None
    search = remember_search(request.form.get("number", ""))
    return redirect(url_for("dashboard.suppressions", search=search, reason=reason, _anchor="list"), 303)


@page("/suppressions/add", scope="queue", methods=("POST",))
def add_suppression() -> Response | tuple[str, int]:
    """Suppress one number."""
    form = {name: request.form.get(name, "").strip() for name in ("phone_number", "reason", "note")}
    faults = _faults(form)
    try:
        number = read_number(form["phone_number"], services().config.default_region)
    except InvalidInput as error:
        faults |= {str(fault.where): fault.message for fault in error.faults}
    if faults:
        return _page(form, faults)
    with connection(services().pool) as conn:
        _, is_new = suppress(
            conn, number, by=current_key().name, reason=form["reason"] or None, note=form["note"] or None
        )
    shown = shown_text(e164(number))
    flash(f"{shown} is not called any more." if is_new else f"{shown} was already suppressed. Nothing was changed.")
    return redirect(url_for("dashboard.suppressions"), 303)


@page("/suppressions/file", scope="queue", methods=("POST",), request_bytes=FILE_BYTES + FORM_BYTES)
def add_suppression_file() -> tuple[str, int]:
    """Suppress the numbers of a file, and show what became of its rows."""
    reason, csv = request.form.get("file_reason", "").strip(), request.files.get("csv")
    faults = {f"file_{name}": text for name, text in _faults({"reason": reason}).items()}
    if csv is None or not csv.filename:
        faults["csv"] = "Choose a CSV file or a workbook with a column named phone_number."
    if csv is None or faults:
        return _page({"file_reason": reason}, faults)
    try:
        file = read_numbers(csv.stream, services().config.default_region, reason or None)
        with connection(services().pool) as conn:
            done = suppress_file(conn, file, by=current_key().name)
    except InvalidInput as error:
        return _page({"file_reason": reason}, {"csv": " ".join(each.message for each in error.faults)})
    # Not a redirect: the rows that are left out are shown here and nowhere else. To send it again adds nothing.
    return _page(imported=done)


@page("/suppressions/<int:suppression_id>/remove", scope="admin", methods=("GET", "POST"))
def remove_suppression(suppression_id: int) -> str | Response:
    """Ask once more, and let a number be called again."""
    with connection(services().pool) as conn:
        found = get_suppression(conn, suppression_id)
        if request.method == "GET":
            return render_template("suppression_remove.html", suppression=found)
        delete_suppression(conn, suppression_id, by=current_key().name)
    flash("The suppression is removed. The number can be called again.")
    return redirect(url_for("dashboard.suppressions"), 303)


def _page(
    form: dict[str, str] | None = None, faults: dict[str, str] | None = None, imported: Imported | None = None
) -> tuple[str, int]:
    filters = Filters.read(request.args)
    search, reason = filters.texts.get("search") or None, filters.texts.get("reason") or None
    number, before = find_search(search), filters.whole_number("before")
    numbers = None if number is None else candidates(number, services().config.default_region)
    missing = search is not None and number is None
    found = []
    if not missing and not filters.faults and "\0" not in (reason or ""):
        found = primary().read(
            list_suppressions, PAGE_SUPPRESSIONS + 1, phone_numbers=numbers, reason=reason, before=before
        )
    kept: dict[str, Any] = {"search": search, "reason": reason}
    return form_page(
        "suppressions.html",
        faults or {},
        suppressions=found[:PAGE_SUPPRESSIONS],
        more=len(found) > PAGE_SUPPRESSIONS,
        before=before,
        kept=kept,
        number=None if number is None else shown_text(number),
        reason=reason,
        lost_search=missing,
        lost_page="before" in filters.faults,
        form=form or {},
        imported=imported,
        suppress_statuses=sorted(services().config.suppress_statuses),
        default_region=services().config.default_region,
        most_megabytes=FILE_BYTES >> 20,
        most_reason=REASON_CHARACTERS,
    )


def _faults(form: dict[str, str]) -> dict[str, str]:
    most = {"reason": REASON_CHARACTERS, "note": NOTE_CHARACTERS}
    return {name: fault for name in most if (fault := text_fault(form.get(name, ""), most[name])) is not None}
