"""Every command except `serve` uses an existing database and names it. None creates an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from receiver.database.migrations import migrate
from receiver.embedded_postgres.server import EmbeddedPostgres
from tests.cli.conftest import Run
from tests.conftest import HURRIED

CONTACTS = str(Path(__file__).parents[1] / "samples" / "contacts.csv")
QUEUE = ("queue", CONTACTS, "--application", "7", "--deployment", "3")
COMMANDS = [
    ("migrate",),
    ("work",),
    QUEUE,
    (*QUEUE, "--dry-run"),
    ("status", "1"),
    ("export", "1"),
    ("replay", "--state", "applied"),
    ("verify",),
    ("purge", "--older-than", "30"),
    ("erase", "6175551234"),
    ("resolve", "1", "1", "--queued", "--note", "seen"),
    ("doctor",),
    ("keys", "create", "first", "--scope", "admin"),
    ("keys", "list"),
    ("keys", "revoke", "first"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
@pytest.mark.parametrize("secret", ["a secret that only the tests use", None], ids=["secret", "no secret"])
def test_command_without_the_environment_of_the_service_is_status_2_and_creates_nothing(
    run_anywhere: Run,
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    command: tuple[str, ...],
    secret: str | None,
) -> None:
    if secret is None:
        environment.delenv("SECRET_KEY")
    ran = run_anywhere(*command)
    assert ran.status == 2, ran
    assert "DATABASE_URL is not set" in ran.err + ran.out
    assert f"there is no embedded database in {tmp_path / 'data'}" in ran.err + ran.out
    assert list(tmp_path.iterdir()) == []


def test_simulator_needs_no_database(run_anywhere: Run, tmp_path: Path) -> None:
    assert "no answer" in run_anywhere("simulate", "--send", "http://127.0.0.1:9/", "--get").err
    assert list(tmp_path.iterdir()) == []


def test_used_database_is_named_without_its_password(
    run_anywhere: Run, environment: pytest.MonkeyPatch, database_url: str
) -> None:
    parts = conninfo_to_dict(database_url)
    environment.setenv("DATABASE_URL", f"{database_url} password=the-password")
    for command in (("keys", "list"), ("verify",), (*QUEUE, "--dry-run")):
        ran = run_anywhere(*command)
        assert (ran.status, ran.err) == (0, "")
        assert ran.database.startswith(f'receiver: using the database "{parts["dbname"]}" at {parts["host"]}, port ')
        assert "the-password" not in ran.database + ran.out


def test_embedded_database_of_the_folder_is_used_and_named(
    run_anywhere: Run, environment: pytest.MonkeyPatch, server_dir: Path
) -> None:
    environment.setenv("DATA_DIR", str(server_dir / "var"))
    environment.delenv("SECRET_KEY")  # commands read the secret that `serve` uses
    with EmbeddedPostgres(server_dir / "var", HURRIED) as server:
        migrate(server.conninfo)
        ran = run_anywhere("keys", "list")
    assert (ran.status, ran.err) == (0, "")
    assert ran.database == f"receiver: using the embedded database in {server.cluster}"
    assert not (server_dir / "var" / "secret-key").exists()
