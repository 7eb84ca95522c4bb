"""A standby is promoted: acknowledged callbacks are kept, and the service connects to it without help."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.outages import Posted, World, post_in_time, world
from tests.acceptance.postgres import DATABASE, Postgres
from tests.waiting import eventually

pytestmark = pytest.mark.long

STUCK = "select pid from pg_stat_activity where application_name = 'receiver journal' and wait_event = 'SyncRep'"
PROBED_SECONDS = 8.0
"""Enough time for several checks by each process for the database, and for groups that others spooled."""


@contextlib.contextmanager
def pair(folder: Path, *, synchronous: bool) -> Iterator[tuple[Postgres, Postgres, World]]:
    """A primary, its standby, and a service that has both addresses."""
    folders = folder / "a", folder / "b"
    for each in folders:
        each.mkdir()
    with Postgres(folders[0]) as first, first.standby(folders[1], name="b") as second:
        if synchronous:
            first.configure(synchronous_standby_names="b")
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (first, second))
        url = f"postgresql://receiver@{hosts}/{DATABASE}?target_session_attrs=read-write"
        with world(folder, first, url) as running:
            yield first, second, running


def take_over(running: World, second: Postgres) -> None:
    second.promote()
    running.postgres = second


def test_promoted_synchronous_standby_has_every_acknowledged_callback(server_dir: Path) -> None:
    with pair(server_dir, synchronous=True) as (first, second, running):
        posting = threading.Thread(target=running.results.post, args=(300,), kwargs={"at_once": 4})
        posting.start()
        eventually(lambda: running.stored() > 100)
        first.stop("immediate")
        take_over(running, second)
        posting.join()
        assert {each.status for each in running.results.posted} == {200}
        running.check_all_are_stored_once()
        running.check_verified()
        again = running.queue()
        assert again.status == 201, again.body


def test_missing_synchronous_standby_loses_no_results_and_uses_up_no_connections(server_dir: Path) -> None:
    """Commits wait for it without a limit. If their wait is ended, they are on one machine only."""
    with pair(server_dir, synchronous=True) as (first, second, running):
        running.await_connections()
        log_start = running.log_size()
        second.freeze()
        # On one connection, so that one process notices the fault, and the other one finds the spooled callback.
        assert running.results.post(1)[0].status == 200
        eventually(lambda: first.execute(STUCK) != [])
        end = time.monotonic() + PROBED_SECONDS
        while time.monotonic() < end:
            for (pid,) in first.execute(STUCK):
                first.execute(f"select pg_terminate_backend({pid})")
            time.sleep(0.2)
        assert running.stored() == 1, "it is stored only on this machine, and would be lost with it"

        posted = post_in_time(lambda: running.results.post(60, at_once=8))
        posted += running.post_until_all_know(log_start)
        assert {each.status for each in posted} == {200}
        time.sleep(PROBED_SECONDS)
        assert len(first.execute(STUCK)) <= 6, "each check for the database uses a connection"
        ready = running.service.ask("/readyz")
        assert (ready.status, "cannot store" in ready.json["database"]) == (503, True)

        first.stop("immediate")
        second.thaw()
        take_over(running, second)
        running.check_all_are_stored_once()
        running.check_verified()


def post_to_the_journal(running: World, number: int) -> list[Posted]:
    """Post, and return when the spool is empty. A slow moment may have sent callbacks to the spool."""
    before = running.stored()
    posted = running.results.post(number)
    assert {each.status for each in posted} == {200}
    eventually(lambda: running.spooled() == 0 and running.stored() == before + number)
    return posted


def test_promoted_asynchronous_standby_lacks_only_what_it_had_not_received_and_verify_passes(server_dir: Path) -> None:
    with pair(server_dir, synchronous=False) as (first, second, running):
        received = post_to_the_journal(running, 20)
        first.wait_for(second)
        second.stop("immediate")
        lagging = post_to_the_journal(running, 20)
        first.stop("immediate")
        second.start()
        take_over(running, second)
        posted = running.results.post(20)
        assert {each.status for each in posted} == {200}
        eventually(running.is_settled)
        journal = running.journal()
        assert {each.mark for each in received + posted} <= set(journal), "received by the standby: stored"
        assert set(journal).isdisjoint(each.mark for each in lagging), "not received by the standby: lost"
        running.check_verified()
