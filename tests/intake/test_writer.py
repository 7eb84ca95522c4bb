from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from receiver.database.pool import Connection, connect
from receiver.intake import database_probe, draining, group_names
from receiver.intake import spool as spool_module
from receiver.intake import writer as writer_module
from receiver.intake.journal import Group, write_group
from receiver.intake.spool import Spool
from receiver.intake.writer import CannotStore, Writer
from tests.database.proxy import Proxy
from tests.factories import make_callback
from tests.intake.storing import (
    ANSWER_OWED_SECONDS,
    PLENTY,
    Callers,
    assert_exactly_once,
    journaled,
    running_intake,
)
from tests.waiting import eventually, waits_for_lock

KILL_SESSIONS = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where application_name = 'journal' and datname = current_database()"
)

STUCK_SECONDS = 30.0
"""Longer than any wait with a limit, also on a busy machine."""


@pytest.fixture
def spool_path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite3"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not be taken for an unavailable database."""
    monkeypatch.setattr(writer_module, "COMMIT_SECONDS", 60.0)


def test_time_limits_leave_time_for_the_spool_and_the_answer() -> None:
    assert writer_module.COMMIT_SECONDS < ANSWER_OWED_SECONDS - 0.5
    assert writer_module.ANSWER_SECONDS < 10


