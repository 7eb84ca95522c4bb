"""The calls of a batch as a list, filtered by state, outcome or phone number; and the downloads.

A phone number is never part of an address, because proxies and browsers store addresses. A search is POSTed, the number
is kept in the signed session under a random name, and the address contains this name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CALL_STATES, OUTCOMES
from receiver.phone_numbers.destination import candidates
from receiver.summary.batches import get_default_region
from receiver.summary.calls import Call, CallFilter, list_calls
from receiver.summary.export import EVERY_CALL, export_calls_csv, export_calls_ndjson, export_skipped_csv
from receiver.web.api.exports import NDJSON, batch_file, csv_file
from receiver.web.dashboard.number_masking import choose_numbers, shown_text
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.searches import find_search, remember_search
from receiver.web.dashboard.session import own_path
from receiver.web.reading import reader

PAGE_CALLS = 50


@dataclass(frozen=True, slots=True)
class CallsPage:
    """A page of calls and its filters. `number`: the searched number, hidden if the viewer sees no complete numbers."""

    calls: Sequence[Call] = ()
    wanted: CallFilter = EVERY_CALL
    search: str | None = None
    number: str | None = None
    after: int = 0
    next_after: int | None = None
    not_understood: tuple[str, ...] = ()
    """Sentences about wrong filters in the address. Then no calls are shown, because all calls would be misleading."""

    @property
    def filtered(self) -> bool:
        return self.wanted != EVERY_CALL

    @property
    def filters(self) -> dict[str, str]:
        """The query of an address that selects the same calls."""
        parts = {"state": self.wanted.state, "outcome": self.wanted.outcome, "search": self.search}
        return {name: value for name, value in parts.items() if value}

    @property
    def query(self) -> dict[str, str | int]:
        """The query of this page's address."""
        return {**self.filters, **({"after": self.after} if self.after else {})}

    def address(self, batch_id: int, **changed: str | int | None) -> str:
        """This page's address with some filters changed. None removes a filter."""
        kept: dict[str, Any] = {**self.filters, **changed}
        return url_for("dashboard.batch", batch_id=batch_id, _anchor="calls", **kept)


def read_calls(conn: Connection, batch_id: int) -> CallsPage:
    """The calls that this request's query selects; none if it is not valid. The batch must exist."""
    chosen = _choose(conn, batch_id)
    if chosen.not_understood:
        return chosen
    found, more = list_calls(conn, batch_id, chosen.wanted, PAGE_CALLS, chosen.after, with_events=False)
    return replace(chosen, calls=found, next_after=found[-1].row if more else None)


def _choose(conn: Connection, batch_id: int) -> CallsPage:
    """This request's filters, without calls."""
    state = next((name for name in CALL_STATES if name == request.args.get("state")), None)
    outcome = next((name for name in OUTCOMES if name == request.args.get("outcome")), None)
    search = request.args.get("search") or None
    number = find_search(search)
    after = request.args.get("after", type=int) if request.args.get("after") else 0
    not_understood = []
    if request.args.get("state") and state is None:
        not_understood.append("This state does not exist.")
    if request.args.get("outcome") and outcome is None:
        not_understood.append("This outcome does not exist.")
    if after is None or not 0 <= after < 2**31:
        not_understood.append("This page of the list does not exist.")
    if search and number is None:
        not_understood.append(
            "This link belongs to a search for a phone number. Links do not contain the number; only the browser that"
            " searched for it knows it, while it is signed in. Search for the number again."
        )
    if not_understood or after is None:
        return CallsPage(not_understood=tuple(not_understood))
    numbers = None if number is None else candidates(number, get_default_region(conn, batch_id))
    return CallsPage(
        wanted=CallFilter(state, outcome, numbers),
        search=search,
        number=None if number is None else shown_text(number),
        after=after,
    )


@page("/batches/<int:batch_id>/search", scope="read", methods=("POST",))
def search_calls(batch_id: int) -> AnyResponse:
    """Search for a number, in any format, among the calls of a batch. An empty number shows all calls."""
    name = remember_search(request.form.get("number", ""))
    return redirect(url_for("dashboard.batch", batch_id=batch_id, search=name, _anchor="calls"), 303)


@page("/numbers", scope="read", methods=("POST",))
def switch_numbers() -> AnyResponse:
    """Show complete numbers, or only their last four digits, until the session ends."""
    choose_numbers(request.form.get("whole") == "1")
    return redirect(own_path(request.form.get("next")), 303)


@page("/batches/<int:batch_id>/calls.csv", scope="read")
def download_calls_csv(batch_id: int) -> Response:
    """The calls that the query selects, with their results, as CSV. `latest`: each with the result of its last
    follow-up. `columns=own`: only the user's own columns."""
    own, latest = request.args.get("columns") == "own", request.args.get("latest") == "1"
    blocks = export_calls_csv(reader(), batch_id, _wanted(batch_id), own=own, latest=latest)
    return csv_file(blocks, batch_id, "calls", with_mark=not own)


@page("/batches/<int:batch_id>/calls.ndjson", scope="read")
def download_calls_ndjson(batch_id: int) -> Response:
    """The calls that the query selects, with their results, one JSON object in each line, as in the API."""
    return batch_file(export_calls_ndjson(reader(), batch_id, _wanted(batch_id)), NDJSON, batch_id, "calls.ndjson")


def _wanted(batch_id: int) -> CallFilter:
    """The calls for a download. A file of other calls would be misleading, so a wrong filter is an error."""
    chosen = reader().read(_choose, batch_id)
    if chosen.not_understood:
        raise NotFound(" ".join(chosen.not_understood))
    return chosen.wanted


@page("/batches/<int:batch_id>/skipped.csv", scope="read")
def download_skipped_csv(batch_id: int) -> Response:
    """The skipped rows with their reasons, as CSV."""
    return csv_file(export_skipped_csv(reader(), batch_id), batch_id, "skipped", with_mark=True)
