"""The pool with a real server whose connections are killed, refused and blocked."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from receiver.database import pool as pool_module
from receiver.database.pool import (
    PROVEN_SECONDS,
    Connection,
    DatabaseUnavailable,
    Pool,
    at_one_moment,
    connect,
    connection,
    full_conninfo,
    open_pool,
    reading,
)
from receiver.errors import ReceiverError
from tests.database.proxy import Proxy
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pool(empty_database_url: str) -> Iterator[Pool]:
    with closing(open_pool(empty_database_url, max_size=4, name="tests of the pool")) as pool:
        yield pool


def test_connections_are_utc_named_and_in_a_transaction(pool: Pool) -> None:
    with connection(pool) as conn:
        row = conn.execute("select current_setting('TimeZone'), current_setting('application_name')").fetchone()
        assert row == ("UTC", "tests of the pool")
        assert not conn.autocommit


@pytest.mark.parametrize(
    ("said", "wanted"), [("off", "on"), ("local", "local"), ("on", "on"), ("remote_apply", "remote_apply")]
)
def test_commits_are_durable_with_any_setting_of_the_database(empty_database_url: str, said: str, wanted: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        name = sql.Identifier(owner.info.dbname)
        owner.execute(sql.SQL("alter database {} set synchronous_commit = {}").format(name, sql.Identifier(said)))
    show = "select setting, source from pg_settings where name = 'synchronous_commit'"
    with connect(empty_database_url, name="receiver journal", autocommit=True) as conn:
        # It is set in the session, so later changes by an administrator do not matter.
        assert conn.execute(show).fetchone() == (wanted, "session")
    with closing(open_pool(empty_database_url, max_size=1, name="receiver web")) as pool, connection(pool) as conn:
        assert conn.execute(show).fetchone() == (wanted, "session")


def test_commits_are_durable_with_any_setting_of_the_role(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        name = sql.Identifier(owner.info.dbname)
        owner.execute(sql.SQL("alter role current_user in database {} set synchronous_commit = off").format(name))
    with connect(empty_database_url, name="receiver journal", autocommit=True) as conn:
        assert conn.execute("show synchronous_commit").fetchone() == ("on",)


def test_reads_at_one_moment_share_a_snapshot(pool: Pool) -> None:
    def count(conn: Connection) -> int:
        return int((conn.execute("select count(*) from seen").fetchone() or (0,))[0])

    with connection(pool) as conn:
        conn.execute("create table seen (id int)")
    with at_one_moment(pool) as reader:
        assert count(reader) == 0
        with connection(pool) as writer:
            writer.execute("insert into seen values (1)")
        assert count(reader) == 0
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), reader.transaction():
            reader.execute("delete from seen")
    with reading(pool) as conn:
        assert count(conn) == 1


def test_success_commits_and_an_error_rolls_back(pool: Pool) -> None:
    with connection(pool) as conn:
        conn.execute("create table kept (n int)")
    with pytest.raises(RuntimeError), connection(pool) as conn:
        conn.execute("insert into kept values (1)")
        raise RuntimeError
    with connection(pool) as conn:
        assert conn.execute("select count(*) from kept").fetchone() == (0,)


def test_all_connections_killed_while_idle_are_replaced_before_the_next_use(
    pool: Pool, empty_database_url: str
) -> None:
    barrier = threading.Barrier(4)

    def hold() -> None:
        with connection(pool):
            barrier.wait(timeout=60)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _kill_others(empty_database_url) == 4
    time.sleep(PROVEN_SECONDS)
    for _ in range(8):
        with connection(pool) as conn:
            assert conn.execute("select 1").fetchone() == (1,)


def test_connection_killed_in_use_is_database_unavailable_and_the_next_one_works(
    pool: Pool, empty_database_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable) as caught, connection(pool) as conn:
        conn.execute("select 1")
        assert _kill_others(empty_database_url) >= 1
        conn.execute("select 1")
    assert caught.value.code == "database_unavailable"
    time.sleep(PROVEN_SECONDS)  # so that every connection is checked before its use
    with connection(pool) as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_single_connection_killed_in_use_is_database_unavailable(empty_database_url: str) -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="database is unavailable"),
        connect(empty_database_url, name="tests of the pool", autocommit=True) as conn,
    ):
        assert _kill_others(empty_database_url) >= 1
        conn.execute("select 1")


def test_other_errors_leave_the_block_of_a_single_connection_unchanged(empty_database_url: str) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), connect(empty_database_url, name="tests of the pool") as conn:
        conn.execute("select 1 / 0")
    assert conn.closed
    with pytest.raises(KeyError), connect(empty_database_url, name="tests of the pool"):
        raise KeyError


def test_hanging_server_is_reported_as_fast_as_an_absent_one(empty_database_url: str) -> None:
    """The kernel still accepts connections and acknowledges all data, so no network time-out ends the wait."""
    with Proxy(empty_database_url) as proxy, closing(open_pool(proxy.url, max_size=4, name="hung")) as pool:
        with connection(pool) as conn:
            conn.execute("select 1")
        proxy.freeze()
        time.sleep(PROVEN_SECONDS)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable), connection(pool):
            pass
        assert time.monotonic() - began < 20
        proxy.thaw()
        eventually(lambda: _works(pool))


@pytest.mark.parametrize("patience_seconds", [None, 60.0])
def test_server_that_hangs_after_connecting_is_given_up_soon(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, patience_seconds: float | None
) -> None:
    monkeypatch.setattr(pool_module, "CONNECT_SECONDS", 0.3)
    with Proxy(empty_database_url) as proxy:
        proxy.freeze_newcomers()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="timeout"):
            connect(proxy.url, name="newcomer", patience_seconds=patience_seconds)
        assert time.monotonic() - began < 20
        proxy.thaw()
        let_in: list[Connection] = []

        def is_let_in() -> bool:
            with suppress(DatabaseUnavailable):  # a busy machine may take too long
                let_in.append(connect(proxy.url, name="newcomer", patience_seconds=patience_seconds))
            return bool(let_in)

        eventually(is_let_in)
        with closing(let_in[0]) as conn:
            assert conn.execute("select true from pg_sleep(0.5)").fetchone() == (True,), (
                "only letting us in has a limit"
            )


def test_given_up_statement_is_canceled_at_the_server_and_its_connection_closed(empty_database_url: str) -> None:
    with closing(connect(empty_database_url, name="impatient", autocommit=True, patience_seconds=0.3)) as conn:
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select pg_sleep(600)")
        assert conn.closed
    with closing(connect(empty_database_url, name="watching", autocommit=True)) as watching:
        query = "select from pg_stat_activity where application_name = 'impatient'"
        eventually(lambda: watching.execute(query).fetchone() is None)


def _works(pool: Pool) -> bool:
    try:
        with connection(pool) as conn:
            return conn.execute("select 1").fetchone() == (1,)
    except DatabaseUnavailable:
        return False


def test_absent_server_is_reported_within_the_time_limit() -> None:
    nowhere = "postgresql://receiver@/receiver?host=%2Fnonexistent"
    with closing(open_pool(nowhere, max_size=2, name="nowhere")) as pool:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable), connection(pool):
            pass
        assert time.monotonic() - started < 20
    with pytest.raises(DatabaseUnavailable, match="No such file"):
        connect(nowhere, name="nowhere")


def test_exhausted_pool_is_reported(empty_database_url: str) -> None:
    with (
        closing(open_pool(empty_database_url, max_size=1, name="small")) as pool,
        connection(pool),
        pytest.raises(DatabaseUnavailable, match=r"after 2\.00 sec"),
        connection(pool),
    ):
        pass


def test_statement_over_its_time_limit_is_ended_by_the_server(empty_database_url: str) -> None:
    with (
        closing(open_pool(empty_database_url, max_size=1, name="hasty")) as pool,
        pytest.raises(DatabaseUnavailable, match="statement timeout"),
        connection(pool) as conn,
    ):
        conn.execute("set local statement_timeout = '100ms'")
        conn.execute("select pg_sleep(5)")


def test_constraint_and_lock_errors_reach_the_caller(pool: Pool) -> None:
    with connection(pool) as conn:
        conn.execute("create table once (n int primary key)")
        conn.execute("insert into once values (1)")
    with pytest.raises(psycopg.errors.UniqueViolation), connection(pool) as conn:
        conn.execute("insert into once values (1)")
    with (
        connection(pool) as holder,
        pytest.raises(psycopg.errors.LockNotAvailable),
        connection(pool) as other,
    ):
        holder.execute("select n from once for update")
        other.execute("select n from once for update nowait")


def test_read_only_server_is_database_unavailable(pool: Pool) -> None:
    with pytest.raises(DatabaseUnavailable), connection(pool) as conn:
        conn.execute("set transaction read only")
        conn.execute("create table never (n int)")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_both_schemes_and_the_parameters_of_the_url_are_kept(scheme: str) -> None:
    given = f"{scheme}://bob:p%40ss@db.example:6432/calls?connect_timeout=9&sslmode=require"
    found = conninfo_to_dict(full_conninfo(given, name="web"))
    expected = {"user": "bob", "password": "p@ss", "host": "db.example", "port": "6432", "dbname": "calls"}
    assert found.items() >= expected.items()
    assert found.items() >= {"connect_timeout": "9", "sslmode": "require", "application_name": "web"}.items()
    assert found["tcp_user_timeout"] == "5000"


def test_malformed_conninfo_is_refused_without_repeating_it() -> None:
    with pytest.raises(ReceiverError) as caught:
        full_conninfo("mysql+pymysql://bob:secret@db/calls", name="web")
    assert caught.value.code == "database_url"
    assert "secret" not in str(caught.value)


def _kill_others(url: str) -> int:
    """End every other session of this database and return how many there were."""
    with psycopg.connect(url, autocommit=True) as conn:
        rows = conn.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        ).fetchall()
        return len(rows)
