"""A start that fails prints one line with the reason and what to do next, never a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import cast

import pytest
from psycopg.conninfo import make_conninfo

from receiver.database.migrations import migrate
from receiver.database.pool import connect
from receiver.intake.signing_keys import fingerprint
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.supervisor.ports import free_port
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import ROOT, SAMPLES, ask, clean_environment, run_command, without_database_line
from tests.database.proxy import Proxy
from tests.factories import make_batch
from tests.waiting import eventually

pytestmark = pytest.mark.long

PASSWORD = "the-password-of-nobody"
RECEIVER = [sys.executable, "-m", "receiver"]
COMMANDS = {
    "serve": [*RECEIVER, "serve"],
    "migrate": [*RECEIVER, "migrate"],
    "work": [*RECEIVER, "work"],
    "gunicorn": [sys.executable, "-m", "gunicorn", "-c", "python:receiver.web.gunicorn_conf", "app:app"],
    "queue": [*RECEIVER, "queue", str(SAMPLES / "contacts.csv"), "--application", "7", "--deployment", "3"],
    "status": [*RECEIVER, "status", "1"],
}
ALL = tuple(COMMANDS)
NEEDING_A_DATABASE = tuple(name for name in COMMANDS if name != "gunicorn")
"""gunicorn starts without a database, because it can still receive callbacks."""
SERVING = ("serve", "gunicorn")
USING = tuple(name for name in COMMANDS if name != "serve")
"""They use a database but never create one."""


@dataclass(frozen=True, slots=True)
class Ended:
    command: str
    status: int
    output: str
    error_output: str


class _OlderServer(Proxy):
    """A connection to a server that reports Postgres 13."""

    def _pump(self, source: socket.socket, target: socket.socket, gate: Event, passing: int = 0) -> None:
        super()._pump(cast(socket.socket, _Older(source)), target, gate, passing)


class _Older:
    """Read from a socket and replace the version with one of equal length (Postgres manual: 53.7)."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source

    def recv(self, size: int) -> bytes:
        block = self._source.recv(size)
        return re.sub(rb"(?<=server_version\x00)\d\d\.(\d+)", lambda found: b"13." + b"9" * len(found[1]), block)


