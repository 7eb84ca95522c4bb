"""PgBouncer (docs/scaling.md): everything works in session mode. In transaction mode, workers do not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from receiver.database.migrations import migrate
from receiver.database.pool import connect, open_pool
from receiver.results.settler import Settler
from receiver.supervisor.ports import free_port
from tests.acceptance.postgres import Postgres
from tests.factories import differences, journal, make_batch, make_callback, phone_number, result_body
from tests.waiting import eventually

PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path(PGBOUNCER).exists(), reason="pgbouncer is not installed (apt-get install pgbouncer)"),
]

_CONFIGURATION = """\
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listens}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 4
ignore_startup_parameters = extra_float_digits,options
"""


@contextmanager
def bouncer(folder: Path, database_url: str, mode: str) -> Iterator[str]:
    """The address of the database through PgBouncer, which has at most 4 connections to it."""
    given = conninfo_to_dict(database_url)
    listens = free_port()
    file = folder / f"{mode}.ini"
    file.write_text(
        _CONFIGURATION.format(
            host=given["host"], port=given.get("port", 5432), user=given["user"], listens=listens, mode=mode
        )
    )
    file.chmod(0o644)
    folder.chmod(0o755)
    # It refuses to run as root.
    account: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    with (folder / "pgbouncer.log").open("ab") as log:
        running = subprocess.Popen([PGBOUNCER, str(file)], stdout=log, stderr=log, cwd="/", **account)
    url = make_conninfo(database_url, host="127.0.0.1", port=listens)
    try:
        eventually(lambda: _answers(url))
        yield url
    finally:
        running.kill()
        running.wait()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def primary(server_dir: Path) -> Iterator[Postgres]:
    with Postgres(server_dir) as postgres:
        migrate(postgres.url)
        yield postgres


def settle(url: str) -> int:
    pool = open_pool(url, max_size=3, name="settler")
    try:
        return Settler(pool).settle_group()
    finally:
        pool.close()


def test_session_mode_works_and_transaction_mode_does_not(primary: Postgres, server_dir: Path) -> None:
    with closing(connect(primary.url, name="test")) as conn:
        batch_id = make_batch(conn, [phone_number(index) for index in range(20)])
        journal(conn, *(make_callback(batch_id, result_body(phone_number(index))) for index in range(20)))
        with bouncer(server_dir, primary.url, "session") as url:
            assert settle(url) == 20
        with bouncer(server_dir, primary.url, "transaction") as url:
            if b" 1.1" in subprocess.run([PGBOUNCER, "--version"], capture_output=True).stdout:  # 1.21 has them
                # The second settler gets connections on which the first has prepared statements of the same names.
                with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
                    for _ in range(5):
                        settle(url)
            # A worker shows with such a lock that it is alive.
            psycopg.connect(url, autocommit=True).execute("select pg_advisory_lock(987654321)").connection.close()
            held = "select from pg_locks where locktype = 'advisory' and objid = 987654321 and granted"
            assert conn.execute(held).rowcount == 1, "the lock outlives its session"
        conn.rollback()
        journal(conn, *(make_callback(batch_id, result_body(phone_number(index))) for index in range(20)))
        assert settle(primary.url) == 20
        assert differences(conn) == []
