"""Fixtures with a real Postgres.

The process that runs pytest (with xdist: its controller) creates a folder. The first process that needs a database
starts an embedded server in it, and the other processes use the same server. A guard process in its own session waits
until pytest has ended, even by a kill; then it stops all servers under the folder and removes it. `TEST_DATABASE_URL`
names a server to use instead. Its role must be allowed to create databases.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from receiver.database.migrations import migrate
from receiver.database.pool import Connection, connect
from receiver.embedded_postgres.account import EmbeddedPostgresError
from receiver.embedded_postgres.server import EmbeddedPostgres
from receiver.gc_tuning import spare_long_lived
from tests import factories, statements
from tests.acceptance.postgres import Postgres
from tests.leftovers import remove
from tests.replication import migrated_primary, standby_of
from tests.waiting import eventually

# A busy machine must not fail a test. Tests of performance measure time themselves.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

_FOLDER = "RECEIVER_TEST_FOLDER"
"""Environment variable with the run's folder, for xdist's workers. The databases' names contain the folder's name."""

HURRIED = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "min_wal_size": "32MB",
    "max_connections": "200",
    # Together with `strategy file_copy`, these make a copy of the template in 8 ms instead of 70.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_init_zero": "off",
    "autovacuum": "off",
}
"""Server settings that give up durability for speed. No test simulates a power cut."""

MEMORY = Path("/dev/shm")  # noqa: S108 only a folder with a random name is created in it
MEMORY_BYTES = 4 << 30
"""Several times the memory that a run has needed."""

GUARD_SECONDS = 300
"""How long pytest waits at its end for the guard to stop the servers and remove the folder."""

SLOWEST = (
    "acceptance/killing/test_kill_anywhere.py",
    "acceptance/killing/test_intake_killed.py",
    "deploy/test_wrong_settings.py",
    "browser/test_every_page.py",
    "acceptance/test_delivered_campaign.py",
    "acceptance/killing/test_commands_killed.py",
    "acceptance/test_simulated_year.py",
    "acceptance/test_patroni.py",
    "acceptance/test_outages.py",
    "browser/test_reference.py",
    "browser/test_story.py",
    "interleavings/test_interleavings.py",
    "web/test_contract_fuzz.py",
    "documents/test_backups.py",
    "acceptance/test_start_refused.py",
    "deploy/test_roles.py",
    "deploy/test_restart.py",
    "documents/test_examples.py",
    "clients/test_generated_clients.py",
    "acceptance/test_simulated.py",
    "acceptance/test_serve.py",
    "acceptance/test_clocks.py",
    "web/test_secret_rotation.py",
    "web/test_injection.py",
    "web/test_in_progress.py",
)
"""The modules whose long tests need most of a minute or more, the slowest first."""

_GUARD = """
import sys
from pathlib import Path
sys.stdin.read()
sys.path.insert(0, sys.argv[2])
from tests.leftovers import remove
remove(Path(sys.argv[1]))
"""

_guard = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_configure(config: pytest.Config) -> None:
    statements.install()
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.mkdtemp(prefix="receiver-tests-", dir=_memory())
    Path(folder).chmod(0o711)  # the server, started by root, runs as another account, which needs access
    os.environ[_FOLDER] = folder
    root = str(Path(__file__).resolve().parents[1])
    config.stash[_guard] = subprocess.Popen(
        [sys.executable, "-c", _GUARD, folder, root], stdin=subprocess.PIPE, start_new_session=True
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make test` and `make test-long` import only modules of which they run tests. Each process imports them all."""
    if config.option.markexpr not in ("long", "not long") or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text()
    wanted = "mark.long" in text if config.option.markexpr == "long" else "pytestmark = pytest.mark.long\n" not in text
    return None if wanted else True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest modules first. Otherwise the last of them would run alone, while the other processes have nothing."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """The garbage collector need not search what was imported and collected: that is used until the end."""
    spare_long_lived()


def pytest_unconfigure(config: pytest.Config) -> None:
    guard = config.stash.get(_guard, None)
    if guard is None:
        return
    if given := os.environ.get("TEST_DATABASE_URL"):
        with contextlib.suppress(psycopg.Error, AssertionError), psycopg.connect(given, autocommit=True) as conn:
            for name in _list_databases(conn):
                _drop(conn, name)
    try:
        guard.communicate(timeout=GUARD_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{os.environ[_FOLDER]} is still being removed in the background.", file=sys.stderr)


def _memory() -> Path | None:
    """The folder for files in memory, if it is large enough. None: the usual folder for temporary files.

    Nearly every test copies a database, and creating its 300 files takes 20 times as long on ext4.
    """
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    # Containers often forbid running programs there, and some tests run a copy of this repository.
    usable = found.f_bavail * found.f_frsize >= MEMORY_BYTES and not found.f_flag & os.ST_NOEXEC
    return MEMORY if usable and os.access(MEMORY, os.W_OK) else None


@pytest.fixture(scope="session")
def session_folder() -> Path:
    """The run's folder. Any account may enter it. At the end of the run, its servers are stopped and it is removed."""
    return Path(os.environ[_FOLDER])


