"""Migrations on real databases: order, refusals, and several machines at once."""

import hashlib
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from receiver.database import migrations
from receiver.database.migrations import (
    MIGRATIONS,
    Migration,
    SchemaError,
    check,
    check_server_version,
    list_migrations,
    list_pending,
    migrate,
)
from receiver.database.pool import Connection, connect
from tests.waiting import eventually, waits_for_lock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "0001_initial", "create table call (n int); insert into call values (1);")
    write(tmp_path, "0002_more", "alter table call add m int default 7;")
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.sql").write_text(text)


def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as conn:
        return conn.execute(query.encode()).fetchall()


def code_of_check(url: str, folder: Path) -> str | None:
    with closing(connect(url, name="test")) as conn:
        try:
            check(conn, folder)
        except SchemaError as error:
            return error.code
    return None


def test_files_are_applied_once_and_in_order(empty_database_url: str, folder: Path) -> None:
    lines: list[str] = []
    assert migrate(empty_database_url, folder, report=lines.append) == ["0001_initial.sql", "0002_more.sql"]
    assert lines == ["Applying 0001_initial.sql", "Applying 0002_more.sql"]
    assert migrate(empty_database_url, folder) == []
    assert fetch(empty_database_url, "select n, m from call") == [(1, 7)]
    rows = fetch(empty_database_url, "select name, length(sha256), applied_at is not null from schema_migration")
    assert sorted(rows) == [("0001_initial.sql", 64, True), ("0002_more.sql", 64, True)]


def test_files_of_this_release_make_a_current_schema(conn: Connection) -> None:
    check(conn)
    assert list_pending(conn) == []
    assert list_migrations(MIGRATIONS)


def test_database_that_lacks_a_file_is_behind(empty_database_url: str, folder: Path) -> None:
    assert code_of_check(empty_database_url, folder) == "schema_behind"
    migrate(empty_database_url, folder)
    assert code_of_check(empty_database_url, folder) is None
    write(folder, "0003_next", "select 1;")
    assert code_of_check(empty_database_url, folder) == "schema_behind"
    with closing(connect(empty_database_url, name="test")) as conn:
        assert [migration.name for migration in list_pending(conn, folder)] == ["0003_next.sql"]


