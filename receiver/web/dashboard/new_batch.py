"""A new batch in two steps: upload a CSV, then check the preview and confirm.

The upload is stored as a draft (`receiver.queueing.drafts`). Its page can be reloaded, its parameters can be changed
without another upload, and it becomes only one batch, even if it is confirmed repeatedly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response

from receiver.database.pool import connection
from receiver.errors import InvalidInput
from receiver.queueing.acceptance import preview
from receiver.queueing.batches import Preview, check_external_id
from receiver.queueing.contacts import SAMPLE_ROWS, Contact, ContactReader
from receiver.queueing.drafts import (
    DRAFT_BYTES,
    Draft,
    change_draft,
    discard_draft,
    forget_preview,
    get_draft,
    insert_draft,
    keep_preview,
    kept_preview,
    list_drafts,
    open_csv,
    queue_draft,
)
from receiver.queueing.header import DESTINATION, MissingDestination, PhoneColumn
from receiver.queueing.parameters import BatchParameters, read_parameters
from receiver.queueing.workbook import opened_csv
from receiver.summary.batches import BatchFilter, list_batches
from receiver.web.api.batches import number_lookups
from receiver.web.api.exports import CSV, faulty_rows, streamed_file
from receiver.web.auth import current_key
from receiver.web.dashboard.batch_fields import (
    FIELDS,
    MOST_ZONES,
    by_field,
    field_words,
    for_schema,
    read_form,
    shown,
)
from receiver.web.dashboard.pages import FORM_BYTES, form_page, page, to_batch
from receiver.web.reading import primary
from receiver.web.services import services

LAST_USED = "last_batch"
"""In the session: application and deployment of the last batch, the defaults of the next one."""

EARLIER_BATCHES = 25
"""The newest batches, whose applications and deployments are suggested."""

SAMPLE = """destination,first_name,appointment
+16175550101,Ana,2026-12-01 09:30
+16175550102,Björn,2026-12-01 10:00
+16175550103,Chloé,2026-12-02 14:15
+16175550104,Dev,2026-12-02 15:45
"""
"""A file to begin with. The numbers are reserved for fiction: they reach nobody."""


@page("/batches/new", scope="queue", methods=("GET", "POST"), request_bytes=DRAFT_BYTES + FORM_BYTES)
def new_batch() -> Response | tuple[str, int]:
    """Upload a CSV."""
    if request.method == "GET":
        application_id, deployment_id = session.get(LAST_USED) or ("", "")
        return _upload_form({"application_id": application_id, "deployment_id": deployment_id}, {})
    form = read_form(request.form)
    faults = {"csv": "Choose a CSV file or a workbook with the numbers to call."}
    try:
        if (draft_id := _store_file(form)) is not None:
            return redirect(url_for("dashboard.draft", draft_id=draft_id), 303)
    except InvalidInput as error:
        faults = by_field(error.faults)
    return _upload_form(form, faults | _faults_of(form)[1])


def _upload_form(form: Mapping[str, str], faults: Mapping[str, str]) -> tuple[str, int]:
    with connection(services().pool) as conn:
        drafts = list_drafts(conn, current_key().key_id)
        earlier = list_batches(conn, BatchFilter(), EARLIER_BATCHES, with_submissions=False)
    return form_page(
        "new_batch.html",
        faults,
        form=shown(form),
        drafts=drafts,
        applications={batch.application_id: f"last for {batch.name}" for batch in reversed(earlier)},
        deployments={
            batch.deployment_id: f"of application {batch.application_id}, last for {batch.name}"
            for batch in reversed(earlier)
        },
        simulated=services().config.simulated,
        **_words(),
    )


def _store_file(form: Mapping[str, str]) -> UUID | None:
    """Store the uploaded file with a form as a new draft. None: no file was chosen. Raises InvalidInput."""
    csv = request.files.get("csv")
    if csv is None or not csv.filename:
        return None
    with opened_csv(csv.stream) as text, connection(services().pool) as conn:
        return insert_draft(conn, current_key().key_id, text, csv.filename, form)


@page("/batches/new/sample.csv", scope="queue")
def sample_file() -> Response:
    """Download a file to begin with."""
    return streamed_file([SAMPLE.encode()], CSV, "sample.csv")


@page("/batches/new/<uuid:draft_id>", scope="queue", methods=("GET", "POST"), request_bytes=DRAFT_BYTES + FORM_BYTES)
def draft(draft_id: UUID) -> Response | str:
    """Show the preview of an upload, and change its parameters or its file."""
    if request.method == "POST":
        with connection(services().pool) as conn:
            found = get_draft(conn, current_key().key_id, draft_id, lock=True)
            if "discard" in request.form and found.batch_id is None:
                discard_draft(conn, found)
                flash("The upload was discarded. Nobody was called.")
                return redirect(url_for("dashboard.new_batch"), 303)
            form = {**found.form, **read_form(request.form, found.form)}
            change_draft(conn, found, form)
        try:
            if found.batch_id is None and (replacement := _store_file(form)) is not None:
                with connection(services().pool) as conn:
                    discard_draft(conn, found)
                draft_id = replacement
        except InvalidInput as error:
            flash(f"The other file was not taken over. {' '.join(by_field(error.faults).values())}", "warn")
        return redirect(url_for("dashboard.draft", draft_id=draft_id), 303)
    found = primary().read(get_draft, current_key().key_id, draft_id)
    if found.batch_id is not None:
        return to_batch(found.batch_id)
    parameters, faults = _faults_of(found.form, found.file_name)
    seen, unreadable = None, None
    if parameters is not None:
        try:
            seen = _preview(found, parameters)
        except InvalidInput as error:
            faults = by_field(fault for fault in error.faults if fault.where in FIELDS)
            unreadable = None if faults else error
    return render_template(
        "draft.html",
        draft=found,
        faults=faults,
        form=shown(found.form),
        parameters=parameters,
        seen=seen,
        simulated=services().config.simulated,
        unreadable=unreadable,
        blocked=blocked(seen, parameters),
        choosable=_choosable(seen, unreadable),
        **_words(),
    )


@page("/batches/new/<uuid:draft_id>/errors.csv", scope="queue")
def draft_errors(draft_id: UUID) -> Response:
    """Download the rows of an upload that cannot be called."""
    with connection(services().pool) as conn:
        found = get_draft(conn, current_key().key_id, draft_id)
        parameters = _parameters(found.form)
        csv = open_csv(conn, draft_id)
    with csv:
        return faulty_rows(csv, parameters, found.file_name)


@page("/batches/new/<uuid:draft_id>/queue", scope="queue", methods=("POST",))
def queue(draft_id: UUID) -> Response:
    """Queue an upload. Repeated requests queue it only once."""
    here = url_for("dashboard.draft", draft_id=draft_id)
    try:
        with connection(services().pool) as conn:
            found = get_draft(conn, current_key().key_id, draft_id, lock=True)
            if found.batch_id is not None:
                return to_batch(found.batch_id)
            if request.form.get("version") != found.version:
                flash("The parameters were changed after this page was opened. Check them again. Nobody was called.")
                return redirect(here, 303)
            parameters = _parameters(found.form, found.file_name)
            batch_id = queue_draft(conn, found, parameters, services().limits, created_by=current_key().name)
    except InvalidInput:
        # For example, its start time has passed, or its numbers were queued since the preview.
        with connection(services().pool) as conn:
            forget_preview(conn, found)
        flash("Nobody was called. Check the batch again.")
        return redirect(here, 303)
    session[LAST_USED] = [str(parameters.application_id), str(parameters.deployment_id)]
    return to_batch(batch_id)


def _preview(found: Draft, parameters: BatchParameters) -> Preview:
    """The draft's preview: the stored one, or a new one from its file. Raises InvalidInput."""
    limits = services().limits
    primary().read(check_external_id, parameters)
    seen = kept_preview(found, parameters, limits)
    if seen is None:
        with connection(services().pool) as conn:
            csv = open_csv(conn, found.draft_id)
        # Return the connection first: reading a million rows takes long.
        with csv:
            seen = preview(csv, parameters, limits, *number_lookups(parameters))
            contacts = ContactReader(csv, parameters.default_region, parameters.destination_column)
            seen = replace(
                seen,
                columns=tuple(contacts.find_phone_columns()),
                places=() if parameters.hours else tuple(_count_zones(contacts).most_common(MOST_ZONES)),
            )
        with connection(services().pool) as conn:
            keep_preview(conn, found, parameters, limits, seen)
    return seen