@pytest.fixture(autouse=True)
def from_noon() -> Iterator[None]:
    """The first callback of each test is received at NOON, although earlier tests in this process made callbacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factories, "_received", count())
        yield


@pytest.fixture(autouse=True)
def distributable() -> Iterator[None]:
    """Fails a test in which the service ran a statement that a distributed Postgres refuses."""
    yield
    if faults := statements.take_faults():
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.fixture
def server_dir(session_folder: Path) -> Iterator[Path]:
    """A new folder for the test's own server. Its path is short, and the server's account may enter it.

    It is removed after the test: all folders together would need gigabytes, and removing them at the end takes minutes.
    """
    folder = Path(tempfile.mkdtemp(prefix="s", dir=session_folder))
    folder.chmod(0o711)
    yield folder
    with contextlib.suppress(EmbeddedPostgresError):  # the server did not stop; the guard tries again
        remove(folder)


@pytest.fixture(scope="session")
def server_url(session_folder: Path) -> Iterator[str]:
    """The run's server, with the name of a database that no test changes."""
    with contextlib.ExitStack() as stack:
        if not (url := os.environ.get("TEST_DATABASE_URL")):
            url = stack.enter_context(EmbeddedPostgres(session_folder / "shared", HURRIED)).conninfo
        yield url
        _administration(url).close()


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """The name of the migrated database that the tests copy. The first process that needs it creates it."""
    name = f"{_prefix()}template"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("select pg_advisory_lock(hashtext(%s))", [name])
        if name not in _list_databases(conn):
            unfinished = f"{name}_unfinished"
            _drop(conn, unfinished)
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(unfinished)))
            migrate(make_conninfo(server_url, dbname=unfinished))
            _execute_when_unused(
                conn, sql.SQL("alter database {} rename to {}").format(sql.Identifier(unfinished), sql.Identifier(name))
            )
    return name


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """The test's own migrated database."""
    with fresh_database(server_url, template) as url:
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """The test's own empty database."""
    with fresh_database(server_url, "template1") as url:
        yield url


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    """A connection to `database_url`, without autocommit. Uncommitted changes are rolled back at the end."""
    with contextlib.closing(connect(database_url, name="test")) as conn:
        yield conn


@contextlib.contextmanager
def fresh_database(server_url: str, template: str) -> Iterator[str]:
    name = f"{_prefix()}{secrets.token_hex(6)}"
    conn = _administration(server_url)
    create = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
    if conn.info.server_version >= 150000:
        create += sql.SQL(" strategy file_copy")
    _execute_when_unused(conn, create)
    try:
        yield make_conninfo(server_url, dbname=name)
    finally:
        _drop(conn, name)


@cache
def _administration(server_url: str) -> psycopg.Connection:
    """This process's connection for creating and dropping databases. A new one would take a third of that time."""
    return psycopg.connect(server_url, autocommit=True)


def _prefix() -> str:
    run = Path(os.environ[_FOLDER]).name.removeprefix("receiver-tests-")
    return f"receiver_test_{run}_"


def _list_databases(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute("select datname from pg_database where starts_with(datname, %s)", [_prefix()])
    return [name for (name,) in rows]


def _drop(conn: psycopg.Connection, name: str) -> None:
    _execute_when_unused(conn, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _execute_when_unused(conn: psycopg.Connection, statement: sql.Composed) -> None:
    """Execute a statement that fails while a database has other sessions, and repeat it until it succeeds.

    Postgres waits five seconds for sessions that are being closed. On a busy machine that can be too short.
    """

    def done() -> bool:
        try:
            conn.execute(statement)
        except psycopg.errors.ObjectInUse:
            return False
        return True

    eventually(done, otherwise=lambda: statement.as_string(conn))


@pytest.fixture(scope="module")
def primary(session_folder: Path) -> Iterator[Postgres]:
    """The module's own migrated server, from which standbys can stream."""
    with migrated_primary(session_folder) as server:
        yield server


@pytest.fixture
def standby(primary: Postgres, server_dir: Path) -> Iterator[Postgres]:
    """A standby that streams from `primary`."""
    with standby_of(primary, server_dir) as server:
        yield server
