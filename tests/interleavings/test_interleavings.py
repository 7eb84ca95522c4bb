"""Many orders of the statements of concurrent writers, on a real Postgres. After each: the promises of the service.

`INTERLEAVINGS=5000 pytest -m long tests/interleavings` runs so many; `INTERLEAVING=7 pytest -m "not long"
tests/interleavings` runs the schedule with this seed only, and prints it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from receiver.database.pool import connect, full_conninfo
from receiver.queueing import follow_ups
from receiver.results import erasure, lanes, overdue, replay
from receiver.results.stored_texts import Row, find_rows
from tests.interleavings.scheduler import Schedule, Stepped, Stuck, Writer, keep_plans
from tests.interleavings.world import Saved, list_faults, make_world
from tests.interleavings.writers import WRITERS, Part

ALWAYS, MORE = 300, 5_000
PARTS = 3
"""So that several processes share the short form."""

MORE_SECONDS = 60.0

CUTS = 12
"""A race must be found if one of its writers is interrupted once, before one of its first locks, writes and commits."""

MOST_WRITERS = 4


class Explorer:
    """A database with the world in it, and the connections of the writers, for any number of schedules."""

    def __init__(self, stack: ExitStack, url: str) -> None:
        self._conn = stack.enter_context(closing(connect(url, name="explorer")))
        self._observer = stack.enter_context(closing(connect(url, name="observer", autocommit=True)))
        self._world = make_world(self._conn)
        self._saved = Saved(self._conn)
        keep_plans(self._conn)
        self._conns = [stack.enter_context(closing(_connect(url))) for _ in range(2 * MOST_WRITERS)]
        self._schedules = 0

    def explore(
        self, seed: int, names: Sequence[str] | None = None, cut: int | None = None
    ) -> tuple[list[str], list[str]]:
        """Run the schedule of this seed; returns what went wrong, and the statements in order."""
        random = Random(seed)
        if cut is None and random.random() < 0.3:
            cut = 1 + int(random.expovariate(1 / 8))
        self._saved.restore(self._conn)
        self._schedules += 1
        if self._schedules % 100 == 0:
            self._observer.execute("vacuum")
        names = names or random.sample(sorted(WRITERS), random.randint(2, MOST_WRITERS))
        world = replace(self._world, sent=self._world.sent.copy(), erased=set(), canceled=set(), late=[])
        writers = [
            Writer(name, self._conns[2 * place : 2 * place + 2], WRITERS[name][1]) for place, name in enumerate(names)
        ]

        def run(writer: Writer) -> None:
            WRITERS[writer.name][0](Part(world, writer, Random(f"{seed} {writer.name}")))

        schedule = Schedule(self._observer, random, cut)
        try:
            schedule.run(writers, run)
        except Stuck:
            return ["stuck: " + ", ".join(writer.name for writer in writers if writer.state != "ended")], schedule.steps
        faults = [f"{writer.name}: {writer.failure}" for writer in writers if writer.failure]
        faults += [f"{writer.name} gave way: {writer.gave_way}" for writer in writers if writer.gave_way]
        return faults + list_faults(self._conn, world), schedule.steps


def _connect(url: str) -> Stepped:
    conn = Stepped.connect(full_conninfo(url, name="writer"))
    conn.execute("set timezone = 'UTC'")
    conn.execute("set deadlock_timeout = '20ms'")
    keep_plans(conn)
    return conn


@pytest.fixture
def explorer(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Explorer]:
    monkeypatch.setattr(lanes, "GROUP_CALLBACKS", 3)  # so that two settlers have something to do
    with ExitStack() as stack:
        yield Explorer(stack, database_url)


def _explore(explorer: Explorer, seeds: range, seconds: float | None = None) -> int:
    """Explore these, or as many as fit into the time. Returns how many."""
    until = None if seconds is None else time.monotonic() + seconds
    for number, seed in enumerate(seeds):
        if until is not None and time.monotonic() > until:
            return number
        faults, steps = explorer.explore(seed)
        assert not faults, _describe(seed, faults, steps)
    return len(seeds)


def _describe(seed: int, faults: list[str], steps: list[str]) -> str:
    return "\n".join([f"INTERLEAVING={seed} repeats this schedule:", *steps, *faults])


@pytest.mark.parametrize("part", range(PARTS))
def test_promises_hold_in_any_order_of_statements(explorer: Explorer, part: int) -> None:
    if given := os.environ.get("INTERLEAVING"):
        faults, steps = explorer.explore(int(given))
        print(_describe(int(given), faults, steps))
        assert not faults
    else:
        _explore(explorer, range(part, ALWAYS, PARTS))


@pytest.mark.long
def test_promises_hold_in_many_orders_of_statements(explorer: Explorer) -> None:
    """All that fit into MORE_SECONDS, or as many as `INTERLEAVINGS` says."""
    given = os.environ.get("INTERLEAVINGS")
    seeds = range(ALWAYS, ALWAYS + int(given or MORE))
    explored = _explore(explorer, seeds, None if given else MORE_SECONDS)
    print(f"explored {explored} schedules")


def replay_without_a_second_search(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay, "_replayable", lambda _, keys: keys)


def erasure_of_what_it_found_before_its_locks(patch: pytest.MonkeyPatch) -> None:
    found = threading.local()

    def remember(*given: Any) -> Iterator[tuple[int, list[Row]]]:
        for searched, found.rows in find_rows(*given):
            yield searched, found.rows

    patch.setattr(erasure, "find_rows", remember)
    patch.setattr(erasure, "read_locked", lambda _, __, keys: [row for row in found.rows if row.key in keys])


def count_of_overdue_calls_beside_settlements(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(overdue, "own_results", lambda *_: None)


def erasure_that_does_not_wait_for_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(erasure, "wait_for_copies", lambda _: None)


def follow_up_of_a_batch_that_is_purged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(follow_ups, "keep_batch", lambda *_: True)


RACES: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, ...]] = {
    replay_without_a_second_search: ("replay", "erase"),
    erasure_of_what_it_found_before_its_locks: ("erase texts", "erase other texts"),
    count_of_overdue_calls_beside_settlements: ("settler", "overdue"),
    erasure_that_does_not_wait_for_copies: ("follow-up", "erase"),
    follow_up_of_a_batch_that_is_purged: ("follow-up", "purge"),
}
"""Faults that the service had, or that its locks prevent, and the writers between which they show."""


@pytest.mark.parametrize("reintroduce", RACES, ids=lambda race: race.__name__)
def test_races_are_found_when_they_are_reintroduced(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, reintroduce: Callable[[pytest.MonkeyPatch], None]
) -> None:
    reintroduce(monkeypatch)
    for cut in range(1, CUTS):
        for writers in (RACES[reintroduce], RACES[reintroduce][::-1]):
            if explorer.explore(cut, writers, cut)[0]:
                return
    raise AssertionError("not found")
