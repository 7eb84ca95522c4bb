"""What happens to one call: drawn once from a seed, without a clock, a thread or a socket.

Offsets are whole simulated seconds since the submission was queued.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

FINAL_STATUSES = ("completed", "failed", "canceled", "rejected")
"""The final statuses that a sister product documents."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: the seconds of ringing and, if it is answered, of talking (otherwise None)."""

    ring: int
    talk: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a call unless a request cancels it or its window ends.

    A plan with the outcome `canceled` is canceled at the time of its next attempt.
    """

    outcome: str
    attempts: tuple[Attempt, ...]


@dataclass(slots=True)
class Call:
    """One call, and what happens to it at which offset. It is small, because a batch may have a million."""

    row: int
    destination: str
    dialed: tuple[int, ...] = ()
    connected: int | None = None
    ended: int | None = None
    outcome: str | None = None
    """How it ended."""
    undocumented: str | None = None
    """The status that a fault shows instead of the outcome."""

    @property
    def status(self) -> str:
        """What the provider shows."""
        if self.outcome is not None:
            return self.undocumented or self.outcome
        return "connected" if self.connected is not None else "dialing" if self.dialed else "queued"

    @property
    def duration(self) -> int | None:
        """Seconds of a completed call, None for any other call."""
        if self.connected is None or self.ended is None:
            return None
        return self.ended - self.connected

    @property
    def events(self) -> list[tuple[str, int]]:
        """Name and offset of each event so far. A failed call has no event for its end, as the samples show."""
        events = [("queued", 0), *(("dialing", at) for at in self.dialed)]
        if self.connected is not None:
            events.append(("connected", self.connected))
        if self.ended is not None:
            if self.connected is not None:
                events.append(("disconnected", self.ended))
            elif self.outcome in ("canceled", "rejected"):
                events.append((self.outcome, self.ended))
        return events

    def until(self, now: float) -> Call:
        """The call as it is at this offset."""
        if self.ended is not None and self.ended <= now:
            return self
        connected = self.connected if self.connected is not None and self.connected <= now else None
        return Call(self.row, self.destination, tuple(at for at in self.dialed if at <= now), connected)


@dataclass(frozen=True, slots=True)
class Window:
    """When the calls of a submission may be dialed, as offsets. At `closes` or when they are `canceled`, waiting calls
    end. Attempts that have begun continue.
    """

    opens: int = 1
    closes: int | None = None
    canceled: int | None = None
    reattempt_wait: int = 0


def play(call: Call, plan: Plan, start: int, window: Window) -> Call:
    """The call with all that happens to it. `start`: the offset of its first attempt."""
    stop = min((at for at in (window.closes, window.canceled) if at is not None), default=math.inf)
    at, rung_until = start, 0
    dialed: list[int] = []
    for attempt in plan.attempts:
        if at >= stop:
            break
        dialed.append(at)
        rung_until = at + attempt.ring
        if attempt.talk is not None:
            return replace(
                call, dialed=tuple(dialed), connected=rung_until, ended=rung_until + attempt.talk, outcome=plan.outcome
            )
        at = rung_until + window.reattempt_wait
    else:
        if plan.outcome != "canceled":
            return replace(call, dialed=tuple(dialed), ended=rung_until, outcome=plan.outcome)
    ended = int(min(at, max(stop, rung_until)))
    was_canceled = window.canceled is not None and window.canceled <= ended
    fails = dialed and at >= stop and not was_canceled
    return replace(call, dialed=tuple(dialed), ended=ended, outcome="failed" if fails else "canceled")


def seeded(seed: int, *parts: object) -> random.Random:
    """Random draws that depend only on these values, so that the timing of threads does not change them."""
    text = "/".join(str(part) for part in (seed, *parts))
    return random.Random(text)  # noqa: S311 - simulated calls must be repeatable, not secret


def pick(draws: random.Random, weights: Mapping[str, float]) -> str:
    """One of the names; `weights` says how likely each is."""
    return draws.choices(tuple(weights), tuple(weights.values()))[0]


def draw_plan(draws: random.Random, outcomes: Mapping[str, float], max_attempts: int) -> Plan:
    """A plan for one call with at most `max_attempts` attempts. `outcomes` are weights of the final statuses."""
    outcome = pick(draws, outcomes)
    tries = max_attempts
    if outcome == "rejected":
        # The carrier rejects the call at once, and it is not tried again.
        return Plan(outcome, (Attempt(draws.randint(1, 3), None),))
    if outcome == "canceled":
        tries = draws.randrange(max_attempts)
    elif outcome == "completed":
        tries = 1
        while tries < max_attempts and draws.random() < 0.4:
            tries += 1
    rings = [draws.randint(4, 35) for _ in range(tries)]
    talk = draws.randint(5, 120)
    answered = tries - 1 if outcome == "completed" else None
    return Plan(outcome, tuple(Attempt(ring, talk if no == answered else None) for no, ring in enumerate(rings)))
