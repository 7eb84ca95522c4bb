"""An accepted request, and the submission that dials its calls."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from receiver.simulator.bodies import Parameters
from receiver.simulator.calls import Call
from receiver.simulator.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Request:
    """`accepted_at` and `queued_at` are Unix seconds; bodies show `queued_at`, which `--epoch` can set."""

    kind: str
    application_id: int
    deployment_id: int
    parameters: Parameters
    queued_at: int
    accepted_at: float
    destinations: Sequence[str]


@dataclass(slots=True, eq=False)
class Submission:
    """`number` counts the submissions from 1 in the order of acceptance, and seeds all that is drawn for it.

    The timeline's offsets count from `started`, a reading of the monotonic clock. `wakes_at` is the reading at which
    the timeline moves next, None if never. `finished` are the rows that an earlier process finished, `left` the
    number of calls that are not finished yet. A call is finished when nothing about it is left to deliver.
    """

    number: int
    request: Request
    calls: list[Call]
    timeline: Timeline
    started: float
    left: int
    finished: Set[int]
    wakes_at: float | None = None

    @property
    def result_url(self) -> str | None:
        return self.request.parameters.result_url

    def call_id(self, call: Call) -> str:
        return f"{self.number}-{call.row}"
