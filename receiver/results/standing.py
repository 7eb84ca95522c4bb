"""Which of several callbacks for one call stands. Pure, and the same in whatever order they are settled.

Callbacks that say the same (`CallDetails.result_key`) are one result, and the earliest received of
them speaks for it; the others are duplicates. Of different final results the one whose last
event is later stands, at a tie the earlier received; the others conflict with it. A status that
is not final stands only as long as none is, the latest one first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from receiver.model import CallbackState
from receiver.results.call_details import CallDetails

SAME_RESULT = "same_result"
OTHER_RESULT_STANDS = "other_result_stands"
STEP_SUPERSEDED = "step_superseded"

_NEVER = datetime.min.replace(tzinfo=UTC)


class Reading(NamedTuple):
    """A callback that was read and names a call."""

    callback_id: int
    received_at: datetime
    details: CallDetails
    polled: bool = False


class Verdict(NamedTuple):
    """What stands, and what was set aside: callback id to (state, reason)."""

    stands: Reading
    set_aside: dict[int, tuple[CallbackState, str]]


def decide(readings: Sequence[Reading]) -> Verdict:
    """Decide among all readings of one call; there is at least one."""
    if len(readings) == 1:  # nearly always
        return Verdict(readings[0], {})
    speaks_for: dict[Hashable, Reading] = {}
    set_aside: dict[int, tuple[CallbackState, str]] = {}
    for reading in sorted(readings, key=lambda reading: (reading.received_at, reading.callback_id)):
        if speaks_for.setdefault(reading.details.result_key, reading) is not reading:
            set_aside[reading.callback_id] = ("duplicate", SAME_RESULT)
    different = list(speaks_for.values())
    finals = [reading for reading in different if reading.details.outcome is not None]
    # max() keeps the first of equals: for finals that is the earlier received; for steps the later is wanted.
    stands = max(finals or reversed(different), key=lambda reading: reading.details.last_event_at or _NEVER)
    for reading in different:
        if reading is stands:
            continue
        if reading.details.outcome is None:
            set_aside[reading.callback_id] = ("duplicate", STEP_SUPERSEDED)
        else:
            set_aside[reading.callback_id] = ("conflict", OTHER_RESULT_STANDS)
    return Verdict(stands, set_aside)