def _count_zones(contacts: ContactReader) -> Counter[str]:
    """The time zones of the first rows' numbers, several joined by commas."""
    # The library's table of zones takes megabytes.
    from receiver.phone_numbers.time_zones import zones_of

    first = islice(contacts, SAMPLE_ROWS)
    return Counter(",".join(zones_of(each.phone_number)) for each in first if isinstance(each, Contact))


def _choosable(seen: Preview | None, unreadable: InvalidInput | None) -> tuple[PhoneColumn, ...]:
    """The columns that can be the numbers. If one is named `destination`, no other column can be."""
    columns = unreadable.columns if isinstance(unreadable, MissingDestination) else seen.columns if seen else ()
    return () if any(column.name.lower() == DESTINATION for column in columns) else columns


def blocked(seen: Preview | None, parameters: BatchParameters | None) -> str | None:
    """Why the draft cannot be queued; None if it can."""
    if seen is None or parameters is None:
        return "faulty"
    if seen.invalid and parameters.on_invalid == "refuse":
        return "invalid"
    if seen.duplicates and parameters.on_duplicate == "refuse":
        return "duplicates"
    if seen.recent["rows"] and parameters.on_recent == "refuse":
        return "recent"
    return None if seen.submissions else "nobody"


def _parameters(form: Mapping[str, str], file_name: str = "") -> BatchParameters:
    """The parameters in the form. Raises InvalidInput."""
    return read_parameters(for_schema(form), services().config.default_region, file_name)


def _faults_of(form: Mapping[str, str], file_name: str = "") -> tuple[BatchParameters | None, dict[str, str]]:
    """The parameters in the form, or its faults by field."""
    try:
        return _parameters(form, file_name), {}
    except InvalidInput as error:
        return None, by_field(error.faults)


def _words() -> dict[str, Any]:
    most = {"default_region": services().config.default_region, "most_megabytes": DRAFT_BYTES >> 20}
    return {**field_words(), **most, "sample_rows_counted": SAMPLE_ROWS}
