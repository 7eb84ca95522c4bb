"""An accepted request, and the submission that dials its calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from receiver.simulator.bodies import Parameters
from receiver.simulator.calls import Call, Window


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
    """`number`: the position of the submission in the order of acceptance, from 1. It is the seed of its random draws.

    Offsets count from `started`, a reading of the monotonic clock. `upcoming`: end and row of the calls that have not
    ended, the next one last. `wakes_at`: the reading at which it ends, None if there is none, or nothing is dialed yet.
    `finished`: the rows that an earlier process finished. `left`: the number of calls that are not finished. A call is
    finished when nothing about it is left to deliver.
    """

    number: int
    request: Request
    window: Window
    calls: list[Call]
    started: float
    left: int
    finished: Set[int]
    upcoming: list[tuple[int, int]] = field(init=False)
    is_dialed: bool = False
    wakes_at: float | None = None

    def __post_init__(self) -> None:
        self.schedule(self.calls)

    def schedule(self, calls: Iterable[Call]) -> None:
        """Let these calls end, in order."""
        self.upcoming = sorted(((call.ended or 0, call.row) for call in calls), reverse=True)

    @property
    def result_url(self) -> str | None:
        return self.request.parameters.result_url

    def call_id(self, call: Call) -> str:
        return f"{self.number}-{call.row}"
