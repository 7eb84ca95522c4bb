"""Real Postgres for every test that asks for it.

The process that runs pytest (with xdist: its controller) names a folder; whichever process needs a
database first starts an embedded server in it, and the others adopt it. A guard, in a session of its own,
waits for the end of pytest, however that comes about, and then stops every server under the folder and
removes it. `TEST_DATABASE_URL` names a server to use instead; its role must be allowed to create databases.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
from tests import factories
from tests.acceptance.postgres import Postgres
from tests.leftovers import remove
from tests.replication import migrated_primary, standby_of
from tests.waiting import eventually

# A busy neighbour is no failure: what must be quick, its own test measures.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

_FOLDER = "RECEIVER_TEST_FOLDER"
"""Environment, from controller to workers: the run's folder, whose name is part of its databases' names."""

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
"""Server settings that trade durability for speed; no test here cuts the power."""

MEMORY = Path("/dev/shm")  # noqa: S108 a folder of a random name is made in it
MEMORY_BYTES = 4 << 30
"""Several times what a run has had there at once."""

GUARD_SECONDS = 300
"""How long the end of a run waits until its servers are stopped and its folder is gone."""

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
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.mkdtemp(prefix="receiver-tests-", dir=_memory())
    Path(folder).chmod(0o711)  # started by root, the server runs as another account, which must pass
    os.environ[_FOLDER] = folder
    root = str(Path(__file__).resolve().parents[1])
    config.stash[_guard] = subprocess.Popen(
        [sys.executable, "-c", _GUARD, folder, root], stdin=subprocess.PIPE, start_new_session=True
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not even collected by `make test`: schemathesis makes up the cases then, for seconds, in each worker."""
    return True if collection_path.name == "test_contract_fuzz.py" and config.option.markexpr == "not long" else None


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
        print(f"{os.environ[_FOLDER]} is still being removed; that goes on by itself.", file=sys.stderr)


def _memory() -> Path | None:
    """Where files are kept in memory, if there is room for the run's: a database is copied for nearly every test, and
    creating its 300 files takes ext4 twenty times as long. None: the usual folder for temporary files.
    """
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    # Containers often forbid to run what is there, and some tests run a copy of this repository.
    roomy = found.f_bavail * found.f_frsize >= MEMORY_BYTES and not found.f_flag & os.ST_NOEXEC
    return MEMORY if roomy and os.access(MEMORY, os.W_OK) else None


@pytest.fixture(scope="session")
def session_folder() -> Path:
    """A folder of this run that any account may enter, removed at its end with every server in it stopped."""
    return Path(os.environ[_FOLDER])


@pytest.fixture(autouse=True)
def from_noon() -> Iterator[None]:
    """Each test's callbacks begin to come in at noon, however many this process has made for others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factories, "_received", count())
        yield


@pytest.fixture
def server_dir(session_folder: Path) -> Iterator[Path]:
    """A new folder for a server of the test's own: short, and open to the account the server runs as.

    Removed after the test: those of all tests together would take gigabytes, and the end of the run minutes.
    """
    folder = Path(tempfile.mkdtemp(prefix="s", dir=session_folder))
    folder.chmod(0o711)
    yield folder
    with contextlib.suppress(EmbeddedPostgresError):  # it does not end; the guard tries again
        remove(folder)


@pytest.fixture(scope="session")
def server_url(session_folder: Path) -> Iterator[str]:
    """The run's server, at a database that tests leave alone."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with EmbeddedPostgres(session_folder / "shared", HURRIED) as server:
        yield server.conninfo


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """Name of the run's migrated database, made by the first process that wants one and then copied."""
    name = f"{_prefix()}template"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("select pg_advisory_lock(hashtext(%s))", [name])
        if name not in _list_databases(conn):
            unfinished = f"{name}_unfinished"
            _drop(conn, unfinished)
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(unfinished)))
            migrate(make_conninfo(server_url, dbname=unfinished))
            _alone(
                conn, sql.SQL("alter database {} rename to {}").format(sql.Identifier(unfinished), sql.Identifier(name))
            )
    return name


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with fresh_database(server_url, template) as url:
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database of the test's own without our schema."""
    with fresh_database(server_url, "template1") as url:
        yield url


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    """A connection to `database_url`, autocommit off; what the test leaves uncommitted is rolled back."""
    with contextlib.closing(connect(database_url, name="test")) as conn:
        yield conn


@contextlib.contextmanager
def fresh_database(server_url: str, template: str) -> Iterator[str]:
    name = f"{_prefix()}{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        create = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        if conn.info.server_version >= 150000:
            create += sql.SQL(" strategy file_copy")
        _alone(conn, create)
    try:
        yield make_conninfo(server_url, dbname=name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as conn:
            _drop(conn, name)


def _prefix() -> str:
    run = Path(os.environ[_FOLDER]).name.removeprefix("receiver-tests-")
    return f"receiver_test_{run}_"


def _list_databases(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute("select datname from pg_database where starts_with(datname, %s)", [_prefix()])
    return [name for (name,) in rows]


def _drop(conn: psycopg.Connection, name: str) -> None:
    _alone(conn, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _alone(conn: psycopg.Connection, statement: sql.Composed) -> None:
    """Carry out what nobody else may be in a database for: on a busy machine, sessions that have been ended may take
    longer to go than the five seconds that Postgres gives them.
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
    """A server of the module's own, migrated, which standbys may stream from."""
    with migrated_primary(session_folder) as server:
        yield server


@pytest.fixture
def standby(primary: Postgres, server_dir: Path) -> Iterator[Postgres]:
    """A standby that streams from `primary`."""
    with standby_of(primary, server_dir) as made:
        yield made