@pytest.mark.usefixtures("patient")
def test_each_of_many_callers_is_stored_once_and_commits_are_shared(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with running_intake(database_url, spool_path) as intake:
        callers = Callers(intake, 50)
        callers.run(20)
        assert (len(callers.stored), callers.refused) == (1000, [])
        assert journaled(conn) == dict.fromkeys(callers.stored, 1)
    commits = conn.execute("select sum(last_sequence) from journal_writer").fetchone()
    assert commits is not None and commits[0] < 500
    assert not spool_path.exists()


@pytest.mark.usefixtures("patient")
def test_answered_senders_share_a_commit_with_waiting_ones_and_a_single_sender_never_waits(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 10 * STUCK_SECONDS)
    with running_intake(database_url, spool_path) as intake:
        for number in range(2):
            assert intake.add(make_callback(1, b"single %d" % number)).stored.result(STUCK_SECONDS) is False
        conn.execute("lock table waiting in access exclusive mode")
        answered = intake.add(make_callback(1, b"answered"))
        eventually(lambda: waits_for_lock(conn, "journal"))
        waiting = [intake.add(make_callback(1, b"waits %d" % number)) for number in range(3)]
        conn.commit()
        assert answered.stored.result(STUCK_SECONDS) is False
        again = intake.add(make_callback(1, b"sent again"))
        assert again.stored.result(STUCK_SECONDS) is False and waiting == [again] * 3
    assert conn.execute("select max(last_sequence) from journal_writer").fetchone() == (4,)


@pytest.mark.usefixtures("patient")
def test_store_returns_only_after_the_callback_is_in_the_journal(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with running_intake(database_url, spool_path) as intake:
        for number in range(20):
            intake.store(make_callback(1, b"%d" % number))
            assert len(journaled(conn)) == number + 1


def test_callbacks_go_to_the_spool_while_the_database_is_unavailable_at_the_start(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with Proxy(database_url) as proxy:
        proxy.close()
        with running_intake(proxy.url, spool_path, up=False) as intake:
            callers = Callers(intake, 10)
            callers.run(5)
            assert intake.database_unavailable
            assert (len(callers.stored), intake.spool.depth(), journaled(conn)) == (50, 50, {})
            assert max(callers.seconds) < STUCK_SECONDS
            proxy.open()
            assert_exactly_once(conn, callers)
            eventually(lambda: intake.spool.depth() == 0)
            intake.store(make_callback(1, b"and on"))
            assert journaled(conn)[b"and on"] == 1


def test_killed_connections_lose_and_repeat_nothing(conn: Connection, database_url: str, spool_path: Path) -> None:
    with running_intake(database_url, spool_path) as intake:
        callers = Callers(intake, 20)
        callers.start()
        for _ in range(8):
            eventually(lambda: not intake.database_unavailable)
            stored = len(callers.stored)
            eventually(lambda seen=stored: len(callers.stored) > seen + 20)  # type: ignore[misc]
            conn.execute(KILL_SESSIONS)
            conn.commit()
        callers.stop()
        assert callers.refused == []
        assert max(callers.seconds) < STUCK_SECONDS
        assert_exactly_once(conn, callers)


@pytest.mark.parametrize("held_back", ["requests", "answers", "both"])
def test_hanging_server_costs_one_wait_and_nothing_is_stored_twice_when_it_continues(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch, held_back: str
) -> None:
    with Proxy(database_url) as proxy, running_intake(proxy.url, spool_path) as intake:
        callers = Callers(intake, 10)
        callers.run(3)
        proxy.freeze(requests=held_back != "answers", answers=held_back != "requests")
        callers.run(1)
        assert max(callers.seconds) < STUCK_SECONDS
        known = len(callers.seconds)
        with monkeypatch.context() as once_known:
            once_known.setattr(writer_module, "COMMIT_SECONDS", 600.0)  # a second wait would never be answered
            for _ in range(20):
                callers.run(1)
        assert statistics.median(callers.seconds[known:]) < 0.1
        assert (len(callers.stored), callers.refused) == (240, [])
        assert intake.database_unavailable
        proxy.thaw()
        eventually(lambda: not intake.database_unavailable and intake.spool.depth() == 0)
        callers.run(1)
        assert_exactly_once(conn, callers)


@pytest.mark.parametrize("commit_seconds", [0.8, 1.6])
def test_slow_commits_are_answered_in_time_and_exactly_once(
    conn: Connection, database_url: str, spool_path: Path, commit_seconds: float
) -> None:
    with running_intake(database_url, spool_path) as intake:
        conn.execute(
            sql.SQL(
                "create function slow() returns trigger language plpgsql as"
                " $$ begin perform pg_sleep({}); return null; end $$"
            ).format(sql.Literal(commit_seconds))
        )
        callers = Callers(intake, 10)
        slowest: list[float] = []
        while not slowest or (min(slowest) >= ANSWER_OWED_SECONDS and len(slowest) < 5):
            # Several rounds, because a busy machine may be late in any one of them.
            eventually(lambda: not intake.database_unavailable)
            known = len(callers.seconds)
            conn.execute("create trigger slow after insert on callback for each statement execute function slow()")
            conn.commit()
            callers.run(3)
            slowest.append(max(callers.seconds[known:]))
            conn.execute("drop trigger slow on callback")
            conn.commit()
        assert min(slowest) < ANSWER_OWED_SECONDS
        assert callers.refused == []
        assert_exactly_once(conn, callers)


def test_read_only_database_is_unavailable(conn: Connection, database_url: str, spool_path: Path) -> None:
    """After a failover, connections work but every write fails."""
    name = sql.Identifier(conn.info.dbname)
    conn.autocommit = True
    with running_intake(database_url, spool_path) as intake:
        callers = Callers(intake, 5)
        conn.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(name))
        conn.execute(KILL_SESSIONS)
        callers.run(20)
        assert (len(callers.stored), intake.database_unavailable) == (100, True)
        conn.execute(sql.SQL("alter database {} reset default_transaction_read_only").format(name))
        assert_exactly_once(conn, callers)


@pytest.mark.usefixtures("patient")
def test_caller_gets_an_error_if_neither_database_nor_spool_can_store(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with Proxy(database_url) as proxy, running_intake(proxy.url, spool_path, spool_bytes=0) as intake:
        proxy.close()
        proxy.cut()
        callers = Callers(intake, 5)
        callers.run(4)
        assert (callers.stored, len(callers.refused), journaled(conn)) == ([], 20, {})
        with pytest.raises(CannotStore) as caught:
            intake.store(make_callback(1))
        assert caught.value.code == "storage_unavailable"
        proxy.open()
        eventually(lambda: not intake.database_unavailable)
        callers.run(1)
        assert len(callers.stored) == 5
        assert_exactly_once(conn, callers)


def test_stop_loses_nothing_and_leaves_no_caller_waiting(conn: Connection, database_url: str, spool_path: Path) -> None:
    callers_of_all = []
    for _ in range(3):
        with running_intake(database_url, spool_path) as intake:
            callers = Callers(intake, 20)
            callers.start()
            eventually(lambda callers=callers: len(callers.stored) > 50)  # type: ignore[misc]
        eventually(lambda callers=callers: bool(callers.refused))  # type: ignore[misc]  # callers after the end get an error
        callers.stop()
        callers_of_all.append(callers)
    with running_intake(database_url, spool_path):
        for callers in callers_of_all:
            eventually(lambda callers=callers: set(callers.stored) <= journaled(conn).keys())  # type: ignore[misc]
    assert set(journaled(conn).values()) == {1}


def test_stop_while_the_server_hangs_spools_what_is_pending(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with Proxy(database_url) as proxy:
        with running_intake(proxy.url, spool_path) as intake:
            callers = Callers(intake, 5)
            proxy.freeze()
            waiting = threading.Thread(target=callers.run, args=(1,))
            waiting.start()
            eventually(lambda: intake._names._sequence >= 1)
        waiting.join(60)
        proxy.thaw()
        assert callers.stored and len(callers.seconds) == 5
        with running_intake(database_url, spool_path):
            assert_exactly_once(conn, callers)


def test_spool_of_an_earlier_process_is_drained_even_after_the_database_was_unavailable(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_probe, "SPOOL_CHECK_SECONDS", 0.05)
    with Proxy(database_url) as proxy, running_intake(proxy.url, spool_path) as intake:
        proxy.close()  # the intake's own connection stays, and no write shows that new connections fail
        left = Spool(spool_path, PLENTY)
        left.append(Group(uuid4(), 1, (make_callback(1, b"left"),)))
        left.close()
        time.sleep(0.3)  # a few attempts to drain it
        assert not intake.database_unavailable
        proxy.open()
        eventually(lambda: journaled(conn) == {b"left": 1})


def test_drain_without_an_answer_of_the_server_is_repeated(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "DRAIN_SECONDS", 0.3)
    monkeypatch.setattr(database_probe, "SPOOL_CHECK_SECONDS", 0.05)
    left = Group(uuid4(), 1, (make_callback(1, b"left"),))
    spool = Spool(spool_path, PLENTY)
    spool.append(left)
    spool.close()
    write_group(conn, left)  # uncommitted, so the drain waits for it
    with Proxy(database_url) as proxy, running_intake(proxy.url, spool_path) as intake:
        eventually(lambda: waits_for_lock(conn, "journal"))
        proxy.freeze_present_lines()
        conn.rollback()
        eventually(lambda: intake.spool.depth() == 0)
        assert journaled(conn) == {b"left": 1}


def test_drain_that_was_cut_off_continues_where_it_was(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "DRAIN_SECONDS", 0.5)
    monkeypatch.setattr(database_probe, "SPOOL_CHECK_SECONDS", 0.05)
    first, held, last = (Group(uuid4(), 1, (make_callback(1, body),)) for body in (b"first", b"held", b"last"))
    spool = Spool(spool_path, PLENTY)
    for group in (first, held, last):
        spool.append(group)
    spool.close()
    write_group(conn, held)  # uncommitted, so the drain waits for it until it is cut off
    with running_intake(database_url, spool_path) as intake:
        eventually(lambda: intake.spool.depth() == 2)
        conn.rollback()
        eventually(lambda: intake.spool.depth() == 0)
    assert journaled(conn) == {b"first": 1, b"held": 1, b"last": 1}


def test_what_is_spooled_while_the_database_returns_is_drained_at_once(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_probe, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(database_probe, "SPOOL_CHECK_SECONDS", 10 * STUCK_SECONDS)
    append, clean, checks = Spool.append, Spool.clean, list[int]()

    def returned(spool: Spool, group: Group) -> int:
        proxy.open()
        eventually(lambda: len(checks) >= 2)  # its last check before this group found an empty spool
        return append(spool, group)

    def checked(spool: Spool) -> None:
        clean(spool)
        checks.append(0)

    monkeypatch.setattr(Spool, "append", returned)
    monkeypatch.setattr(Spool, "clean", checked)
    with Proxy(database_url) as proxy:
        proxy.close()
        with running_intake(proxy.url, spool_path, up=False) as intake:
            assert intake.add(make_callback(1, b"late")).stored.result(STUCK_SECONDS) is True
            eventually(lambda: journaled(conn) == {b"late": 1})


def test_processes_that_drain_the_same_spool_store_each_group_once(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with Proxy(database_url) as proxy:
        proxy.close()
        with (
            running_intake(proxy.url, spool_path, up=False) as one,
            running_intake(proxy.url, spool_path, up=False) as two,
        ):
            callers = Callers(one, 20), Callers(two, 20)
            for half in callers:
                half.run(20)
            proxy.open()
            for half in callers:
                eventually(lambda half=half: set(half.stored) <= journaled(conn).keys())  # type: ignore[misc]
            eventually(lambda: one.spool.depth() == 0)
            assert journaled(conn) == dict.fromkeys(callers[0].stored + callers[1].stored, 1)


def test_drained_bodies_are_in_no_file(conn: Connection, database_url: str, spool_path: Path) -> None:
    digits = [b"1617555%04d" % number for number in range(300)]

    def in_files() -> list[bytes]:
        contents = b"".join(path.read_bytes() for path in spool_path.parent.rglob("*") if path.is_file())
        return [each for each in digits if each in contents]

    with Proxy(database_url) as proxy:
        proxy.close()
        with running_intake(proxy.url, spool_path, up=False) as intake:
            for each in digits:
                intake.store(make_callback(1, b'{"phone_number": "%s"}' % each))
            assert in_files() == digits
            proxy.open()
            eventually(lambda: len(journaled(conn)) == 300 and in_files() == [])
            assert spool_path.stat().st_size < 100_000


@pytest.mark.long
def test_probing_a_slow_database_takes_one_row(conn: Connection, database_url: str, spool_path: Path) -> None:
    with running_intake(database_url, spool_path) as intake:
        conn.execute(
            "create function slow() returns trigger language plpgsql as"
            " $$ begin perform pg_sleep(0.6); return null; end $$"
        )
        conn.execute("create trigger slow after insert on callback for each statement execute function slow()")
        conn.execute(KILL_SESSIONS)
        conn.commit()
        intake.store(make_callback(1, b"finds it away"))
        probes = intake._database._probes
        eventually(lambda: intake._database._probes > probes + 4)
        assert intake.database_unavailable
        rows = conn.execute("select count(*) from journal_writer").fetchone()
        conn.execute("drop trigger slow on callback")
        conn.commit()
        assert rows is not None and rows[0] <= 2
        eventually(lambda: journaled(conn) == {b"finds it away": 1})


def test_writer_id_is_kept_if_all_its_spooled_groups_are_drained(
    conn: Connection, database_url: str, spool_path: Path
) -> None:
    with running_intake(database_url, spool_path) as intake:
        for number in range(4):
            conn.execute(KILL_SESSIONS)
            conn.commit()
            intake.store(make_callback(1, b"spooled %d" % number))
            eventually(lambda: not intake.database_unavailable and intake.spool.depth() == 0)
            intake.store(make_callback(1, b"direct %d" % number))
        assert journaled(conn) == dict.fromkeys(
            (b"%s %d" % (way, n) for way in (b"spooled", b"direct") for n in range(4)), 1
        )
    rows = conn.execute("select count(*) from journal_writer").fetchone()
    assert rows is not None and rows[0] <= 3, "one writer, and one probe"


@pytest.mark.long
def test_database_that_is_available_for_moments_uses_a_limited_number_of_writer_ids(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_names, "NAMES", 2)
    monkeypatch.setattr(group_names, "NAME_SECONDS", 3600.0)
    held = Group(uuid4(), 1, (make_callback(1, b"held"),))
    spool = Spool(spool_path, PLENTY)
    spool.append(held)
    spool.close()
    write_group(conn, held)  # uncommitted, so nothing can be drained
    with closing(psycopg.connect(database_url, autocommit=True)) as killing:
        with running_intake(database_url, spool_path) as intake:
            stored = [b"held"]

            def store(body: bytes) -> None:
                intake.store(make_callback(1, body))
                stored.append(body)

            for number in range(2):
                killing.execute(KILL_SESSIONS)
                store(b"spooled %d" % number)
                eventually(lambda: not intake.database_unavailable)
                store(b"direct %d" % number)
            killing.execute(KILL_SESSIONS)
            store(b"spooled at last")
            probes = intake._database._probes
            eventually(lambda: intake._database._probes > probes + 2)
            assert intake.database_unavailable, "its writer ids are used up, and everything goes to the spool"
            conn.rollback()
            eventually(lambda: not intake.database_unavailable)
            store(b"and on")
            eventually(lambda: journaled(conn) == dict.fromkeys(stored, 1))


def test_lock_on_the_spool_does_not_delay_the_database(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "BUSY_SECONDS", 600.0)  # a wait for the lock would never end
    with Proxy(database_url) as proxy, running_intake(proxy.url, spool_path) as intake:
        proxy.close()
        proxy.cut()
        intake.store(make_callback(1, b"spooled"))
        with closing(sqlite3.connect(spool_path, isolation_level=None)) as locking:
            locking.execute("begin immediate")
            proxy.open()
            eventually(lambda: not intake.database_unavailable)
            intake.store(make_callback(1, b"direct"))
            assert b"direct" in journaled(conn)
            locking.execute("rollback")
        eventually(lambda: intake.spool.depth() == 0)
        assert journaled(conn) == {b"spooled": 1, b"direct": 1}


def test_no_sender_waits_for_ever_for_a_disk_that_hangs(
    conn: Connection, database_url: str, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(writer_module, "COMMIT_SECONDS", 0.1)
    hangs, goes_on = threading.Event(), threading.Event()

    class HangingSpool(Spool):
        def append(self, group: Group) -> int:
            hangs.set()
            goes_on.wait(60)
            return super().append(group)

    with Proxy(database_url) as proxy:
        proxy.close()
        intake = Writer(partial(connect, proxy.url, name="journal", autocommit=True), HangingSpool(spool_path, PLENTY))
        intake.start()
        try:
            callers = Callers(intake, 5)
            callers.run(2)
            assert hangs.is_set()
            assert (callers.stored, len(callers.refused)) == ([], 10)
            assert max(callers.seconds) < STUCK_SECONDS
        finally:
            goes_on.set()
            proxy.open()
        eventually(lambda: not intake.database_unavailable and intake.spool.depth() == 0)
        assert len(journaled(conn)) <= 5, "callbacks whose senders gave up were dropped"
        callers.run(1)
        assert len(callers.stored) == 5
        assert_exactly_once(conn, callers)
        intake.stop()
