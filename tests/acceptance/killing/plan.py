"""Who is killed when: drawn from a seed, so that what failed can be tried again.

Each plan has every named step once, and random moments for the rest. A volley is killed together: one process
of the web and one worker may be on their way to their steps at the same time, as they are on a bad day.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

PLAN_KILLS = 50


@dataclass(frozen=True, slots=True)
class Step:
    """`times`: how often it may be passed before it kills, at most; a frequent one is not always met at the first.

    `after`: what must be killed first for anybody to come there: `database` or `worker`. `postgres`: the step is
    one of a connection to it, whose other end can be killed there, too.
    """

    name: str
    times: int = 1
    after: str | None = None
    postgres: bool = True


def _commits(where: str, **options: int | str | bool) -> list[Step]:
    return [Step(f"{when} commit of {where}", **options) for when in ("before", "after")]  # type: ignore[arg-type]


WEB_STEPS = [
    Step("before an answer to a callback", 20, postgres=False),
    Step("after an answer to a callback", 20, postgres=False),
    *_commits("intake.writer.Writer._write", times=10),
    *_commits("intake.database_probe.DatabaseProbe._stores", after="database"),
    *_commits("intake.draining.drain_some", times=2, after="database"),
    *_commits("intake.budget_reports.BudgetReports.report", times=3),
    *_commits("intake.spool.Spool.append", times=3, after="database", postgres=False),
    *_commits("intake.spool.Spool.remove", after="database", postgres=False),
    *_commits("web.api.batches.queue_batch", times=2),
]
WORKER_STEPS = [
    *_commits("release.presence.register_worker", after="worker"),
    *_commits("worker.Worker._claim", times=2),
    Step("before a request to the provider", 2, postgres=False),
    Step("before a send to the provider", 3, postgres=False),
    Step("after a send to the provider", 3, postgres=False),
    Step("after a request to the provider", 2, postgres=False),
    *_commits("worker.Worker._send", times=2),
    *_commits("results.settler.Settler._settle_next", times=5),
    *_commits("results.groups.mark_group", times=5),
    # Six in a row: it says that it lives, forgets, decides the kind of batches, notes those that wait for the other
    # kind, gives up what the dead left, accepts what is proven.
    *_commits("worker.Worker._heartbeat", times=6),
    *_commits("worker.Worker._release_lost_claims"),
    *_commits("worker.Worker._write_measurements"),
    *_commits("results.maintenance.Maintenance.check_overdue", after="worker"),
    *_commits("results.recovery.poll_once", times=3),
]
SERVE_STEPS = [
    *_commits("database.migrations._apply", times=2),
    *_commits("supervisor.serve._serving_key"),
]
"""They are met at a first start only."""

NO_STEPS = frozenset(
    f"{when} commit of {where}"
    for when in ("before", "after")
    for where in (
        "cli.running._work",
        "database.api_keys._record_use",
        # Met only where a settler died over a group, or where a migration builds an index beside others.
        "database.migrations._insert_applied",
        "results.settler.Settler._settle_left",
        "intake.spool.Spool.depth",
        "intake.spool.Spool.oldest",
    )
)
"""Commits of transactions that wrote nothing, or that are met by chance only, or when a key was used last. Those of
pages and API begin with `web.`."""

MOMENTS = {"web": 6, "gunicorn": 1, "worker": 3, "backend": 3, "postmaster": 2, "serve": 1, "everything": 1}
"""Who is killed at random moments, and how often in comparison."""


@dataclass(frozen=True, slots=True)
class Kill:
    """`victim` dies when a process comes to `step` for so many times, or, without one, after so many `seconds`.

    `after`: as the step's.
    """

    victim: str
    step: str | None = None
    times: int = 1
    seconds: float = 0.0
    after: str | None = None


Volley = tuple[Kill, ...]


def draw_plan(seed: int, kills: int = PLAN_KILLS) -> list[Volley]:
    """The volleys of one seed: all named steps, and random moments up to so many kills, or a few more."""
    draws = random.Random(seed)
    web, worker = draws.sample(WEB_STEPS, len(WEB_STEPS)), draws.sample(WORKER_STEPS, len(WORKER_STEPS))
    volleys = []
    while web or worker:
        steps = [lane.pop() for lane in (web, worker) if lane]
        volley = [_at(draws, step) for step in steps]
        for needed in sorted({step.after for step in steps if step.after is not None}):
            volley.append(Kill("worker" if needed == "worker" else draws.choice(("postmaster", "backend"))))
        volleys.append(tuple(volley))
    while sum(map(len, volleys)) < kills:
        (victim,) = draws.choices(list(MOMENTS), list(MOMENTS.values()))
        volleys.insert(draws.randrange(len(volleys)), (Kill(victim, seconds=draws.uniform(0.0, 1.5)),))
    return volleys


def groups(volleys: Sequence[Volley], kills: int) -> list[list[Volley]]:
    """The volleys in their order, in groups of about so many kills."""
    found: list[list[Volley]] = [[]]
    for volley in volleys:
        if sum(map(len, found[-1])) >= kills:
            found.append([])
        found[-1].append(volley)
    return found


def _at(draws: random.Random, step: Step) -> Kill:
    victims = {"self": 14, "postmaster": 2, "serve": 1} | ({"backend": 3} if step.postgres else {})
    (victim,) = draws.choices(list(victims), list(victims.values()))
    return Kill(victim, step.name, draws.randint(1, step.times), after=step.after)
