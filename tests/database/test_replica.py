"""Reads from a standby: its lag, and when the primary is read instead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from receiver.database.pool import Connection, connect, connection
from receiver.database.replica import CONNECTION_WAIT_SECONDS, NotFollowing, Replica, measure
from receiver.doctor import Finding, check_replica
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

pytestmark = pytest.mark.long


def test_read_canceled_by_replay_is_answered_by_the_primary(primary: Postgres, standby: Postgres) -> None:
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
        assert (asked, reader.source) == (["replica", "primary"], "interrupted")
        assert isinstance(replica.fitness(), float), "the replica can still be used"


def test_read_of_a_table_that_the_replica_lacks_is_answered_by_the_primary(
    primary: Postgres, standby: Postgres
) -> None:
    with readers(primary, standby) as (_, reader):
        stop_replay(standby)
        primary.execute("create table of_a_new_release ()")
        assert reader.read(lambda conn: conn.execute("select from of_a_new_release").fetchall()) == []
        assert reader.source == "interrupted"


def test_reads_of_one_answer_never_return_to_the_replica(primary: Postgres, standby: Postgres) -> None:
    def missing(conn: Connection) -> str:
        if where(conn) == "replica":
            raise NotFound("It was not replayed yet.")
        return "found"

    with readers(primary, standby) as (_, reader):
        assert [reader.read(read) for read in (where, missing, where)] == ["replica", "found", "primary"]
    with readers(primary, standby) as (_, reader):
        assert [reader.read(read) for read in (where, where)] == ["replica", "replica"]


def test_replica_is_not_used_after_a_lost_connection_until_it_was_measured_again(
    primary: Postgres, standby: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with readers(primary, standby) as (replica, reader):
        measuring, over = threading.Event(), threading.Event()

        def hold(*_: object) -> None:
            measuring.set()
            over.wait(PATIENCE_SECONDS)

        monkeypatch.setattr("receiver.database.replica.measure", hold)
        assert measuring.wait(PATIENCE_SECONDS), "this measurement does not end, and the one before it has ended"
        replica.pool.timeout = CONNECTION_WAIT_SECONDS  # the real limit, because this wait is in vain
        standby.stop("immediate")
        assert isinstance(replica.fitness(), float), "the failure is not known yet"
        assert (reader.read(where), reader.source) == ("primary", "interrupted")
        assert replica.fitness() == "unusable"
        over.set()


def test_standby_among_several_servers_is_found_again_after_a_failover(primary: Postgres, server_dir: Path) -> None:
    first, second = server_dir / "first", server_dir / "second"
    first.mkdir()
    second.mkdir()
    with patient_replica(), standby_of(primary, first) as promoted, standby_of(primary, second) as follower:
        hosts = f"127.0.0.1:{promoted.port},127.0.0.1:{follower.port}"
        address = f"postgresql://receiver@{hosts}/receiver?target_session_attrs"
        promoted.promote()
        # From now on it follows the promoted server, as if it had been created from it.
        follower.configure(primary_conninfo=f"host=127.0.0.1 port={promoted.port} user=receiver")
        replica = Replica(f"{address}=prefer-standby", f"{address}=read-write", max_lag_seconds=LONG, max_size=2)
        try:
            await_fit(replica)
            follower.stop("immediate")
            eventually(lambda: "not a standby" in (replica.fault or ""))
            assert replica.fitness() == "unusable"
            with connection(replica.pool) as conn:
                assert where(conn) == "primary", "no other server runs"
            follower.start()
            await_fit(replica)
            with connection(replica.pool) as conn:
                assert where(conn) == "replica"
        finally:
            replica.close()


def where(conn: Connection) -> str:
    (is_standby,) = conn.execute("select pg_is_in_recovery()").fetchone() or (None,)
    return "replica" if is_standby else "primary"


def test_idle_primary_causes_no_lag_and_a_standby_that_does_not_replay_falls_behind(
    primary: Postgres, standby: Postgres
) -> None:
    with connect(primary.url, name="test", autocommit=True) as of_primary, connect(standby.url, name="test") as other:
        assert measure(of_primary, other, LONG) is not None
        assert measure(of_primary, other, LONG) is not None, "nothing was written in between"
        stop_replay(standby)
        primary.execute("create table if not exists written ()", "drop table written")
        assert measure(of_primary, other, 0.1) is None
        resume_replay(standby)
        assert measure(of_primary, other, LONG) is not None


def test_lag_of_a_replica_grows_while_it_does_not_replay(primary: Postgres, standby: Postgres) -> None:
    with readers(primary, standby) as (replica, _):
        stop_replay(standby)
        primary.execute("create table if not exists written ()", "drop table written")
        replica.max_lag_seconds = 2
        eventually(lambda: replica.fitness() == "behind")
        resume_replay(standby)
        replica.max_lag_seconds = LONG
        await_fit(replica)


def test_standby_ahead_of_the_primary_is_not_its_replica(primary: Postgres, standby: Postgres) -> None:
    """After a failover, the standby may have replayed changes that this primary never wrote."""
    catch_up(primary, standby)
    with connect(primary.url, name="test") as of_primary, connect(standby.url, name="test") as other:

        class Earlier:
            """The primary at an earlier time."""

            def execute(self, query: str) -> object:
                return of_primary.execute(query.replace("pg_current_wal_lsn()", "'0/1000000'::pg_lsn"))

        with pytest.raises(NotFollowing, match="never wrote"):
            measure(Earlier(), other, LONG)  # type: ignore[arg-type]


def test_copy_of_another_database_is_not_a_standby(primary: Postgres, standby: Postgres, server_url: str) -> None:
    with connect(server_url, name="test") as another_primary, connect(standby.url, name="test") as other:
        with pytest.raises(NotFollowing, match="another database"):
            measure(another_primary, other, LONG)


def test_doctor_reports_the_state_of_the_replica(primary: Postgres, standby: Postgres) -> None:
    def check() -> Finding:
        with connect(primary.url, name="test", autocommit=True) as conn:
            return check_replica(conn, standby.url, 1)

    eventually(lambda: check().level == "ok")
    assert "s behind" in check().message
    stop_replay(standby)
    primary.execute("create table if not exists written ()", "drop table written")
    assert check().level == "warning" and "more than 1 s behind" in check().message
    resume_replay(standby)
    standby.promote()
    assert check().level == "warning" and "promoted" in check().message
    standby.stop("immediate")
    assert check().level == "warning" and "correct DATABASE_REPLICA_URL" in check().message


def test_malformed_address_names_its_variable(primary: Postgres) -> None:
    with pytest.raises(ReceiverError, match="DATABASE_REPLICA_URL is neither") as caught:
        Replica("postgresql://a:%zz@b/c", primary.url, max_lag_seconds=1, max_size=1)
    assert caught.value.code == "database_url"


def test_replica_requires_a_database_url() -> None:
    given = {"DATABASE_URL": "postgresql://a/b", "DATABASE_REPLICA_URL": "postgresql://c/b", "SECRET_KEY": "s" * 32}
    config = read_config(given)
    assert (config.database_replica_url, config.replica_max_lag_seconds) == ("postgresql://c/b", 10)
    assert "//c/b" not in repr(config), "it may contain a password"
    assert read_config(given | {"REPLICA_MAX_LAG": "30"}).replica_max_lag_seconds == 30
    for wrong, where in (
        ({"DATABASE_REPLICA_URL": "mysql://c/b"}, "DATABASE_REPLICA_URL"),
        ({"REPLICA_MAX_LAG": "1"}, "REPLICA_MAX_LAG"),
        ({"DATABASE_URL": ""}, "DATABASE_REPLICA_URL"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read_config(given | wrong)
        assert [fault.where for fault in caught.value.faults] == [where]
