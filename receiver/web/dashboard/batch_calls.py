"""The calls of a batch as a list: by state, by outcome, by number, a page at a time; and the files to take away.

A number that is looked for never stands in an address, which proxies and browsers write down: it is POSTed, kept in
the signed session under a name made up for it, and the address has that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from flask import Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from receiver.database.pool import Connection
from receiver.model import CALL_STATES, OUTCOMES, CallState, Outcome
from receiver.phone_numbers.destination import candidates
from receiver.summary.batches import get_default_region
from receiver.summary.calls import Call, CallFilter, list_calls
from receiver.summary.export import export_calls_csv, export_calls_ndjson, export_skipped_csv
from receiver.web.api.exports import NDJSON, csv_file, streamed_file
from receiver.web.dashboard.number_masking import choose_numbers, shown_text
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.searches import find_search, remember_search
from receiver.web.dashboard.session import own_path
from receiver.web.reading import reader

PAGE_CALLS = 50


@dataclass(frozen=True, slots=True)
class CallsPage:
    """A page of calls and what it was narrowed to. `number` is the one looked for, as this viewer may see it."""

    calls: list[Call]
    state: CallState | None
    outcome: Outcome | None
    search: str | None
    number: str | None
    after: int
    next_after: int | None
    not_understood: tuple[str, ...] = ()
    """What the address asks for and cannot be shown, in sentences. Then no calls are shown, rather than all."""

    @property
    def filtered(self) -> bool:
        return self.state is not None or self.outcome is not None or self.number is not None

    @property
    def query(self) -> dict[str, str | int]:
        """What is shown, as its address says it."""
        asked = {"state": self.state, "outcome": self.outcome, "search": self.search, "after": self.after}
        return {name: value for name, value in asked.items() if value}

    def address(self, batch_id: int, **changed: str | int | None) -> str:
        """This page's address with something about it changed; None takes it out."""
        kept: dict[str, Any] = {"state": self.state, "outcome": self.outcome, "search": self.search, **changed}
        return url_for("dashboard.batch", batch_id=batch_id, _anchor="calls", **kept)


def read_calls(conn: Connection, batch_id: int) -> CallsPage:
    """The calls that this request's query asks for; none, if it asks for something that cannot be shown."""
    state, outcome = request.args.get("state") or None, request.args.get("outcome") or None
    search, after = request.args.get("search") or None, request.args.get("after") or "0"
    number = find_search(search)
    not_understood = []
    if state not in (None, *CALL_STATES):
        not_understood.append("This state does not exist.")
    if outcome not in (None, *OUTCOMES):
        not_understood.append("This outcome does not exist.")
    if not (after.isascii() and after.isdigit() and int(after[:11]) < 2**31):
        not_understood.append("This page of the list does not exist.")
    if search and number is None:
        not_understood.append(
            "This link belongs to a search for a phone number. Links do not contain the number; only the browser that"
            " searched for it knows it, while it is signed in. Search for the number again."
        )
    if not_understood:
        get_default_region(conn, batch_id)  # raises NotFound
        return CallsPage([], None, None, None, None, 0, None, tuple(not_understood))
    return _read_calls(
        conn, batch_id, cast("CallState | None", state), cast("Outcome | None", outcome), search, number, int(after)
    )


def _read_calls(
    conn: Connection,
    batch_id: int,
    state: CallState | None,
    outcome: Outcome | None,
    search: str | None,
    number: str | None,
    after: int,
) -> CallsPage:
    numbers = None if number is None else candidates(number, get_default_region(conn, batch_id))
    wanted = CallFilter(state, outcome, numbers)
    found, more = list_calls(conn, batch_id, wanted, PAGE_CALLS, after, with_events=False)
    return CallsPage(
        calls=found,
        state=state,
        outcome=outcome,
        search=search if number is not None else None,
        number=None if number is None else shown_text(number),
        after=after,
        next_after=found[-1].row if more else None,
    )


@page("/batches/<int:batch_id>/search", scope="read", methods=("POST",))
def search_calls(batch_id: int) -> AnyResponse:
    """Look for a number, in whatever spelling, among the calls of a batch; nothing typed shows all again."""
    name = remember_search(request.form.get("number", ""))
    return redirect(url_for("dashboard.batch", batch_id=batch_id, search=name, _anchor="calls"), 303)


@page("/numbers", scope="read", methods=("POST",))
def switch_numbers() -> AnyResponse:
    """Show whole numbers, or all but their last four digits hidden, for as long as the session lasts."""
    choose_numbers(request.form.get("whole") == "1")
    return redirect(own_path(request.form.get("next")), 303)


@page("/batches/<int:batch_id>/calls.csv", scope="read")
def download_calls_csv(batch_id: int) -> Response:
    """All calls with their results, as CSV."""
    return _unkept(csv_file(export_calls_csv(reader(), batch_id), batch_id, "calls", with_mark=True))


@page("/batches/<int:batch_id>/calls.ndjson", scope="read")
def download_calls_ndjson(batch_id: int) -> Response:
    """All calls with their results, one JSON object a line, as the API gives them."""
    blocks = export_calls_ndjson(reader(), batch_id)
    return _unkept(streamed_file(blocks, NDJSON, batch_id, "calls.ndjson"))


@page("/batches/<int:batch_id>/skipped.csv", scope="read")
def download_skipped_csv(batch_id: int) -> Response:
    """The rows that were left out, each with its reason, as CSV."""
    return _unkept(csv_file(export_skipped_csv(reader(), batch_id), batch_id, "skipped", with_mark=True))


def _unkept(answer: Response) -> Response:
    """A file of people's numbers, of which no cache keeps a copy."""
    answer.headers["Cache-Control"] = "no-store"
    return answer