def test_database_of_a_newer_release_is_refused(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_more.sql").unlink()
    assert code_of_check(empty_database_url, folder) == "schema_ahead"
    with pytest.raises(SchemaError, match="0002_more"):
        migrate(empty_database_url, folder)


def test_changed_file_is_refused_but_other_line_ends_are_accepted(empty_database_url: str, folder: Path) -> None:
    write(folder, "0003_lines", "select 1;\nselect 2;\n")
    migrate(empty_database_url, folder)
    (folder / "0003_lines.sql").write_bytes(b"select 1;\r\nselect 2;\r\n")
    assert code_of_check(empty_database_url, folder) is None
    write(folder, "0001_initial", "create table call (n bigint);")
    assert code_of_check(empty_database_url, folder) == "migration_changed"
    with pytest.raises(SchemaError, match="0001_initial"):
        migrate(empty_database_url, folder)


def test_file_before_one_already_applied_is_refused(empty_database_url: str, folder: Path) -> None:
    write(folder, "0009_last", "select 1;")
    migrate(empty_database_url, folder)
    write(folder, "0005_late", "select 1;")
    assert code_of_check(empty_database_url, folder) == "migration_out_of_order"


def test_failed_file_is_rolled_back_and_its_line_is_named(empty_database_url: str, folder: Path) -> None:
    write(folder, "0003_broken", "create table half (n int);\n\nselect nonsense;\n")
    with pytest.raises(SchemaError, match=r"0003_broken\.sql, line 3: .*nonsense") as caught:
        migrate(empty_database_url, folder)
    assert caught.value.code == "migration_failed"
    assert fetch(empty_database_url, "select to_regclass('half')") == [(None,)]
    write(folder, "0003_broken", "create table half (n int);")
    assert migrate(empty_database_url, folder) == ["0003_broken.sql"]


def test_file_that_commits_by_itself_is_refused(empty_database_url: str, folder: Path) -> None:
    write(folder, "0003_commits", "create table half (n int); commit;")
    with pytest.raises(SchemaError, match="ends its transaction"):
        migrate(empty_database_url, folder)
    assert fetch(empty_database_url, "select count(*) from schema_migration") == [(2,)]


def test_no_transaction_file_builds_an_index_concurrently(empty_database_url: str, folder: Path) -> None:
    write(
        folder,
        "0003_index",
        "-- no-transaction\ncreate index concurrently if not exists call_n on call (n);\nselect ';';\n",
    )
    assert migrate(empty_database_url, folder)[-1] == "0003_index.sql"
    assert fetch(empty_database_url, "select indisvalid from pg_index where indexrelid = 'call_n'::regclass") == [
        (True,)
    ]


def test_invalid_index_of_an_interrupted_run_is_built_again(empty_database_url: str, folder: Path) -> None:
    write(folder, "0002_more", "insert into call values (1);")
    migrate(empty_database_url, folder)
    text = "-- no-transaction\n{}create unique index concurrently if not exists call_n on call (n);\n"
    write(folder, "0003_index", text.format(""))
    with pytest.raises(SchemaError, match="the next run starts again at its beginning"):
        migrate(empty_database_url, folder)  # two rows have the same n, so an invalid index stays
    write(folder, "0003_index", text.format("delete from call;\n"))
    migrate(empty_database_url, folder)
    assert fetch(empty_database_url, "select indisvalid from pg_index where indexrelid = 'call_n'::regclass") == [
        (True,)
    ]


def before_0006(folder: Path) -> Path:
    """The files of this release before the one that builds an index of `set_aside`."""
    for path in sorted(MIGRATIONS.glob("000[1-5]_*.sql")):
        shutil.copy(path, folder)
    return folder


def test_index_of_0006_is_built_while_others_write(empty_database_url: str, tmp_path: Path) -> None:
    migrate(empty_database_url, before_0006(tmp_path))
    shutil.copy(next(MIGRATIONS.glob("0006_*.sql")), tmp_path)
    write_aside = "insert into set_aside (batch_id, callback_id, state, reason, row) values (1, %s, 'conflict', 'x', 1)"
    with (
        psycopg.connect(empty_database_url) as settling,
        psycopg.connect(empty_database_url, autocommit=True) as other,
        ThreadPoolExecutor(1) as starter,
    ):
        settling.execute(write_aside, [1])  # uncommitted, so that the build has to wait
        migrating = starter.submit(migrate, empty_database_url, tmp_path)
        try:
            eventually(lambda: migrating.done() or waits_for_lock(other, "receiver migrate"))
            assert not migrating.done()
            other.execute("set lock_timeout = '20s'")
            other.execute(write_aside, [2])  # does not wait for it
        finally:
            settling.commit()
        assert migrating.result(60) == ["0006_differing.sql"]
    valid = "select indisvalid from pg_index where indexrelid = 'set_aside_differing'::regclass"
    assert fetch(empty_database_url, valid) == [(True,)]
    assert code_of_check(empty_database_url, tmp_path) is None


def test_database_that_had_0006_in_a_transaction_is_current(empty_database_url: str, tmp_path: Path) -> None:
    """Release 1.0.0 applied it in a transaction, and stored its sha256."""
    migrate(empty_database_url, before_0006(tmp_path))
    path = next(MIGRATIONS.glob("0006_*.sql"))
    text = path.read_text()
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "4eb808cfea20cf6ab473f4b1e15fc6e155564c315a07845425bb39d000879fa5", "a released file never changes"
    with psycopg.connect(empty_database_url) as conn:
        conn.execute(text.encode())
        conn.execute("insert into schema_migration (name, sha256) values (%s, %s)", [path.name, digest])
    shutil.copy(path, tmp_path)
    assert code_of_check(empty_database_url, tmp_path) is None
    assert migrate(empty_database_url, tmp_path) == []
    # Both ways result in the same schema.
    definition = fetch(empty_database_url, "select pg_get_indexdef('set_aside_differing'::regclass)")
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("drop index set_aside_differing")
        conn.execute("delete from schema_migration where name = %s", [path.name])
    assert migrate(empty_database_url, tmp_path) == [path.name]
    assert fetch(empty_database_url, "select pg_get_indexdef('set_aside_differing'::regclass)") == definition
    assert fetch(empty_database_url, f"select sha256 from schema_migration where name = '{path.name}'") == [(digest,)]  # noqa: S608


SMALL_TABLES = {"api_key", "worker", "upkeep", "measured", "purge", "schema_migration", "endpoint_count"}
"""Tables with few rows, independent of the number of calls. An index of them is built in a moment."""


def test_no_later_file_blocks_writers_of_a_growing_table_for_an_index() -> None:
    for migration in list_migrations()[6:]:
        text = re.sub(r"--[^\n]*", "", migration.text).lower()
        made = set(re.findall(r"create table (?:if not exists )?(\w+)", text))
        built = re.findall(r"create (?:unique )?index (?!concurrently)[\w\s]*?\bon (?:only )?(\w+)", text)
        constrained = re.findall(
            r"alter table (?:only )?(\w+)\s+add (?:constraint \w+ )?(?:unique|primary key|exclude)\b(?! using)", text
        )
        for table in {*built, *constrained} - made - SMALL_TABLES:
            raise AssertionError(
                f"{migration.name} builds an index of {table} in a way that blocks writes: add `-- no-transaction`"
                " and `create index concurrently if not exists`"
            )


_MIGRATE = """
import sys
from pathlib import Path
from receiver.database.migrations import migrate
print(len(migrate(sys.argv[1], Path(sys.argv[2]))))
"""


def test_concurrent_processes_apply_each_file_once(empty_database_url: str, folder: Path) -> None:
    for number in range(3, 9):
        write(folder, f"000{number}_add", f"create table t{number} (n int); select pg_sleep(0.05);")
    write(
        folder,
        "0009_index",
        "-- no-transaction\ncreate index concurrently if not exists call_n on call (n);\nselect 1;",
    )
    command = [sys.executable, "-c", _MIGRATE, empty_database_url, str(folder)]
    with ThreadPoolExecutor(4) as starters:
        outputs = list(starters.map(lambda _: subprocess.check_output(command, text=True, timeout=120), range(4)))
    assert sum(int(output) for output in outputs) == 9
    assert code_of_check(empty_database_url, folder) is None


def test_waiting_for_another_migration_ends_with_a_message(
    empty_database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "0003_slow", "select pg_sleep(600);")
    running = threading.Event()
    outcome: list[BaseException] = []

    def slow() -> None:
        try:
            migrate(empty_database_url, folder, report=lambda line: running.set() if "0003" in line else None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    assert running.wait(60)
    lines: list[str] = []
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.3)
    try:
        with pytest.raises(SchemaError) as caught:
            migrate(empty_database_url, folder, report=lines.append)
    finally:
        with psycopg.connect(empty_database_url, autocommit=True) as conn:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'receiver migrate'"
            )
        thread.join()
    assert caught.value.code == "migration_lock"
    assert lines == ["Waiting for another process that migrates this database"]
    # The killed one lost its lock with its session, so the next start can continue.
    assert [getattr(error, "code", error) for error in outcome] == ["database_unavailable"]
    write(folder, "0003_slow", "select 1;")
    assert migrate(empty_database_url, folder) == ["0003_slow.sql"]