@pytest.fixture(scope="module")
def postgres(session_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that requires a password from `locked`, and has a database that a later release has migrated."""
    folder = Path(tempfile.mkdtemp(prefix="refusing-", dir=session_folder))
    folder.chmod(0o755)
    rules = folder / "pg_hba.conf"
    rules.write_text("host all locked 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
    rules.chmod(0o644)
    with Postgres(folder, {"hba_file": str(rules)}) as postgres:
        postgres.execute("create role locked login superuser password 'another'")
        postgres.execute("create database later")
        later = make_conninfo(postgres.url, dbname="later")
        migrated = run_command(
            "migrate", environment=service_environment(tmp_path_factory.mktemp("m"), DATABASE_URL=later)
        )
        assert migrated.returncode == 0, migrated.stderr
        postgres.execute("insert into schema_migration values ('9999_later.sql', 'x')", database="later")
        yield postgres


def service_environment(folder: Path, **variables: str) -> dict[str, str]:
    """An environment in which everything starts, with these changes. An empty variable is not set."""
    usual = {
        "DATA_DIR": str(folder / "data"),
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "2",
        "SECRET_KEY": "a secret that is long enough",
        "PLUM_URL": "http://127.0.0.1:9",
        "PLUM_USER": "nobody",
        "PLUM_KEY": "no key of anybody",
        "LOG_FORMAT": "json",
    }
    return clean_environment(**{**usual, **variables})


def run_all(names: Sequence[str], environment: Mapping[str, str], *, root: Path = ROOT) -> list[Ended]:
    """Run all to their end in parallel; they share nothing."""

    def run(name: str) -> Ended:
        with subprocess.Popen(
            COMMANDS[name], cwd=root, env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, error_output = process.communicate(timeout=90)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return Ended(name, process.returncode, output, without_database_line(error_output))

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(run, names))


def check_refused(ended: Sequence[Ended], status: int, *texts: str) -> None:
    """Check that each printed one line with these texts, and has this exit status."""
    for each in ended:
        assert (each.command, each.status) == (each.command, status), each
        assert each.error_output.startswith("receiver: "), each
        assert each.error_output.count("\n") == 1, each
        assert [word for word in texts if word not in each.error_output] == [], each
        assert "Traceback" not in each.output and PASSWORD not in each.output + each.error_output, each


DATABASE_FAULTS = {
    "unreachable": ("Connection refused", "Check that Postgres runs and that DATABASE_URL is correct."),
    "wrong password": ("password authentication failed", "DATABASE_URL"),
    "no such database": ('database "missing" does not exist', "DATABASE_URL"),
    "older server": ("The server is Postgres 13; 14 or later is needed.", "DATABASE_URL"),
    "newer schema": ("9999_later.sql", "Start that release, or restore a backup"),
    "no schema": ("0001_initial.sql", "run `python -m receiver migrate`"),
}


@pytest.fixture(params=DATABASE_FAULTS)
def fault(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def faulty_url(postgres: Postgres, fault: str) -> Iterator[str]:
    usual = postgres.url
    if fault == "older server":
        with _OlderServer(usual) as older:
            yield older.url
    elif fault == "wrong password":
        yield make_conninfo(usual, user="locked", password=PASSWORD)
    else:
        yield {
            "unreachable": f"postgresql://nobody:{PASSWORD}@127.0.0.1:9/none",
            "no such database": make_conninfo(usual, dbname="missing"),
            "newer schema": make_conninfo(usual, dbname="later"),
            "no schema": usual,
        }[fault]


def test_database_that_cannot_be_used_ends_a_command_with_status_1(tmp_path: Path, fault: str, faulty_url: str) -> None:
    names = [name for name in NEEDING_A_DATABASE if fault != "no schema" or name not in ("serve", "migrate")]
    ended = run_all(names, service_environment(tmp_path, DATABASE_URL=faulty_url))
    check_refused(ended, 1, *DATABASE_FAULTS[fault])


def test_web_processes_start_without_a_usable_database_and_log_why(tmp_path: Path, fault: str, faulty_url: str) -> None:
    environment = service_environment(tmp_path, DATABASE_URL=faulty_url)
    log = tmp_path / "gunicorn.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMANDS["gunicorn"], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        eventually(lambda: '"event": "not_ready"' in log.read_text(), 60, log.read_text)
        (line,) = [line for line in log.read_text().splitlines() if '"event": "not_ready"' in line]
        for word in DATABASE_FAULTS[fault]:
            assert word in line.replace('\\"', '"')
        assert ask(f"http://127.0.0.1:{environment['PORT']}/healthz").status == 200
        process.terminate()
        assert process.wait(60) == 0
        assert "Traceback" not in log.read_text() and PASSWORD not in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def expect_results(postgres: Postgres, database: str, secret_key: str) -> str:
    """A migrated database with a submission whose token this key signed, and whose results are still expected."""
    postgres.execute(f"create database {database}")
    url = make_conninfo(postgres.url, dbname=database)
    migrate(url)
    with contextlib.closing(connect(url, name="test")) as conn:
        make_batch(conn, send=False)
        signing_key = fingerprint(secret_key)
        assert claim_submission(conn, register_worker(conn, "test", 1, signing_key), signing_key=signing_key)
        conn.commit()
    return url


STARTING = ("serve", "work", "gunicorn")


def test_start_without_a_needed_key_is_refused_unless_the_loss_is_accepted(tmp_path: Path, postgres: Postgres) -> None:
    url = expect_results(postgres, "expecting", "the key of the release before")
    refused = run_all(STARTING, service_environment(tmp_path, DATABASE_URL=url))
    check_refused(refused, 2, "SECRET_KEY lacks the key", "SECRET_KEY=new,old", "SECRET_KEY_LOSS=accept")
    wrong = run_all(STARTING, service_environment(tmp_path, DATABASE_URL=url, SECRET_KEY_LOSS="yes"))
    check_refused(wrong, 2, "SECRET_KEY_LOSS is 'yes'; it must be one of accept")
    for variables in (
        {"SECRET_KEY_LOSS": "accept"},
        {"SECRET_KEY": "a secret that is long enough,the key of the release before"},
    ):
        check_web_starts(tmp_path, service_environment(tmp_path, DATABASE_URL=url, **variables))


def test_other_wsgi_servers_also_refuse_to_start(tmp_path: Path, postgres: Postgres) -> None:
    url = expect_results(postgres, "elsewhere", "the key of the release before")
    ran = subprocess.run(
        [sys.executable, "-c", "import app"], cwd=ROOT, env=service_environment(tmp_path, DATABASE_URL=url),
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert ran.returncode != 0 and "SECRET_KEY" in ran.stderr and "lacks the key" in ran.stderr, ran
    assert "Traceback" not in ran.stderr


def check_web_starts(folder: Path, environment: Mapping[str, str]) -> None:
    log = folder / "gunicorn.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMANDS["gunicorn"], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        eventually(lambda: _serves(environment["PORT"]), 60, log.read_text)
        process.terminate()
        assert process.wait(60) == 0
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _serves(port: str) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}/healthz").status == 200
    except OSError:
        return False


def test_used_port_is_named(tmp_path: Path, postgres: Postgres) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ended = run_all(SERVING, service_environment(tmp_path, DATABASE_URL=postgres.url, PORT=port))
    check_refused(ended, 2, f"Port {port} cannot be used: Address already in use.", "set PORT to another")


def test_address_of_another_machine_is_named(tmp_path: Path, postgres: Postgres) -> None:
    ended = run_all(SERVING, service_environment(tmp_path, DATABASE_URL=postgres.url, BIND="192.0.2.1"))
    check_refused(ended, 2, "BIND 192.0.2.1 is not an address of this machine.")


def test_used_port_of_the_simulator_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        refused = run_command("simulate", "--port", port, environment=service_environment(tmp_path))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1), refused
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr and "--port" in refused.stderr


@pytest.mark.parametrize(
    ("names", "variables", "texts"),
    [
        (ALL, {"DATA_DIR": str(ROOT / "LICENSE")}, ("DATA_DIR cannot be made", "LICENSE is no folder")),
        (ALL, {"SECRET_KEY": ""}, ("SECRET_KEY is required with DATABASE_URL", "make one with: python3 -c")),
        (ALL, {"SECRET_KEY": "short"}, ("SECRET_KEY", "use at least 32")),
        (ALL, {"PORT": "eighty"}, ("PORT is 'eighty'; it must be a whole number from 1 to 65535",)),
        (SERVING, {"DATA_DIR": "/proc/nowhere"}, ("DATA_DIR /proc/nowhere cannot be written", "Set it to a folder")),
        (("serve",), {"DATABASE_URL": "", "SECRET_KEY": "", "DATA_DIR": "/proc/nowhere"}, ("DATA_DIR", "a folder")),
        (USING, {"DATABASE_URL": "", "SECRET_KEY": ""}, ("DATABASE_URL is not set", "Only `serve` creates a database")),
        (("work",), {"PLUM_USER": "", "PLUM_KEY": ""}, ("PLUM_USER and PLUM_KEY are required by `work`", "`serve`")),
    ],
    ids=lambda value: " ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else None,
)
def test_configuration_that_cannot_be_used_is_status_2(
    tmp_path: Path, postgres: Postgres, names: Sequence[str], variables: Mapping[str, str], texts: Sequence[str]
) -> None:
    ended = run_all(names, service_environment(tmp_path, **{"DATABASE_URL": postgres.url, **variables}))
    check_refused(ended, 2, *texts)
    if not (variables.get("DATABASE_URL") == "" and "serve" in names):
        assert not (tmp_path / "data").exists(), "a refused command creates no files"


def test_password_that_is_not_percent_encoded_is_reported_without_repeating_it(tmp_path: Path) -> None:
    for password in (f"50%{PASSWORD}", f"p@ss{PASSWORD}", f"p/{PASSWORD}", f"p@ss/{PASSWORD}#1"):
        environment = service_environment(tmp_path, DATABASE_URL=f"postgresql://user:{password}@host/d")
        check_refused(run_all(ALL, environment), 2, "DATABASE_URL", "percent-encoded")


def test_address_that_only_libpq_refuses_is_reported_by_every_command(tmp_path: Path) -> None:
    environment = service_environment(tmp_path, DATABASE_URL=f"host=127.0.0.1 nonsense={PASSWORD}")
    check_refused(run_all(NEEDING_A_DATABASE, environment), 2, "DATABASE_URL is neither")
    (web,) = run_all(["gunicorn"], environment)
    # Only a child process notices this. Then gunicorn ends, and does not start the child again.
    assert web.status != 0 and "DATABASE_URL is neither" in web.error_output, web
    assert PASSWORD not in web.output + web.error_output


def test_copy_without_its_migrations_says_so(tmp_path: Path, postgres: Postgres) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "receiver", copy / "receiver", ignore=shutil.ignore_patterns("__pycache__"))
    ended = run_all(NEEDING_A_DATABASE, service_environment(tmp_path, DATABASE_URL=postgres.url), root=copy)
    check_refused(ended, 1, "migrations does not exist", "run this in a complete checkout")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
@pytest.mark.parametrize(("size", "status"), [("2m", 1), ("40k", 1)])
def test_disk_without_room_for_a_database_is_reported(server_dir: Path, size: str, status: int) -> None:
    disk = server_dir / "disk"
    disk.mkdir(mode=0o755)
    # In a separate mount namespace, so that the disk is unmounted when the command ends.
    script = 'mount -t tmpfs -o size="$1",mode=755 tmpfs "$2" && shift 2 && exec "$@"'
    isolated = ["unshare", "--mount", "sh", "-c", script, "sh", size, str(disk)]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode != 0:
        pytest.skip("this container may not mount")
    environment = service_environment(server_dir, DATA_DIR=str(disk / "var"), DATABASE_URL="", SECRET_KEY="")
    ran = subprocess.run(
        [*isolated, *COMMANDS["serve"]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90
    )
    check_refused(
        [Ended("serve", ran.returncode, ran.stdout, ran.stderr)], status, "No space left on device", "DATA_DIR"
    )
