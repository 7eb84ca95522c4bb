"""Two database roles: the owner migrates, and the whole service works with one that can change no table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests.acceptance.machines import Machine
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import Answer, ask, run_command
from tests.waiting import eventually

pytestmark = pytest.mark.long

SQL = (Path(__file__).resolve().parents[2] / "deploy" / "roles.sql").read_text()
NUMBERS = [f"617555{1000 + row}" for row in range(20)]


@pytest.fixture
def server(server_dir: Path) -> Iterator[Postgres]:
    """A server whose database belongs to an owner without any privilege beyond that."""
    with Postgres(server_dir) as server:
        server.execute(
            "create role table_owner login",
            "create role receiver_app login",
            "alter database receiver owner to table_owner",
        )
        yield server


def url(server: Postgres, role: str) -> str:
    return server.url.replace("receiver@", f"{role}@")


def migrate(server: Postgres) -> None:
    migrated = run_command("migrate", environment={"DATABASE_URL": url(server, "table_owner"), "SECRET_KEY": "x" * 40})
    assert migrated.returncode == 0, migrated.stderr


def check_rights(server: Postgres) -> None:
    """Rows may be read and written, in tables of later migrations too; nothing else."""
    with psycopg.connect(url(server, "table_owner"), autocommit=True) as owner:
        owner.execute("create table of_a_later_migration (id bigint generated always as identity, word text)")
    with psycopg.connect(url(server, "receiver_app"), autocommit=True) as app:
        app.execute("insert into of_a_later_migration (word) values ('a')")
        app.execute("update of_a_later_migration set word = 'b'")
        assert app.execute("select id, word from of_a_later_migration for update").fetchall() == [(1, "b")]
        app.execute("delete from of_a_later_migration")
        for forbidden in (
            "create table mine ()",
            "create temporary table mine ()",
            "alter table batch add column mine text",
            "create index on batch (name)",
            "truncate callback",
            "drop table batch",
            "create function mine() returns int language sql as 'select 1'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(forbidden.encode())


@pytest.mark.parametrize("first", ["roles", "migrate"])
def test_role_of_the_service_reads_and_writes_rows_and_nothing_else(server: Postgres, first: str) -> None:
    if first == "migrate":  # an installation that had one role until now
        migrate(server)
    server.execute(SQL)
    server.execute(SQL)
    migrate(server)
    check_rights(server)


def test_whole_service_works_with_the_role_that_can_change_no_table(server: Postgres, server_dir: Path) -> None:
    server.execute(SQL)
    migrate(server)
    with Simulator(Settings(speed=1e6)) as provider:
        environment = {
            "DATABASE_URL": url(server, "receiver_app"),
            "SECRET_KEY": "a secret that is long enough",
            "PLUM_URL": provider.url,
            "PLUM_USER": "simulator",
            "PLUM_KEY": "simulator",
        }
        with Machine(server_dir / "machine", works=True, **environment) as machine:
            machine.await_start()
            commands = Commands(machine)
            key = commands.run("keys", "create", "team", "--scope", "admin").splitlines()[-1]
            asked = {"Authorization": f"Bearer {key}"}
            contacts = server_dir / "contacts.csv"
            contacts.write_text("destination,name\n" + "".join(f"{number},Ana\n" for number in NUMBERS))
            queued = commands.run("queue", str(contacts), "--application", "7", "--deployment", "3", "--watch")
            assert "100%, 20 ended" in queued
            rows = list(csv.DictReader(io.StringIO(commands.run("export", "1"))))
            assert [row["destination"] for row in rows] == NUMBERS
            assert get(machine, "/api/v1/summary", asked).status == 200
            assert get(machine, "/api/v1/callbacks", asked).status == 200
            eventually(lambda: get(machine, "/readyz", asked).told["status"] == "ready")
            assert get(machine, "/metrics", asked).status == 200

            refused = commands.run(
                "queue", str(contacts), "--application", "7", "--deployment", "404", "--watch", wrong=1
            )
            assert "refused" in refused
            unknown = commands.run("queue", str(contacts), "--application", "7", "--deployment", "500")
            batch_id = re.findall(r"\d+", unknown)[0]
            eventually(lambda: "unknown" in commands.run("status", batch_id))
            commands.run("resolve", batch_id, "1", "--queued", "--note", "seen on their page", "--yes")
            commands.run("replay", "--state", "applied")
            commands.run("erase", NUMBERS[0], *erase_options(commands))
            commands.run("verify")
            commands.run("purge", "--simulated")
            commands.run("purge", "--older-than", "0")
            commands.run("keys", "list")
            commands.run("keys", "revoke", "team")
            found = [line.split() for line in commands.run("doctor", wrong=None).splitlines()]
            # The test's own server does without fsync.
            assert {each[1] for each in found if each[0] == "failure"} == {"settings"}
        log = machine.log.read_text()
        assert "permission denied" not in log and "Traceback" not in log, log[-3000:]


class Commands:
    """Commands in a machine's surroundings."""

    def __init__(self, machine: Machine) -> None:
        self._environment = machine.environment

    def run(self, *arguments: str, wrong: int | None = 0) -> str:
        """What it prints; its exit status must be `wrong`, None: any."""
        ran = run_command(*arguments, environment=self._environment)
        assert "permission denied" not in ran.stderr + ran.stdout, ran
        assert wrong is None or ran.returncode == wrong, ran
        return ran.stdout


def get(machine: Machine, path: str, headers: dict[str, str]) -> Answer:
    return ask(machine.url + path, headers=headers)


def erase_options(commands: Commands) -> list[str]:
    """Without a question, where it asks one."""
    return ["--yes"] if "--yes" in commands.run("erase", "--help") else []