@pytest.mark.parametrize("name", ["1_short", "0003-dash", "0003_Upper", "0002_twice"])
def test_file_with_an_invalid_name_is_refused(folder: Path, name: str) -> None:
    write(folder, name, "select 1;")
    with pytest.raises(SchemaError) as caught:
        list_migrations(folder)
    assert caught.value.code == "migration_files"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError) as caught:
        list_migrations(tmp_path / "nowhere")
    assert caught.value.code == "migration_files"


def test_old_server_is_refused() -> None:
    check_server_version(140000)
    with pytest.raises(SchemaError, match="Postgres 13; 14 or later"):
        check_server_version(130018)


def test_statement_ends_with_a_semicolon_at_the_end_of_a_line() -> None:
    text = "-- no-transaction\nselect\n ';', 1; -- more\nselect 2;\n\n-- A comment\nselect 3;"
    assert Migration("0001_x.sql", text, "").statements() == [
        "-- no-transaction\nselect\n ';', 1; -- more\nselect 2",
        "\n-- A comment\nselect 3",
    ]


def test_small_tables_that_change_all_the_time_are_vacuumed_after_few_rows(conn: Connection) -> None:
    """After a fifth of its rows, a queue would be vacuumed too late once it was large, and a table of one row never."""
    found = {
        name: dict(option.split("=") for option in options or ())
        for name, options in conn.execute(
            "select relname::text, reloptions from pg_class where relkind = 'r' and relname ~"
            " '^(waiting|settling|poll|changed_results|endpoint_count|batch_count_part|owed_event_[0-9]+)$'"
        )
    }
    assert len(found) == 6 + 17
    for name, options in found.items():
        assert options["autovacuum_vacuum_scale_factor"] == "0", name
        assert int(options["autovacuum_vacuum_threshold"]) <= (5 if name == "settling" else 5000), name
