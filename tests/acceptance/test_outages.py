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


def in_time(finding_out: list[Posted], known: list[Posted]) -> bool:
    return worst(finding_out + known) < OWED_SECONDS and median(known) < KNOWN_SECONDS


def check_everybody_is_told(there: World, *, reads: bool) -> None:
    """Health, readiness, REST and dashboards report the fault, and nothing can be queued."""
    assert there.service.ask("/healthz").status == 200
    ready = there.service.ask("/readyz")
    assert ready.status == 503
    assert "callbacks go to the spool" in ready.told["database"]
    sent = list(there.provider.result_urls)
    queued = there.queue()
    assert queued.status == 503, queued.body
    assert queued.headers["Retry-After"] == "5"
    assert queued.told["code"] == "database_unavailable"
    assert there.provider.result_urls == sent
    read = there.service.ask(f"/api/v1/batches/{there.batch_id}")
    page = there.page(f"/batches/{there.batch_id}")
    if reads:
        assert (read.status, page.status) == (200, 200)
        return
    assert (read.status, read.headers["Retry-After"], read.told["code"]) == (503, "5", "database_unavailable")
    assert (page.status, page.headers["Retry-After"]) == (503, "5")
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"Try again in a moment." in page.body
    assert b"<nav" in page.body or b"<h1" in page.body


Outage = Callable[[Postgres], AbstractContextManager[None]]


def take_through(
    there: World,
    outage: Outage,
    told: str,
    *,
    reads: bool | None,
    meanwhile: Callable[[], None] = lambda: None,
    back_at_times: bool = False,
) -> None:
    """Post before and during an outage, and call `meanwhile`. `reads` None: other requests may fail or succeed.

    If an answer was late, the outage is ended and repeated. No callback may be lost in any case.
    """
    measured: list[str] = []
    prompt = False
    while not prompt:
        assert len(measured) < TIMES, f"{told}: {measured}"
        before = there.results.post(10)
        assert {each.status for each in before} == {200}
        there.await_connections()
        log_start = there.log_size()
        with outage(there.postgres):
            finding_out = there.results.post(24, at_once=8)
            if not back_at_times:
                finding_out += there.post_until_all_know(log_start)
            known = there.results.post(60)
            assert [each for each in finding_out + known if each.status != 200] == [], f"{told}: not taken"
            measured.append(
                f"{worst(finding_out):.2f} s, then {median(known) * 1000:.0f} ms, at worst {worst(known):.2f} s"
            )
            prompt = in_time(finding_out, known)
            if prompt:
                print(f"\n{told}: {measured[-1]}")
                there.kill_web_process()
                meanwhile()
                known += there.results.post(20)
                if reads is not None:
                    check_everybody_is_told(there, reads=reads)
        there.check_everything_is_there()
        spooled = {each.mark for each in known if each.status == 200}
        there_again = [mark for mark in there.journal() if mark in spooled]
        # If the database was available at times, some callbacks were stored in it before the spooled ones.
        assert (sorted(there_again) if back_at_times else there_again) == sorted(spooled), f"{told}: out of order"


def fill_the_spool(there: World) -> None:
    """Only a callback that neither can store is answered 503. Smaller ones are still accepted."""
    with refusing(there.postgres):
        answered = post_in_time(lambda: there.results.post(30, at_once=3, bytes_each=60_000))
        refused = [each for each in answered if each.status == 503]
        assert len(refused) > 10
        assert {each.headers["Retry-After"] for each in refused} == {"5"}
        assert {each.status for each in answered} == {200, 503}
        assert there.results.post(1)[0].status == 200, "a small one still fits"
    there.check_everything_is_there()


def test_results_are_taken_and_everybody_is_told_however_postgres_goes_away(server_dir: Path) -> None:
    with Postgres(server_dir) as postgres, world(server_dir, postgres, SPOOL_MAX_BYTES=str(1 << 20)) as there:
        take_through(there, stopped, "stopped", reads=False, meanwhile=there.kill_everything)
        take_through(there, hung, "hung", reads=False)
        take_through(there, refusing, "refusing connections", reads=False, meanwhile=there.kill_worker)
        take_through(there, read_only, "read only", reads=True)
        take_through(there, slow, "slow", reads=None)
        take_through(there, killed_again_and_again, "connections killed", reads=None, back_at_times=True)
        fill_the_spool(there)
        there.check_verified()
        assert len(there.provider.result_urls) == 1
