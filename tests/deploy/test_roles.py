"""Two database roles: the owner migrates, and the service runs with a role that cannot change the schema."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from receiver.changes.slots import rotate
from receiver.database.pool import connect
from receiver.intake.signing_keys import fingerprint
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests.acceptance.machines import Machine
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import ROOT, Answer, ask, clean_environment, run_command
from tests.factories import make_batch
from tests.waiting import eventually
from tests.web.asking import SECRET, results_path
from tests.web.gunicorn import ENTRY_POINTS, GUNICORN, gunicorn_process

pytestmark = pytest.mark.long

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SQL, INTAKE_SQL = ((DEPLOY / name).read_text() for name in ("roles.sql", "intake-role.sql"))
NUMBERS = [f"617555{1000 + row}" for row in range(20)]


@pytest.fixture
def server(server_dir: Path) -> Iterator[Postgres]:
    """A server whose database belongs to an owner without other privileges."""
    with Postgres(server_dir) as server:
        server.execute(
            "create role table_owner login",
            "create role receiver_app login",
            "create role receiver_intake login",
            "alter database receiver owner to table_owner",
        )
        yield server


def url(server: Postgres, role: str) -> str:
    return server.url.replace("receiver@", f"{role}@")


def migrate(server: Postgres) -> None:
    migrated = run_command("migrate", environment={"DATABASE_URL": url(server, "table_owner"), "SECRET_KEY": "x" * 40})
    assert migrated.returncode == 0, migrated.stderr


def check_rights(server: Postgres) -> None:
    """Check that the role can only read and write rows, also in tables of later migrations."""
    with psycopg.connect(url(server, "table_owner"), autocommit=True) as owner:
        owner.execute("create table of_a_later_migration (id bigint generated always as identity, word text)")
    with psycopg.connect(url(server, "receiver_app"), autocommit=True) as app:
        app.execute("insert into of_a_later_migration (word) values ('a')")
        app.execute("update of_a_later_migration set word = 'b'")
        assert app.execute("select id, word from of_a_later_migration for update").fetchall() == [(1, "b")]
        app.execute("delete from of_a_later_migration")
        app.execute("select nextval('event_id')")
        app.execute("update upkeep set next_at = now() - interval '5 days' where task = 'slots'")
        with app.transaction():
            assert rotate(app), "it may empty the partitions of old events"
        for forbidden in (
            "create table mine ()",
            "create temporary table mine ()",
            "alter table batch add column mine text",
            "create index on batch (name)",
            "truncate callback",
            "truncate feed_entry",
            "drop table batch",
            "create function mine() returns int language sql as 'select 1'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(forbidden.encode())


@pytest.mark.parametrize("first", ["roles", "migrate"])
def test_role_of_the_service_reads_and_writes_rows_and_nothing_else(server: Postgres, first: str) -> None:
    if first == "migrate":  # an installation that used one role until now
        migrate(server)
    server.execute(SQL)
    server.execute(SQL)
    migrate(server)
    check_rights(server)


def test_service_works_with_a_role_that_cannot_change_the_schema(server: Postgres, server_dir: Path) -> None:
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
            headers = {"Authorization": f"Bearer {key}"}
            contacts = server_dir / "contacts.csv"
            contacts.write_text("destination,name\n" + "".join(f"{number},Ana\n" for number in NUMBERS))
            queued = commands.run("queue", str(contacts), "--application", "7", "--deployment", "3", "--watch")
            assert "100%, 20 ended" in queued
            rows = list(csv.DictReader(io.StringIO(commands.run("export", "1"))))
            assert [row["destination"] for row in rows] == NUMBERS
            assert get(machine, "/api/v1/summary", headers).status == 200
            assert get(machine, "/api/v1/callbacks", headers).status == 200
            eventually(lambda: get(machine, "/readyz", headers).json["status"] == "ready")
            assert get(machine, "/metrics", headers).status == 200

            refused = commands.run(
                "queue", str(contacts), "--application", "7", "--deployment", "404", "--watch", status=1
            )
            assert "refused" in refused
            unknown = commands.run("queue", str(contacts), "--application", "7", "--deployment", "500")
            batch_id = re.findall(r"\d+", unknown)[0]
            eventually(lambda: "unknown" in commands.run("status", batch_id))
            commands.run("resolve", batch_id, "1", "--queued", "--note", "seen on their page", "--yes")
            commands.run("replay", "--state", "applied")
            commands.run("suppress", NUMBERS[0], "--reason", "opted_out")
            commands.run("suppress", NUMBERS[1])
            commands.run("erase", NUMBERS[0], *erase_options(commands))
            commands.run("unsuppress", NUMBERS[0])
            commands.run("verify")
            commands.run("purge", "--simulated")
            commands.run("purge", "--older-than", "0")
            commands.run("keys", "list")
            commands.run("keys", "revoke", "team")
            found = [line.split() for line in commands.run("doctor", status=None).splitlines()]
            # `doctor` reports that the test's server runs without fsync.
            assert {each[1] for each in found if each[0] == "failure"} == {"settings"}
        log = machine.log.read_text()
        assert "permission denied" not in log and "Traceback" not in log, log[-3000:]


class Commands:
    """Commands with the environment of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._environment = machine.environment

    def run(self, *arguments: str, status: int | None = 0) -> str:
        """Run a command and check its exit status (None: any). Returns its output."""
        ran = run_command(*arguments, environment=self._environment)
        assert "permission denied" not in ran.stderr + ran.stdout, ran
        assert status is None or ran.returncode == status, ran
        return ran.stdout


