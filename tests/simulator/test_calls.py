from __future__ import annotations

from collections import Counter

import pytest

from receiver.simulator.calls import Attempt, Call, Plan, draw_plan, seeded
from receiver.simulator.settings import USUAL_OUTCOMES


def plans(seed: int, count: int, outcomes: dict[str, float] | None = None, max_attempts: int = 3) -> list[Plan]:
    weights = USUAL_OUTCOMES if outcomes is None else outcomes
    return [draw_plan(seeded(seed, row), weights, max_attempts) for row in range(count)]


def test_same_seed_draws_the_same_plans() -> None:
    assert plans(1, 200) == plans(1, 200)
    assert plans(1, 200) != plans(2, 200)


def test_known_seed_draws_a_known_plan() -> None:
    # Fixed: a release that draws something else would break recorded runs of users.
    plan = draw_plan(seeded(1, 1, 1, "6175551234", "life"), {"completed": 1}, 1)
    assert plan == Plan("completed", (Attempt(25, 30),))


def test_outcomes_follow_their_weights() -> None:
    seen = Counter(plan.outcome for plan in plans(3, 4000))
    assert {name: round(count / 40) for name, count in seen.items()} == {
        "completed": pytest.approx(70, abs=3),
        "failed": pytest.approx(20, abs=3),
        "canceled": pytest.approx(5, abs=2),
        "rejected": pytest.approx(5, abs=2),
    }


def test_attempts_fit_the_outcome() -> None:
    for plan in plans(4, 1000, max_attempts=3):
        answered = [attempt.talk is not None for attempt in plan.attempts]
        if plan.outcome == "completed":
            assert 1 <= len(answered) <= 3 and answered == [False] * (len(answered) - 1) + [True]
        elif plan.outcome == "failed":
            assert answered == [False] * 3
        elif plan.outcome == "rejected":
            assert answered == [False]
        else:
            assert len(answered) < 3 and not any(answered)


def test_ended_call_can_be_shown_as_it_was_before_its_end() -> None:
    call = Call(1, "6175551234", dialed=(2, 90), connected=100)
    call.end("completed", 130)
    before = call.before_it_ended()
    assert (before.status, before.ended, before.duration) == ("connected", None, None)
    assert before.events == [("queued", 0), ("dialing", 2), ("dialing", 90), ("connected", 100)]
    assert call.events == [*before.events, ("disconnected", 130)]
    assert call.duration == 30
