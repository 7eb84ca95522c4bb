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
        with world(folder, first, url) as there:
            yield first, second, there


def take_over(there: World, second: Postgres) -> None:
    second.promote()
    there.postgres = second


def test_promoted_synchronous_standby_has_all_that_was_acknowledged(server_dir: Path) -> None:
    with pair(server_dir, synchronous=True) as (first, second, there):
        posting = threading.Thread(target=there.results.post, args=(300,), kwargs={"at_once": 4})
        posting.start()
        eventually(lambda: there.stored() > 100)
        first.stop("immediate")
        take_over(there, second)
        posting.join()
        assert {each.status for each in there.results.posted} == {200}
        there.check_everything_is_there()
        there.check_verified()
        again = there.queue()
        assert again.status == 201, again.body


def test_synchronous_standby_that_is_gone_costs_neither_results_nor_connections(server_dir: Path) -> None:
    """Commits wait for it without a limit. If their wait is ended, they are on one machine only."""
    with pair(server_dir, synchronous=True) as (first, second, there):
        there.await_connections()
        log_start = there.log_size()
        second.freeze()
        # On one connection, so that one process notices the fault, and the other one finds the spooled callback.
        assert there.results.post(1)[0].status == 200
        eventually(lambda: first.execute(STUCK) != [])
        end = time.monotonic() + PROBED_SECONDS
        while time.monotonic() < end:
            for (pid,) in first.execute(STUCK):
                first.execute(f"select pg_terminate_backend({pid})")
            time.sleep(0.2)
        assert there.stored() == 1, "it is stored only on this machine, and would be lost with it"

        taken = post_in_time(lambda: there.results.post(60, at_once=8))
        taken += there.post_until_all_know(log_start)
        assert {each.status for each in taken} == {200}
        time.sleep(PROBED_SECONDS)
        assert len(first.execute(STUCK)) <= 6, "each check for the database uses a connection"
        ready = there.service.ask("/readyz")
        assert (ready.status, "cannot store" in ready.told["database"]) == (503, True)

        first.stop("immediate")
        second.thaw()
        take_over(there, second)
        there.check_everything_is_there()
        there.check_verified()


def post_to_the_journal(there: World, number: int) -> list[Posted]:
    """Post, and return when the spool is empty. A slow moment may have sent callbacks to the spool."""
    before = there.stored()
    posted = there.results.post(number)
    assert {each.status for each in posted} == {200}
    eventually(lambda: there.spooled() == 0 and there.stored() == before + number)
    return posted


def test_promoted_asynchronous_standby_lacks_what_it_had_not_received_and_the_books_balance(server_dir: Path) -> None:
    with pair(server_dir, synchronous=False) as (first, second, there):
        received = post_to_the_journal(there, 20)
        first.wait_for(second)
        second.stop("immediate")
        lagging = post_to_the_journal(there, 20)
        first.stop("immediate")
        second.start()
        take_over(there, second)
        taken = there.results.post(20)
        assert {each.status for each in taken} == {200}
        eventually(there.is_settled)
        journal = there.journal()
        assert {each.mark for each in received + taken} <= set(journal), "what it had received is there"
        assert set(journal).isdisjoint(each.mark for each in lagging), "what it had not received is lost"
        there.check_verified()
