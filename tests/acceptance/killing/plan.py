"""Which process is killed at which time: drawn from a seed, so that a failed run can be repeated.

Each plan has every named step once, and kills at random moments. The kills of a volley are armed together, so that a
web process and a worker can be killed at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

PLAN_KILLS = 90
"""How many kills a plan has."""

RANDOM_KILLS = 8
"""Kills of a plan at random moments."""


@dataclass(frozen=True, slots=True)
class Step:
    """`times`: the largest number of passes before the kill; a frequent step is not always killed at the first pass.

    `after`: what must be killed first, so that a process reaches the step: `database` or `worker`. `postgres`: the
    step uses a connection to Postgres, whose server process can be killed there too.
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
    *_commits("web.api.follow_ups.follow_up"),
    *_commits("web.api.release.pause_batch"),
    *_commits("web.api.release.resume_batch"),
]
WORKER_STEPS = [
    *_commits("release.presence.register_worker", after="worker"),
    *_commits("worker.Worker._claim", times=2),
    Step("before a request to the provider", 2, postgres=False),
    Step("before a send to the provider", 3, postgres=False),
    Step("after a send to the provider", 3, postgres=False),
    Step("after a request to the provider", 2, postgres=False),
    *_commits("worker.Worker._send", times=2),
    *_commits("worker.Worker._record", times=2),
    *_commits("worker.Worker._cancel_deployment", times=2),
    *_commits("results.settler.Settler._settle_next", times=5),
    *_commits("results.groups.mark_group", times=5),
    # Six commits: it records that it is alive, deletes old rows, decides the kind of batches, records those that wait
    # for the other kind, gives up submissions of dead workers, and accepts proven ones.
    *_commits("worker.Worker._heartbeat", times=6),
    *_commits("worker.Worker._release_lost_claims"),
    *_commits("database.low_water_mark.MarkRaiser.step", times=2),
    *_commits("worker.Worker._write_measurements"),
    *_commits("results.maintenance.Maintenance.check_overdue", after="worker"),
    *_commits("results.maintenance.Maintenance.plan_polls", after="worker"),
    *_commits("results.maintenance.Maintenance.give_positions", times=2),
    *_commits("results.maintenance.Maintenance.rotate", after="worker"),
    *_commits("relay.people.People.step", after="worker"),
    Step("before a send to an endpoint", 20, postgres=False),
    Step("after a send to an endpoint", 20, postgres=False),
    # Two commits: it records outcomes, and ends its reading of what to send next.
    *_commits("relay.delivery._Window._turn", times=10),
    *_commits("results.recovery.poll_once", times=3),
]
SERVE_STEPS = [
    *_commits("database.migrations._apply", times=2),
    *_commits("supervisor.serve._serving_key"),
]
"""Steps that are reached only at the first start."""

NO_STEPS = frozenset(
    f"{when} commit of {where}"
    for when in ("before", "after")
    for where in (
        "cli.running._work",
        "database.api_keys._record_use",
        # Reached only if a settler died or failed with a group, or if a migration builds an index concurrently.
        "database.migrations._insert_applied",
        "results.settler.Settler._divide",
        "results.settler.Settler._settle_left",
        "intake.spool.Spool.depth",
        "intake.spool.Spool.oldest",
    )
)
"""Commits at which no process is killed: they write nothing, are reached by chance, or record a key's last use.
Commits of pages and API are left out by their prefix `web.`."""

MOMENTS = {"web": 6, "gunicorn": 1, "worker": 3, "backend": 3, "postmaster": 2, "serve": 1, "everything": 1}
"""Processes that are killed at random moments, with their relative frequency."""


@dataclass(frozen=True, slots=True)
class Kill:
    """`victim` is killed when a process has reached `step` this many `times`; without a step, after `seconds`.

    `after`: as in `Step`.
    """

    victim: str
    step: str | None = None
    times: int = 1
    seconds: float = 0.0
    after: str | None = None


Volley = tuple[Kill, ...]


def draw_plan(seed: int) -> list[Volley]:
    """The volleys of one seed."""
    draws = random.Random(seed)
    web, worker = draws.sample(WEB_STEPS, len(WEB_STEPS)), draws.sample(WORKER_STEPS, len(WORKER_STEPS))
    volleys = []
    while web or worker:
        steps = [lane.pop() for lane in (web, worker) if lane]
        volley = [_at(draws, step) for step in steps]
        for needed in sorted({step.after for step in steps if step.after is not None}):
            volley.append(Kill("worker" if needed == "worker" else draws.choice(("postmaster", "backend"))))
        volleys.append(tuple(volley))
    for _ in range(RANDOM_KILLS):
        (victim,) = draws.choices(list(MOMENTS), list(MOMENTS.values()))
        volleys.insert(draws.randrange(len(volleys)), (Kill(victim, seconds=draws.uniform(0.0, 1.5)),))
    return volleys


def groups(volleys: Sequence[Volley], kills: int) -> list[list[Volley]]:
    """The volleys in order, in groups of about `kills` kills."""
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
