"""Two simulated years of batches, zones, paces, pauses, kills and clock steps, every invariant checked at each release.

The loop does what a worker's claim does with the database: it asks `decide`, and keeps what that says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Literal

import pytest

from receiver.schedule import (
    LEAST_LEFT,
    WINDOW,
    Gates,
    Hours,
    Refuse,
    Release,
    Released,
    Wait,
    decide,
    has_common_hours,
    slice_rows,
)
from tests.release.test_schedule import ZONES, is_open, local_dates

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
YEARS = timedelta(days=731)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

State = Literal["pending", "accepted", "unknown", "refused", "withdrawn"]


@dataclass
class Submission:
    zones: tuple[str, ...]
    calls: int
    not_before: datetime
    state: State = "pending"
    releases: int = 0


@dataclass
class Batch:
    gates: Gates
    created_at: datetime
    submissions: list[Submission]
    released: list[Released] = field(default_factory=list)
    """By the database's clock."""
    truly: list[tuple[datetime, int]] = field(default_factory=list)
    """By a clock that nobody changes."""
    steps: list[datetime] = field(default_factory=list)
    paused: bool = False
    sendable_since: datetime = BEGINNING

    def pending(self) -> list[Submission]:
        return [each for each in self.submissions if each.state == "pending"]


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = BEGINNING
        self.offset = timedelta()
        self.events: list[tuple[datetime, int, str, Batch | None]] = []
        self.batches: list[Batch] = []
        self.worker_back_at = BEGINNING
        self.looks = 0

    @property
    def clock(self) -> datetime:
        """What the database says it is."""
        return self.now + self.offset

    def plan(self, at: datetime, what: str, batch: Batch | None = None) -> None:
        heappush(self.events, (at, len(self.events) + self.looks, what, batch))
        self.looks += 1

    def run(self) -> None:
        chance = self.random
        for number in range(60):
            self.plan(BEGINNING + chance.random() * (YEARS - 40 * DAY) + number * SECOND, "queue")
        for _ in range(40):
            self.plan(BEGINNING + chance.random() * YEARS, "step")
            self.plan(BEGINNING + chance.random() * YEARS, "outage")
        while self.events:
            self.now, _, what, batch = heappop(self.events)
            getattr(self, f"_{what}")(batch)

    def _queue(self, _: Batch | None) -> None:
        chance = self.random
        now = self.clock
        opens = chance.randrange(0, 94)
        hours = Hours(opens * 15, min(1440, opens * 15 + 15 * chance.randrange(2, 60)), chance.randrange(1, 128))
        start = chance.choice([None, now + chance.random() * 10 * DAY])
        gates = Gates(
            start_at=start,
            end_at=chance.choice([None, None, (start or now) + chance.random() * chance.choice([HOUR, 20 * DAY])]),
            hours=chance.choice([hours, hours, None]),
            calls_per_minute=chance.choice([None, 1, 7, 20, 60, 600]),
        )
        size = slice_rows(gates.calls_per_minute, 10_000)
        submissions = []
        for _group in range(chance.randrange(1, 5)):
            zones = tuple(chance.sample(ZONES, chance.choice([1, 1, 2]))) if gates.hours else ()
            if gates.hours and not has_common_hours(gates.hours, zones, start or now):
                continue  # an invalid row
            for _slice in range(chance.randrange(1, 12)):
                submissions.append(Submission(zones, chance.choice([size, size, chance.randint(1, size)]), now))
        batch = Batch(gates, now, submissions, sendable_since=max(now, start or now))
        self.batches.append(batch)
        self.plan(self.now, "look", batch)
        for _pause in range(chance.randrange(3)):
            self.plan(self.now + chance.random() * chance.choice([MINUTE, HOUR, 5 * DAY]), "pause", batch)
        if chance.random() < 0.1:
            self.plan(self.now + chance.random() * chance.choice([HOUR, 5 * DAY]), "cancel", batch)

    def _pause(self, batch: Batch | None) -> None:
        assert batch is not None
        batch.paused = True
        self.plan(self.now + self.random.random() * self.random.choice([MINUTE, HOUR, 3 * DAY]), "resume", batch)

    def _resume(self, batch: Batch | None) -> None:
        assert batch is not None
        batch.paused = False
        batch.sendable_since = max(batch.sendable_since, self.clock)

    def _cancel(self, batch: Batch | None) -> None:
        assert batch is not None
        for submission in batch.pending():
            submission.state = "withdrawn"

    def _step(self, _: Batch | None) -> None:
        self.offset += self.random.choice([-1, 1]) * self.random.choice([SECOND, 20 * SECOND, 5 * MINUTE, 3 * HOUR])
        for batch in self.batches:
            batch.steps.append(self.now)

    def _outage(self, _: Batch | None) -> None:
        self.worker_back_at = self.now + self.random.random() * self.random.choice([MINUTE, HOUR, 6 * HOUR])

    def _look(self, batch: Batch | None) -> None:
        """One claim by one of several workers, and when somebody looks again."""
        assert batch is not None
        if self.now < self.worker_back_at:
            self.plan(self.worker_back_at, "look", batch)
            return
        pending = batch.pending()
        if not pending:
            return
        due = [each for each in pending if each.not_before <= self.clock]
        gate = batch.gates.pace_opens_at(self.clock)
        window_over = batch.gates.end_at is not None and batch.gates.end_at <= self.clock
        again = timedelta(seconds=0.1 + self.random.random() * 0.1)
        if batch.paused and not window_over:
            again = 5 * MINUTE
        elif not due and not window_over:
            again = max(again, min(each.not_before for each in pending) - self.clock)
        elif gate > self.clock and not window_over:
            again = max(again, gate - self.clock)
        else:
            self._claim(batch, min(due or pending, key=lambda each: each.not_before))
        # A clock step can bring the moment nearer; workers look every fifth of a second.
        self.plan(self.now + min(again, HOUR), "look", batch)

    def _claim(self, batch: Batch, submission: Submission) -> None:
        now, chance = self.clock, self.random
        decision = decide(
            batch.gates,
            submission.zones,
            submission.calls,
            waits_since=batch.sendable_since,
            recent=[each for each in batch.released if each.at > now - WINDOW],
            now=now,
        )
        died_before_commit = chance.random() < 0.02
        if died_before_commit:
            return
        if isinstance(decision, Wait):
            assert decision.until > now
            if decision.whole_batch:
                batch.gates = replace(batch.gates, next_release_at=decision.until)
            else:
                for each in batch.pending():
                    if each.zones == submission.zones:
                        each.not_before = decision.until
        elif isinstance(decision, Refuse):
            submission.state = "refused"
            batch.gates = replace(batch.gates, next_release_at=decision.next_release_at or batch.gates.next_release_at)
        else:
            self._release(batch, submission, decision)

    def _release(self, batch: Batch, submission: Submission, decision: Release) -> None:
        now = self.clock
        self._check(batch, submission, decision)
        batch.gates = replace(batch.gates, next_release_at=decision.next_release_at, last_release_at=now)
        batch.released.append(Released(now, submission.calls))
        batch.truly.append((self.now, submission.calls))
        submission.releases += 1
        # A worker that dies after the commit leaves it unknown; a person says that it was not queued, or it stays.
        submission.state = self.random.choices(["accepted", "unknown", "pending"], [94, 3, 3])[0]  # type: ignore[assignment]
        if submission.state == "pending":  # no byte of it was sent
            submission.releases -= 1
            submission.not_before = now + 2 * SECOND
            batch.sendable_since = max(batch.sendable_since, now)

    def _check(self, batch: Batch, submission: Submission, decision: Release) -> None:
        gates, now = batch.gates, self.clock
        assert not batch.paused
        assert submission.state == "pending" and submission.releases == 0
        assert gates.end_at is None or now < gates.end_at
        if gates.is_gated:
            assert gates.start_at is None or now >= gates.start_at
        if gates.hours is None:
            return
        assert decision.start_at is not None and decision.end_at is not None
        assert decision.start_at <= now < decision.end_at
        last = decision.end_at - SECOND
        assert local_dates(submission.zones, decision.start_at) == local_dates(submission.zones, last)
        for moment in _between(decision.start_at, last):
            assert is_open(gates.hours, submission.zones, moment)
        assert decision.end_at - now >= LEAST_LEFT or decision.end_at == gates.end_at

    def check_end(self) -> None:
        for batch in self.batches:
            assert not batch.pending(), batch
            assert all(each.releases <= 1 for each in batch.submissions)
            pace = batch.gates.calls_per_minute
            if pace is None:
                continue
            slice_calls = max((each.calls for each in batch.submissions), default=0)
            for at, _ in batch.truly:
                within = sum(calls for moment, calls in batch.truly if at <= moment < at + MINUTE)
                steps = sum(at <= step < at + MINUTE for step in batch.steps)
                assert within <= pace + steps * slice_calls, (at, within)


def _between(first: datetime, last: datetime) -> Iterator[datetime]:
    moment = first
    while moment < last:
        yield moment
        moment += 20 * MINUTE
    yield last


@pytest.mark.parametrize("seed", range(6))
def test_two_years(seed: int) -> None:
    world = World(seed)
    world.run()
    world.check_end()
    states = [each.state for batch in world.batches for each in batch.submissions]
    assert {"accepted", "unknown", "refused"} <= set(states)
    assert states.count("accepted") > len(states) / 2
