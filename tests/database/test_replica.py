"""A standby for reading: how far behind it is, and when the primary is asked in its stead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from receiver.database.pool import Connection, connect, connection
from receiver.database.replica import WAIT_SECONDS, Behind, NotFollowing, Replica, get_replayed, get_written
from receiver.doctor import Finding, look_at_replica
from receiver.environment import read_config
from receiver.errors import ConfigurationError, NotFound, ReceiverError
from tests.acceptance.postgres import Postgres
from tests.replication import (
    LONG,
    await_fit,
    catch_up,
    patient_replica,
    readers,
    resume_replay,
    standby_of,
    stop_replay,
)
from tests.waiting import PATIENCE_SECONDS, eventually


def test_read_that_replay_canceled_is_answered_by_the_primary(primary: Postgres, standby: Postgres) -> None:
    primary.execute("create table if not exists scratch as select generate_series(1, 1000) as number")
    catch_up(primary, standby)
    asked = []

    def slow(conn: Connection) -> str:
        asked.append(where(conn))
        conn.execute("select case when pg_is_in_recovery() then pg_sleep(600) end")
        return asked[-1]

    def make_conflict() -> None:
        sleeping = "select count(*) from pg_stat_activity where query like 'select case%' and state = 'active'"
        eventually(lambda: standby.execute(sleeping) == [(1,)])
        primary.execute("delete from scratch", "vacuum scratch")

    with readers(primary, standby) as (replica, reader):
        conflict = threading.Thread(target=make_conflict)
        conflict.start()
        try:
            assert reader.read(slow) == "primary"
        finally:
            conflict.join()
        assert (asked, reader.came) == (["replica", "primary"], "interrupted")
        assert isinstance(replica.fitness(), float), "it is well, and asked again"


def test_read_that_the_replica_is_not_migrated_for_is_answered_by_the_primary(
    primary: Postgres, standby: Postgres
) -> None:
    with readers(primary, standby) as (_, reader):
        stop_replay(standby)
        primary.execute("create table of_a_new_release ()")
        assert reader.read(lambda conn: conn.execute("select from of_a_new_release").fetchall()) == []
        assert reader.came == "interrupted"


def test_reads_of_one_answer_never_go_back_to_the_replica(primary: Postgres, standby: Postgres) -> None:
    def missing(conn: Connection) -> str:
        if where(conn) == "replica":
            raise NotFound("It was not replayed yet.")
        return "found"

    with readers(primary, standby) as (_, reader):
        assert [reader.read(read) for read in (where, missing, where)] == ["replica", "found", "primary"]
    with readers(primary, standby) as (_, reader):
        assert [reader.read(read) for read in (where, where)] == ["replica", "replica"]


def test_replica_that_broke_off_is_not_asked_before_it_was_looked_at_again(
    primary: Postgres, standby: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with readers(primary, standby) as (replica, reader):
        looking, over = threading.Event(), threading.Event()

        def look() -> None:
            looking.set()
            over.wait(PATIENCE_SECONDS)

        monkeypatch.setattr(replica, "_look", look)
        assert looking.wait(PATIENCE_SECONDS), "this look sees nothing, and the one before it is over"
        replica.pool.timeout = WAIT_SECONDS  # in earnest: in vain, it is waited out
        standby.stop("immediate")
        assert isinstance(replica.fitness(), float), "nobody knows yet"
        assert (reader.read(where), reader.came) == ("primary", "interrupted")
        assert replica.fitness() == "unusable"
        over.set()


def test_address_of_several_servers_finds_the_standby_among_them_again_after_a_failover(
    primary: Postgres, server_dir: Path
) -> None:
    first, second = server_dir / "first", server_dir / "second"
    first.mkdir()
    second.mkdir()
    with patient_replica(), standby_of(primary, first) as promoted, standby_of(primary, second) as follower:
        hosts = f"127.0.0.1:{promoted.port},127.0.0.1:{follower.port}"
        address = f"postgresql://receiver@{hosts}/receiver?target_session_attrs"
        promoted.promote()
        # It follows the promoted one from now on, as though it had been made from it.
        follower.configure(primary_conninfo=f"host=127.0.0.1 port={promoted.port} user=receiver")
        replica = Replica(f"{address}=prefer-standby", f"{address}=read-write", max_lag_seconds=LONG, max_size=2)
        try:
            await_fit(replica)
            follower.stop("immediate")
            eventually(lambda: "no standby" in (replica.fault or ""))
            assert replica.fitness() == "unusable"
            with connection(replica.pool) as conn:
                assert where(conn) == "primary", "there is no other one"
            follower.start()
            await_fit(replica)
            with connection(replica.pool) as conn:
                assert where(conn) == "replica"
        finally:
            replica.close()


def where(conn: Connection) -> str:
    (is_standby,) = conn.execute("select pg_is_in_recovery()").fetchone() or (None,)
    return "replica" if is_standby else "primary"


def seen(*looks: tuple[float, int, int]) -> float | None:
    behind = Behind()
    for at, written, replayed in looks:
        behind.see(at, written, replayed)
    return behind.shows


def test_idle_primary_is_no_lag() -> None:
    assert seen(*((float(at), 100, 100) for at in range(1000))) == 999


def test_standby_shows_what_was_there_at_the_last_question_that_it_has_passed() -> None:
    assert seen((0, 100, 100), (1, 200, 150), (2, 300, 250), (3, 400, 299)) == 1
    assert seen((0, 100, 100), (1, 200, 150), (2, 300, 250), (3, 400, 400)) == 3


def test_standby_whose_line_is_cut_falls_behind_as_soon_as_anything_is_written() -> None:
    assert seen(*((float(at), 100, 100) for at in range(50)), *((float(at), 101, 100) for at in range(50, 90))) == 49


def test_how_far_behind_is_not_known_at_the_first_look() -> None:
    assert seen() is None
    assert seen((0, 100, 100)) is None, "it might be where the primary never was"


def test_standby_that_is_where_the_primary_never_was_follows_another() -> None:
    behind = Behind()
    behind.see(0, 100, 100)
    behind.see(1, 100, 180)  # written after the primary was asked
    behind.see(2, 180, 180)
    behind.see(3, 190, 250)
    with pytest.raises(NotFollowing):
        behind.see(4, 240, 250)
    assert behind.shows is None
    behind.see(5, 260, 250)  # only its number has been passed
    assert behind.shows is None, "what it shows is not what was there then"


def test_copy_of_another_database_is_told_from_a_standby(primary: Postgres, server_url: str) -> None:
    with connect(primary.url, name="test") as of_primary, connect(server_url, name="test") as other:
        system_identifier, _ = get_written(of_primary)
        with pytest.raises(NotFollowing, match="another database"):
            get_replayed(other, system_identifier)


def test_doctor_says_how_the_replica_follows(primary: Postgres, standby: Postgres) -> None:
    def look() -> Finding:
        with connect(primary.url, name="test", autocommit=True) as conn:
            return look_at_replica(conn, standby.url, 1)

    eventually(lambda: look().level == "ok")
    assert "s behind" in look().message
    stop_replay(standby)
    primary.execute("create table if not exists written ()", "drop table written")
    assert look().level == "warning" and "more than 1 s behind" in look().message
    resume_replay(standby)
    standby.promote()
    assert look().level == "warning" and "promoted" in look().message
    standby.stop("immediate")
    assert look().level == "warning" and "mend DATABASE_REPLICA_URL" in look().message


def test_unusable_address_names_its_variable(primary: Postgres) -> None:
    with pytest.raises(ReceiverError, match="DATABASE_REPLICA_URL is neither") as caught:
        Replica("postgresql://a:%zz@b/c", primary.url, max_lag_seconds=1, max_size=1)
    assert caught.value.code == "database_url"


def test_replica_is_configured_beside_a_database() -> None:
    given = {"DATABASE_URL": "postgresql://a/b", "DATABASE_REPLICA_URL": "postgresql://c/b", "SECRET_KEY": "s" * 32}
    config = read_config(given)
    assert (config.database_replica_url, config.replica_max_lag_seconds) == ("postgresql://c/b", 10)
    assert "//c/b" not in repr(config), "a password may stand in it"
    assert read_config(given | {"REPLICA_MAX_LAG": "30"}).replica_max_lag_seconds == 30
    for wrong, where in (
        ({"DATABASE_REPLICA_URL": "mysql://c/b"}, "DATABASE_REPLICA_URL"),
        ({"REPLICA_MAX_LAG": "1"}, "REPLICA_MAX_LAG"),
        ({"DATABASE_URL": ""}, "DATABASE_REPLICA_URL"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read_config(given | wrong)
        assert [fault.where for fault in caught.value.faults] == [where]
