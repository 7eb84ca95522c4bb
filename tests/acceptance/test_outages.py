"""Postgres becomes unavailable in many ways: no result is lost, no call is made twice, and users see the fault."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.outages import (
    KNOWN_SECONDS,
    OWED_SECONDS,
    TIMES,
    Posted,
    World,
    median,
    post_in_time,
    world,
    worst,
)
from tests.acceptance.postgres import Postgres

pytestmark = pytest.mark.long

SLOW = """create function slow() returns trigger language plpgsql as $$ begin
    if coalesce(current_setting('test.slept', true), '') = '' then
        perform set_config('test.slept', 'yes', true), pg_sleep(2);
    end if;
    return null;
end $$"""


@contextlib.contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    postgres.stop("immediate")
    yield
    postgres.start()


@contextlib.contextmanager
def hung(postgres: Postgres) -> Iterator[None]:
    postgres.freeze()
    yield
    postgres.thaw()


@contextlib.contextmanager
def refusing(postgres: Postgres) -> Iterator[None]:
    postgres.execute(
        "alter database receiver allow_connections false",
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'receiver'",
        database="postgres",
    )
    yield
    postgres.execute("alter database receiver allow_connections true", database="postgres")


@contextlib.contextmanager
def read_only(postgres: Postgres) -> Iterator[None]:
    postgres.configure(default_transaction_read_only="on")
    yield
    postgres.configure(default_transaction_read_only=None)


@contextlib.contextmanager
def slow(postgres: Postgres) -> Iterator[None]:
    """Every commit of callbacks takes two seconds, also of an empty group."""
    postgres.execute(
        SLOW,
        "create constraint trigger slow after insert or update on journal_writer deferrable initially deferred"
        " for each row execute function slow()",
    )
    yield
    postgres.execute("drop trigger slow on journal_writer", "drop function slow")


@contextlib.contextmanager
def killed_again_and_again(postgres: Postgres) -> Iterator[None]:
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.15):
            with contextlib.suppress(psycopg.Error):
                postgres.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where backend_type = 'client backend' and pid <> pg_backend_pid()"
                )

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        yield
    finally:
        over.set()
        killing.join()


def in_time(first: list[Posted], later: list[Posted]) -> bool:
    return worst(first + later) < OWED_SECONDS and median(later) < KNOWN_SECONDS


def check_fault_is_reported(running: World, *, reads: bool) -> None:
    """Health, readiness, REST and dashboards report the fault, and nothing can be queued."""
    assert running.service.ask("/healthz").status == 200
    ready = running.service.ask("/readyz")
    assert ready.status == 503
    assert "callbacks go to the spool" in ready.json["database"]
    sent = list(running.provider.result_urls)
    queued = running.queue()
    assert queued.status == 503, queued.body
    assert queued.headers["Retry-After"] == "5"
    assert queued.json["code"] == "database_unavailable"
    assert running.provider.result_urls == sent
    read = running.service.ask(f"/api/v1/batches/{running.batch_id}")
    page = running.page(f"/batches/{running.batch_id}")
    if reads:
        assert (read.status, page.status) == (200, 200)
        return
    assert (read.status, read.headers["Retry-After"], read.json["code"]) == (503, "5", "database_unavailable")
    assert (page.status, page.headers["Retry-After"]) == (503, "5")
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"Try again in a moment." in page.body
    assert b"<nav" in page.body or b"<h1" in page.body


Outage = Callable[[Postgres], AbstractContextManager[None]]


def check_outage(
    running: World,
    outage: Outage,
    name: str,
    *,
    reads: bool | None,
    action: Callable[[], None] = lambda: None,
    intermittent: bool = False,
) -> None:
    """Post before and during an outage, and call `action`. `reads` None: other requests may fail or succeed.

    If an answer was late, the outage is ended and repeated. No callback may be lost in any case.
    """
    measured: list[str] = []
    prompt = False
    while not prompt:
        assert len(measured) < TIMES, f"{name}: {measured}"
        before = running.results.post(10)
        assert {each.status for each in before} == {200}
        running.await_connections()
        log_start = running.log_size()
        with outage(running.postgres):
            first = running.results.post(24, at_once=8)
            if not intermittent:
                first += running.post_until_all_know(log_start)
            later = running.results.post(60)
            assert [each for each in first + later if each.status != 200] == [], f"{name}: not answered 200"
            measured.append(f"{worst(first):.2f} s, then {median(later) * 1000:.0f} ms, at worst {worst(later):.2f} s")
            prompt = in_time(first, later)
            if prompt:
                print(f"\n{name}: {measured[-1]}")
                running.kill_web_process()
                action()
                later += running.results.post(20)
                if reads is not None:
                    check_fault_is_reported(running, reads=reads)
        running.check_all_are_stored_once()
        spooled = {each.mark for each in later if each.status == 200}
        stored_order = [mark for mark in running.journal() if mark in spooled]
        # If the database was available at times, some callbacks were stored in it before the spooled ones.
        assert (sorted(stored_order) if intermittent else stored_order) == sorted(spooled), f"{name}: wrong order"


def fill_the_spool(running: World) -> None:
    """Only a callback that neither database nor spool can store is answered 503. Smaller ones are still accepted."""
    with refusing(running.postgres):
        answered = post_in_time(lambda: running.results.post(30, at_once=3, bytes_each=60_000))
        refused = [each for each in answered if each.status == 503]
        assert len(refused) > 10
        assert {each.headers["Retry-After"] for each in refused} == {"5"}
        assert {each.status for each in answered} == {200, 503}
        assert running.results.post(1)[0].status == 200, "a small one still fits"
    running.check_all_are_stored_once()


def test_callbacks_are_stored_and_users_see_the_fault_in_each_kind_of_outage(server_dir: Path) -> None:
    with Postgres(server_dir) as postgres, world(server_dir, postgres, SPOOL_MAX_BYTES=str(1 << 20)) as running:
        check_outage(running, stopped, "stopped", reads=False, action=running.kill_everything)
        check_outage(running, hung, "hung", reads=False)
        check_outage(running, refusing, "refusing connections", reads=False, action=running.kill_worker)
        check_outage(running, read_only, "read only", reads=True)
        check_outage(running, slow, "slow", reads=None)
        check_outage(running, killed_again_and_again, "connections killed", reads=None, intermittent=True)
        fill_the_spool(running)
        running.check_verified()
        assert len(running.provider.result_urls) == 1
