"""The feed of results over REST: each call whose result was settled or changed, as it comes."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response, g, request

from receiver.summary.feed import Entry, Place, get_start, list_entries
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import answer_later, waited_for
from receiver.web.cursors import answer_texts, read_cursor, read_texts, write_cursor
from receiver.web.reading import OWN_CHANGE, reader
from receiver.web.services import services
from receiver.web.waiting import BESIDE_LOOP, preferred_wait

LONGEST_WAIT_SECONDS = 30
MANY_WAITING = 100
"""If more requests wait in this process, they wait for less time."""

blueprint = Blueprint("feed")


@blueprint.operation("GET /results", "read", schemas.ResultPage, query=schemas.ResultsQuery)
def list_results(query: dict[str, Any]) -> Response:
    """Follow all results, as they come

    Each call whose result was settled or changed, oldest first, over all batches, as it is now. A call that lost
    its result is `pending`. Store `next_cursor` together with what you read, and send it next time: no entry is
    left out, and none appears before a cursor that was returned. A call whose result changes appears again.
    Entries are kept for 30 days. `Prefer: wait=30`: if there is nothing new, wait for up to 30 seconds, less if
    many requests wait.
    """
    waited: Place | None = waited_for()
    if waited is not None:
        setattr(g, OWN_CHANGE, True)  # a replica may not have yet what this request has waited for
    start = waited or _read_place(query.get("cursor"))
    end = last = start
    more = False

    def read(limit: int, after: tuple[int, ...] | None) -> tuple[list[Entry], bool]:
        nonlocal end, last, more
        entries, more, end = reader().read(list_entries, end, limit)
        last = entries[-1].next if entries else last
        return entries, more and bool(entries)

    texts, after, _ = read_texts(query["limit"], start, read, lambda entry: entry.next, lambda entry: entry.call.json())
    if not texts and not more and waited is None:
        _wait(start, end.position)
    # Purged calls are passed too, unless the page ended before all that was read, or nothing follows them.
    place = end if after == last and (texts or more) else after or start
    return answer_texts("results", texts, write_cursor("results", place))


def _read_place(cursor: str | None) -> Place:
    if cursor is None or cursor == "now":
        return reader().read(get_start, now=cursor == "now")
    return Place(*read_cursor("results", cursor, 3) or ())


def _wait(start: Place, position: int) -> None:
    """Resume this request when there is an entry at this position, or after the time that it prefers."""
    environ = request.environ
    share = max(1.0, environ.get(BESIDE_LOOP, 0) / MANY_WAITING)
    seconds = preferred_wait(environ.get("HTTP_PREFER", ""), 0, LONGEST_WAIT_SECONDS) / share
    if seconds:
        answer_later(start, partial(services().positions.is_met, position), seconds)
