"""Choose the winning callback for a call. No I/O; the order of the callbacks does not matter.

Callbacks with the same result key have the same result. The one that was received first represents it, and the others
are duplicates. One of several final results is chosen, and the others are conflicts. A status that is not final (a
step) is shown only while the call has no final result.

How a final result is chosen (docs/decisions/0006):

1. Of the results whose last event has a possible time, the latest wins. At a tie, the one with the higher rank wins.
2. Of the winner of 1 and all results without a possible time, the one with the highest rank wins.

The rank: a documented final status is above an undocumented one, then a result without an impossible time is above one
with an impossible time, then the result received earlier is above one received later.

So two results are compared by their times if both are possible, otherwise by rank. A result that wins against every
other result is always chosen. Comparing one pair after another would be wrong: with A at 10:00, B without a time, and C
at 09:00, received in the order C, B, A, each wins against one of the others, and the order of the comparisons would
decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from receiver.model import CallbackState, Outcome
from receiver.results.reading.call_details import CallDetails

SAME_RESULT = "same_result"
OTHER_RESULT_WINS = "other_result_stands"
STEP_SUPERSEDED = "step_superseded"

FIRST_POSSIBLE = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_AHEAD = timedelta(days=1)
"""A possible time is not before FIRST_POSSIBLE, and at most LATEST_AHEAD after its callback was received."""


class Candidate(NamedTuple):
    """A callback that names the call."""

    callback_id: int
    received_at: datetime
    polled: bool
    details: CallDetails

    @property
    def outcome(self) -> Outcome | None:
        """None: the status is not final."""
        return self.details.outcome

    @property
    def documented(self) -> bool:
        """The provider documents this status as final."""
        return self.outcome is not None and self.outcome != "other"

    @property
    def time_is_impossible(self) -> bool:
        """The time of the last event cannot be true."""
        at = self.details.last_event_at
        return at is not None and (at < FIRST_POSSIBLE or at - self.received_at > LATEST_AHEAD)

    @property
    def possible_at(self) -> datetime | None:
        """The time of the last event, if it can be true."""
        return None if self.time_is_impossible else self.details.last_event_at


class Verdict(NamedTuple):
    """The callback that is applied to the call, and callback id to (state, reason) of all others."""

    winner: Candidate
    not_applied: dict[int, tuple[CallbackState, str]]


def decide(candidates: Sequence[Candidate]) -> Verdict:
    """Decide among all callbacks of one call; there is at least one."""
    if len(candidates) == 1:  # nearly always
        return Verdict(candidates[0], {})
    represents: dict[bytes, Candidate] = {}
    not_applied: dict[int, tuple[CallbackState, str]] = {}
    for each in sorted(candidates, key=lambda each: (each.received_at, each.callback_id)):
        if represents.setdefault(each.details.result_key, each) is not each:
            not_applied[each.callback_id] = ("duplicate", SAME_RESULT)
    different = list(represents.values())
    finals = [each for each in different if each.outcome is not None]
    # By rank. If there are only steps, the step received last is first.
    ranked = sorted(finals, key=lambda each: (not each.documented, each.time_is_impossible)) or different[::-1]
    winner = _winner(ranked)
    for each in different:
        if each is winner:
            continue
        if each.outcome is None:
            not_applied[each.callback_id] = ("duplicate", STEP_SUPERSEDED)
        else:
            not_applied[each.callback_id] = ("conflict", OTHER_RESULT_WINS)
    return Verdict(winner, not_applied)


def _winner(ranked: Sequence[Candidate]) -> Candidate:
    """The latest result, or a result without a possible time that has a higher rank."""
    timed = [(at, each) for each in ranked if (at := each.possible_at) is not None]
    latest = max(timed, key=lambda found: found[0])[1] if timed else None
    return next(each for each in ranked if each is latest or each.possible_at is None)