def get(machine: Machine, path: str, headers: dict[str, str]) -> Answer:
    return ask(machine.url + path, headers=headers)


def erase_options(commands: Commands) -> list[str]:
    """`--yes`, if the command asks for confirmation."""
    return ["--yes"] if "--yes" in commands.run("erase", "--help") else []


def test_intake_works_with_a_role_that_adds_callbacks_and_nothing_else(server: Postgres, server_dir: Path) -> None:
    server.execute(SQL)
    migrate(server)
    with connect(url(server, "table_owner"), name="test") as owner:
        for _ in range(2):
            owner.execute(INTAKE_SQL.encode())
        batch_id = make_batch(owner, send=False)
        worker_id = register_worker(owner, "test", 1, fingerprint(SECRET))
        assert claim_submission(owner, worker_id, signing_key=fingerprint(SECRET)) is not None
        owner.commit()
    intake = url(server, "receiver_intake")
    settings = {"DATABASE_URL": intake, "DATA_DIR": str(server_dir), "SECRET_KEY": SECRET}

    def check(**changes: str) -> str:
        return run_command("doctor", "--deploy", environment={**settings, **changes}).stdout

    # The role may read what the checks need.
    output = check()
    assert "ok       journal" in output and "ok       keys           1 submissions" in output, output
    assert "failure  keys           SECRET_KEY lacks the key" in check(SECRET_KEY="another secret that is long enough")
    command = [*GUNICORN, *ENTRY_POINTS["intake alone"]]
    environment = clean_environment(**{**settings, "SECRET_KEY": "another secret that is long enough"})
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2 and refused.stderr.startswith("receiver: SECRET_KEY lacks the key"), refused

    folder = server_dir / "intake"
    folder.mkdir()
    with gunicorn_process(folder, intake, entry_point="intake alone") as (_, port):
        address = f"http://127.0.0.1:{port}"
        eventually(lambda: ask(f"{address}/readyz").status == 200)
        assert ask(address + results_path(batch_id), "POST", b"{}").json == {"status": "stored"}
        eventually(lambda: server.execute("select stored from callback_budget") == [(1,)])
    assert server.execute("select count(*) from callback") == [(1,)]
    log = (folder / "gunicorn.log").read_text()
    assert "permission denied" not in log and "budget_not_reported" not in log, log[-3000:]

    with psycopg.connect(intake, autocommit=True) as conn:
        for forbidden in (
            "select line from call",
            "select * from api_key",
            "select * from submission",
            "select * from result",
            "update callback set body = ''",
            "delete from callback",
            "delete from waiting",
            "update submission set state = 'pending'",
            "truncate callback",
            "create table mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(forbidden.encode())
