"""The documents' commands for backup and restore, and those that read the service's environment, unchanged."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from receiver.database.pool import Connection, connect
from receiver.embedded_postgres.account import account_for
from receiver.embedded_postgres.installation import programs_for
from receiver.release.presence import register_worker
from receiver.summary.batches import get_batch
from receiver.supervisor.ports import free_port
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import ROOT, SAMPLES, clean_environment, run_command
from tests.documents.blocks import Terminal, commands_of, make_checkout
from tests.factories import make_batch
from tests.web.asking import SECRET

pytestmark = pytest.mark.long

COMMAND = ".venv/bin/python -m receiver"
QUEUE = f"{COMMAND} queue {SAMPLES / 'contacts.csv'} --application 7 --deployment 3\n"


def documented(document: str, start: str) -> list[str]:
    return [block.source for block in commands_of(document) if block.source.startswith(start)]


@pytest.fixture
def checkout(server_dir: Path) -> Path:
    return make_checkout(server_dir / "clone")


def test_data_folder_of_make_run_is_backed_up_and_restored(checkout: Path) -> None:
    backup, restore = documented("docs/backups.md", "FOLDER=")
    environment = clean_environment(PORT=str(free_port()), WEB_CONCURRENCY="1", LC_ALL="C.UTF-8")
    with Terminal(checkout, environment) as other:
        with Terminal(checkout, environment) as serving:
            serving.start("make run\n")
            assert "Batch 1 is stored" in other.run(QUEUE)
            assert "4 ended" in other.run(f"{COMMAND} status 1 --watch\n")
        other.run(backup)
        key = (checkout / "var" / "api-key").read_text()
        with Terminal(checkout, environment) as serving:
            serving.start("make run\n")
            assert "Batch 2 is stored" in other.run(QUEUE)
        other.run(restore)
        with Terminal(checkout, environment) as serving:
            serving.start("make run\n")
            assert (checkout / "var" / "api-key").read_text() == key
            assert "4 ended" in other.run(f"{COMMAND} status 1\n")
            assert "Batch 2 does not exist." in other.run(f"{COMMAND} status 2 || true\n")
            assert re.search(r"Batch 1\d{6} is stored", other.run(QUEUE))
            assert other.run(f"{COMMAND} verify\n").startswith("The balance holds")


@pytest.fixture
def postgres(server_dir: Path) -> Iterator[Postgres]:
    """A server as in docs/systemd.md: `receiver` owns the database, and no role of the service may create one."""
    with Postgres(server_dir) as postgres:
        postgres.execute("create role boss login superuser")
        with psycopg.connect(make_conninfo(postgres.url, user="boss"), autocommit=True) as conn:
            conn.execute("alter role receiver rename to first")  # the superuser of the tests
            conn.execute("create role receiver login password 'sesame'")
            conn.execute("create role receiver_app login password 'x'")
            conn.execute("alter database receiver owner to receiver")
        yield postgres


def make_runuser(folder: Path, **superuser: str) -> None:
    """Make a `runuser` that keeps the account, which only root can change. As `postgres`, it connects as superuser."""
    exported = "".join(f"export {name}={value}; " for name, value in superuser.items())
    path = folder / "runuser"
    path.write_text(
        f'#!/bin/sh\n[ "$1 $3" = "-u --" ] || exit 9\n[ "$2" = receiver ] || {{ {exported}:; }}\nshift 3\nexec "$@"\n'
    )
    path.chmod(0o755)


def shell_environment(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a shell that has no settings of the service, but our `runuser` and Postgres' programs."""
    programs = programs_for(account_for(folder / "postgres"))
    path = os.pathsep.join([str(folder), str(programs), os.environ["PATH"]])
    return clean_environment(PATH=path, LC_ALL="C.UTF-8", **variables)


class Machine:
    """The two files and the command `receiver` that docs/systemd.md installs, in `folder`, which is on PATH."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self._paths = {
            "/etc/receiver/environment": str(folder / "environment"),
            "/etc/receiver/migrate": str(folder / "migrate"),
            "/opt/receiver": str(checkout),
        }
        self.folder = folder
        path = folder / "receiver"
        path.write_text(self.localized((ROOT / "deploy" / "systemd" / "receiver").read_text()))
        path.chmod(0o755)

    def localized(self, source: str) -> str:
        for documented, real in self._paths.items():
            source = source.replace(documented, real)
        return source

    def fill_in(self, name: str, **variables: str) -> None:
        lines = [f"{variable}='{value}'" for variable, value in variables.items()]
        (self.folder / name).write_text("\n".join(["# A comment", *lines, "PLUM_KEY=\n"]))


def test_dump_is_restored_although_no_role_of_the_service_may_create_a_database(
    postgres: Postgres, checkout: Path, tmp_path: Path
) -> None:
    dump, restore = documented("docs/backups.md", ". /etc/receiver/migrate")
    machine = Machine(tmp_path, checkout)
    address = f"127.0.0.1:{postgres.port}"

    def name_database(name: str) -> None:
        machine.fill_in("environment", DATABASE_URL=f"postgresql://receiver_app:x@{address}/{name}", SECRET_KEY=SECRET)
        machine.fill_in("migrate", DATABASE_URL=f"postgresql://receiver:sesame@{address}/{name}")

    name_database("receiver")
    queue = f"receiver queue {SAMPLES / 'contacts.csv'} --application 7 --deployment 3\n"
    make_runuser(tmp_path, PGHOST="127.0.0.1", PGPORT=str(postgres.port), PGUSER="boss")
    with Terminal(checkout, shell_environment(tmp_path)) as terminal:
        terminal.run("runuser -u postgres -- psql --dbname=receiver --file=deploy/roles.sql\n")
        terminal.run("receiver migrate\n")
        assert "Batch 1 is stored" in terminal.run(queue)
        terminal.run(machine.localized(dump))
        assert "no right" in terminal.run('createdb --maintenance-db="$DATABASE_URL" mine 2>&1 || echo no right\n')
        assert "Batch 2 is stored" in terminal.run(queue)
        terminal.run(machine.localized(restore))
        name_database("restored")
        assert "The restored database is ready." in terminal.run("receiver migrate --after-restore\n")
        assert terminal.run("receiver verify\n").startswith("The balance holds")
        assert "batch 1 " in terminal.run("receiver status 1\n")
        assert "Batch 2 does not exist." in terminal.run("receiver status 2 || true\n")
        assert re.search(r"Batch 1\d{6} is stored", terminal.run(queue))


def test_first_key_is_created_with_the_environment_of_the_service(
    database_url: str, checkout: Path, tmp_path: Path
) -> None:
    (command,) = documented("docs/deployment.md", "receiver keys create")
    Machine(tmp_path, checkout).fill_in(
        "environment", DATABASE_URL=database_url, SECRET_KEY="a & b $c # d of the tests", PLUM_USER=""
    )
    make_runuser(tmp_path)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    with Terminal(tmp_path / "elsewhere", shell_environment(tmp_path)) as terminal:
        assert re.search(r"^rr_\S+$", terminal.run(command), re.MULTILINE)
        assert "first" in terminal.run("receiver keys list\n")


def test_restored_database_with_a_running_worker_is_not_changed(database_url: str, conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    environment = clean_environment(DATABASE_URL=database_url, SECRET_KEY=SECRET)
    with connect(database_url, name="worker", autocommit=True) as other:
        register_worker(other, "here", 1)
        refused = run_command("migrate", "--after-restore", environment=environment)
        assert refused.returncode == 1 and "1 workers are running on this database" in refused.stderr
        assert get_batch(conn, batch_id).state == "queueing"
