"""Recognize the columns that an export of this service added, when a user queues the file again.

Their names are next to each other, in our order. If the user has a column of that name, ours begins with `result_`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

RESULT_COLUMNS = (
    "row",
    "phone_number",
    "state",
    "outcome",
    "provider_status",
    "attempts",
    "max_attempts",
    "queued_at",
    "started_at",
    "ended_at",
    "duration_seconds",
    "result_received_at",
    "result_source",
    "withdrawn_reason",
)
"""The columns of `calls.csv`."""

ADDED_LATER = 1
"""How many of the last ones are not in the files of release 1.0.0."""

SKIPPED_COLUMNS = ("row", "code", "message")
"""The columns of `skipped.csv`. A user's columns may have the same names, so the codes are checked too."""

FAULT_COLUMNS = ("row", "line", "code", "message")
"""The columns of the file of a preview's faulty rows."""

REASON_COLUMNS = (FAULT_COLUMNS, SKIPPED_COLUMNS)

CODE_PLACE = -2
"""The place of `code` in both."""

SKIPPED_CODES = frozenset(
    {
        "too_many_cells",
        "nul_character",
        "digits_lost",
        "duplicate",
        "suppressed",
        "recent",
        "time_zone_unknown",
        "no_common_hours",
        "destination_empty",
        "destination_too_long",
        "destination_malformed",
        "destination_parameter",
        "destination_emergency",
        "destination_short_code",
        "destination_invalid",
    }
)
"""Why a row can be skipped. A code that is added elsewhere must be added here."""

PREFIX = "result_"

_ours = {name: re.compile(f"(?:{PREFIX})*{name}").fullmatch for name in {*RESULT_COLUMNS, *FAULT_COLUMNS}}


def begins_as_added(name: str) -> bool:
    """Whether the first added column can have this name."""
    return _ours["row"](name) is not None


def find_added(names: Sequence[str], columns: Sequence[str]) -> list[tuple[int, ...]]:
    """The places of `columns` in a header, for each time that all of them are there. Empty names are ignored."""
    places = [place for place, name in enumerate(names) if name]
    least = len(columns) - (ADDED_LATER if columns is RESULT_COLUMNS else 0)
    found = []
    at = 0
    while at + least <= len(places):
        pairs = zip(columns, places[at:], strict=False)
        run = tuple(place for column, place in takewhile(lambda pair: _ours[pair[0]](names[pair[1]]), pairs))
        if len(run) >= least:
            found.append(run)
        at += len(run) if len(run) >= least else 1
    return found
