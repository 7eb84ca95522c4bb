"""One accepted request, and everything about it that does not change while its calls are dialed."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from receiver.simulator.bodies import Terms
from receiver.simulator.calls import Call
from receiver.simulator.timeline import Timeline


@dataclass(slots=True, eq=False)
class Submission:
    """`number` is its place in the order of acceptance, from 1, and seeds all that happens to it.

    `queued_at` is Unix seconds as bodies tell it; `accepted` is the monotonic clock's reading, from
    which the timeline's offsets are counted. `wakes` is the moment of its next look, None for none.
    `told` are the rows whose results an earlier process delivered, `left` the calls that are not told of yet.
    """

    number: int
    kind: str
    application_id: int
    deployment_id: int
    terms: Terms
    calls: list[Call]
    timeline: Timeline
    queued_at: int
    accepted: float
    wakes: float | None = None
    told: Set[int] = frozenset()
    left: int = 0

    def call_id(self, call: Call) -> str:
        return f"{self.number}-{call.row}"
