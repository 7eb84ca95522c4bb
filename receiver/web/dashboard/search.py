"""Search from every page: a phone number in all batches, its last four digits, or a batch by what it is called."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from receiver.database.pool import Connection
from receiver.errors import InvalidInput, NotFound
from receiver.phone_numbers.destination import candidates
from receiver.queueing.suppressions import list_suppressions
from receiver.summary.batches import BatchFilter, get_batch, get_names, list_batches
from receiver.summary.calls import Call, list_calls_ending_in, list_calls_of_number
from receiver.web.cursors import read_cursor, write_cursor
from receiver.web.dashboard.filters import text_fault
from receiver.web.dashboard.number_masking import shown_text
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.searches import LONGEST_SEARCH, find_search, remember_search
from receiver.web.reading import reader
from receiver.web.services import services

PAGE_CALLS = 50
MOST_BATCHES = 10

SHORTEST_NUMBER = 7
"""Digits. Fewer are no phone number in any country, but the last four are searched."""

_last_four = re.compile(r"\W*([0-9]{4})").fullmatch
_batch_id = re.compile(r"(?:batch)?[\s#]*([0-9]{1,15})", re.IGNORECASE).fullmatch
_letter = re.compile(r"[^\W\d_]").search


@page("/search", scope="read", methods=("GET", "POST"))
def search() -> Response | str:
    """Search for a number or a batch. The address never contains what was typed, because it may be a number."""
    if request.method == "POST":
        name = remember_search(request.form.get("text", ""))
        return redirect(url_for("dashboard.search", of=name), 303)
    name = request.args.get("of") or None
    text = find_search(name)
    faults, found, after = [], dict[str, Any](), None
    if name and text is None:
        faults.append(
            "This link belongs to a search. Links do not contain what was typed; only the browser that searched knows"
            " it, while it is signed in. Search again."
        )
    try:
        after = read_cursor("search", request.args.get("after") or None, 2)
    except InvalidInput:
        faults.append("This page of the list does not exist.")
    if text is not None and (fault := text_fault(text, LONGEST_SEARCH)) is not None:
        faults.append(fault)
    if text is not None and not faults:
        found = reader().read_at_one_moment(lambda conn: _find(conn, text, after))
    return render_template(
        "search.html",
        faults=faults,
        of=name,
        paged=after is not None,
        region=services().config.default_region,
        text=None if text is None else shown_text(text),
        **found,
    )


def _find(conn: Connection, text: str, after: tuple[int, ...] | None) -> dict[str, Any]:
    """The calls and the batches that a text may mean. Only the calls have further pages."""
    last_four, has_letters = _last_four(text), _letter(text) is not None
    digits = sum(map(str.isdigit, text))
    numbers = candidates(text, services().config.default_region) if digits >= SHORTEST_NUMBER else ()
    key = None if after is None else (after[0], after[1])
    calls, following = list[Call](), None
    if numbers:
        calls, more = list_calls_of_number(conn, numbers, PAGE_CALLS, key)
        following = (calls[-1].batch_id, calls[-1].row) if more else None
    elif last_four:
        calls, following = list_calls_ending_in(conn, int(last_four[1]), PAGE_CALLS, key)
    batches = []
    if after is None:
        if (of_id := _batch_id(text)) is not None:
            with suppress(NotFound):
                batches.append(get_batch(conn, int(of_id[1]), with_submissions=False))
        named = list_batches(conn, BatchFilter(text=text), MOST_BATCHES + 1, with_submissions=False)
        batches += [batch for batch in named if batch.id not in {found.id for found in batches}]
    return {
        "batches": batches[:MOST_BATCHES],
        "more_batches": len(batches) > MOST_BATCHES,
        "calls": calls,
        "following": None if following is None else write_cursor("search", following),
        "incomplete": not numbers and not last_four and not has_letters,
        "is_number": bool(numbers),
        "last_four": last_four is not None,
        "names": get_names(conn, {call.batch_id for call in calls}),
        "suppressed": list_suppressions(conn, 1, phone_numbers=numbers) if numbers and after is None else [],
    }
