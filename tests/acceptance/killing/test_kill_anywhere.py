"""Kill any process at any step. No acknowledged callback and no event is lost, and no number is called twice.

`make test-long` runs one plan of kills; `make kill-long` with KILLS=1000 kills 1000 times, with more seeds. For one
seed: `KILL_SEED=7 KILLS=1 make kill-long`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.killing.plan import (
    NO_STEPS,
    PLAN_KILLS,
    SERVE_STEPS,
    WEB_STEPS,
    WORKER_STEPS,
    draw_plan,
    groups,
)
from tests.acceptance.killing.promises import check_promises
from tests.acceptance.killing.world import LIMIT_SECONDS, World
from tests.waiting import eventually

pytestmark = pytest.mark.long

FIRST_SEED = int(os.environ.get("KILL_SEED", "1"))
KILLS = int(os.environ.get("KILLS", str(PLAN_KILLS)))
GROUP_KILLS = 30
"""Kills between two checks."""


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + -(-KILLS // PLAN_KILLS)))
def test_kills_anywhere_lose_nothing_and_repeat_no_call(server_dir: Path, seed: int) -> None:
    began = time.monotonic()
    with World(server_dir, seed) as world:
        for group in groups(draw_plan(seed), GROUP_KILLS):
            with world.load():
                for volley in group:
                    world.kill(volley)
                eventually(lambda: was_busy(world), LIMIT_SECONDS)
            world.settle()
            check_promises(world)
        seen = {step for step in world.steps.seen() if not step.split(" of ")[-1].startswith(("web.", "supervisor."))}
        named = {step.name for step in (*SERVE_STEPS, *WEB_STEPS, *WORKER_STEPS)}
        assert seen - named - NO_STEPS == set(), "commits missing in plan.py: add them to WEB_STEPS or another list"
        print(describe(world, time.monotonic() - began))


def was_busy(world: World) -> bool:
    """Whether there was enough load for the kills. On a slow machine, results and batches need more time."""
    world.restart_if_killed()  # the last kill may have been of `serve`
    record, kills = world.record, world.kills.total()
    return (
        len(record.acknowledged) > 10 * kills
        and 5 * len(record.queued) > kills
        and len(record.follow_ups) > 0
        and any(pause.at_pause for pause in record.pauses)
    )


def describe(world: World, seconds: float) -> str:
    """One line with the figures of the run."""
    record, inbox, batches = world.record, world.inbox, world.batches()
    states = Counter(batch["state"] for batch in batches)
    submissions = Counter(each["state"] for batch in batches for each in batch["submissions"])
    paced = sum(batch["parameters"]["calls_per_minute"] is not None for batch in batches)
    victims = Counter(kill.partition(" ")[0] for kill in world.kills.elements())
    named = sum(times for kill, times in world.kills.items() if " " in kill)
    return (
        f"\nseed {world.seed}: {world.kills.total()} kills, {named} of them at a named step,"
        f" in {seconds:.0f} s ({', '.join(f'{name} {times}' for name, times in victims.most_common())});"
        f" callbacks: {len(record.posted)} posted, {len(record.acknowledged)} answered 200;"
        f" batches: {states['queued']} queued, {states['unknown']} unknown, {paced} of them with a pace,"
        f" {sum(batch['follows'] is not None for batch in batches)} follow-ups,"
        f" {sum(bool(pause.at_pause) for pause in record.pauses)} pauses;"
        f" submissions: {submissions['accepted']} accepted, {submissions['unknown']} unknown;"
        f" events: {len(inbox.meanings)} delivered in {inbox.requests} requests"
    )
