"""Rules for all commands: help, exit statuses, and one line for each failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver import __version__
from receiver.cli import make_parser
from receiver.database.pool import Connection
from tests.acceptance.service import ROOT, without_database_line
from tests.cli.conftest import Run
from tests.factories import make_batch

COMMANDS = [
    ("serve",),
    ("migrate",),
    ("work",),
    ("simulate",),
    ("queue",),
    ("status",),
    ("pause",),
    ("resume",),
    ("cancel",),
    ("verify",),
    ("replay",),
    ("keys",),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "revoke"),
    ("endpoints",),
    *(("endpoints", action) for action in ("create", "list", "test", "rotate", "disable", "enable", "retry", "delete")),
]
NEEDING_A_DATABASE = [
    ("status", "1"),
    ("pause", "1"),
    ("resume", "1"),
    ("cancel", "1"),
    ("verify",),
    ("replay", "1"),
    ("keys", "list"),
    ("keys", "create", "k", "--scope", "read"),
    ("keys", "revoke", "k"),
    ("endpoints", "list"),
    ("endpoints", "create", "https://crm.example/"),
    ("endpoints", "enable", "1"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(run_anywhere: Run, command: tuple[str, ...]) -> None:
    ran = run_anywhere(*command, "--help")
    assert (ran.status, ran.err) == (0, "")
    assert f"usage: python -m receiver {' '.join(command)}" in ran.out


def test_help_lists_the_commands(run_anywhere: Run) -> None:
    ran = run_anywhere("--help")
    assert ran.status == 0
    assert {command[0] for command in COMMANDS} <= set(ran.out.split())


def test_version_is_printed(run_anywhere: Run) -> None:
    assert run_anywhere("--version").out.strip() == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nothing",),
        ("status",),
        ("status", "x"),
        ("status", "1.5"),
        ("status", "1", "2"),
        ("pause",),
        ("cancel", "1", "--note", "a\nb"),
        ("verify", "all"),
        ("replay", "--state", "waiting"),
        ("replay", "x"),
        ("keys",),
        ("keys", "create", "name"),
        ("keys", "create", "name", "--scope", "root"),
        ("keys", "revoke"),
        ("queue",),
        ("queue", "contacts.csv", "--application", "1"),
        ("serve", "--port", "1"),
        ("simulate", "--speed", "fast"),
    ],
    ids=" ".join,
)
def test_invalid_arguments_are_status_2_with_usage_on_standard_error(
    run_anywhere: Run, arguments: tuple[str, ...]
) -> None:
    ran = run_anywhere(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("usage: ")


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("work",), *NEEDING_A_DATABASE], ids=" ".join)
def test_invalid_configuration_is_status_2_with_a_line_for_each_fault(
    run_anywhere: Run, environment: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    environment.setenv("PORT", "http")
    environment.setenv("DATABASE_URL", "mysql://the-password@h/d")
    environment.setenv("PLUM_USER", "me")
    ran = run_anywhere(*command)
    assert (ran.status, ran.out) == (2, "")
    assert sorted(line.split()[1] for line in ran.err.splitlines()) == ["DATABASE_URL", "PLUM_KEY", "PORT"]
    assert "the-password" not in ran.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [("migrate",), *NEEDING_A_DATABASE], ids=" ".join)
def test_unavailable_database_is_status_1_with_one_line(
    run_anywhere: Run, environment: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    environment.setenv("DATABASE_URL", f"postgresql://u:the-password@/d?host={tmp_path}")
    ran = run_anywhere(*command)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("receiver: The database is unavailable")
    assert "the-password" not in ran.err


def test_database_address_that_libpq_cannot_read_is_status_2(
    run_anywhere: Run, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DATABASE_URL", "postgresql://user:the%password@host/d")
    ran = run_anywhere("keys", "list")
    assert ran.status == 2
    assert "DATABASE_URL" in ran.err and "the%password" not in ran.err


@pytest.mark.parametrize("command", NEEDING_A_DATABASE, ids=" ".join)
def test_missing_migration_is_reported_with_what_to_do(
    run_anywhere: Run, environment: pytest.MonkeyPatch, empty_database_url: str, command: tuple[str, ...]
) -> None:
    environment.setenv("DATABASE_URL", empty_database_url)
    ran = run_anywhere(*command)
    assert (ran.status, ran.out) == (1, "")
    assert "python -m receiver migrate" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_migrate_reports_its_changes_and_applies_them_once(
    run_anywhere: Run, environment: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    environment.setenv("DATABASE_URL", empty_database_url)
    first = run_anywhere("migrate")
    assert first.status == 0
    assert "0001_initial.sql" in first.out and first.lines[-1].endswith("migrations applied.")
    again = run_anywhere("migrate")
    assert (again.status, again.lines) == (0, ["Nothing to do: the schema is up to date."])
    assert run_anywhere("keys", "list").status == 0


def test_the_parser_of_one_command_has_it() -> None:
    """Otherwise a command that is not in the list of its module would be refused, although the help names it."""
    (commands,) = (action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    for command in commands:
        (own,) = (action.choices for action in make_parser(command)._actions if isinstance(action.choices, dict))
        assert command in own and len(own) < len(commands)


def test_serve_starts_without_the_code_of_its_children() -> None:
    """Every start would take half a second longer. `serve` starts the others as processes of their own."""
    code = "import sys; from receiver.cli import make_parser; make_parser('serve'); import receiver.supervisor.serve"
    code += "; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not {"flask", "marshmallow", "urllib3", "receiver.worker"} & set(loaded.split())


def test_work_without_a_provider_is_status_2(run: Run) -> None:
    ran = run("work")
    assert (ran.status, ran.out) == (2, "")
    assert "PLUM_USER" in ran.err


def test_interrupted_command_is_status_130_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, conn: Connection
) -> None:
    batch_id = make_batch(conn)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("receiver.cli.batches.time.sleep", interrupt)
    ran = run("status", str(batch_id), "--watch")
    assert (ran.status, ran.out, ran.err) == (130, "", "")


def test_closed_output_is_status_1_without_a_traceback(run: Run, database_url: str) -> None:
    # The read end is closed before the command writes.
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "receiver", "keys", "list"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url},
            timeout=120,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (ran.returncode, without_database_line(ran.stderr.decode())) == (1, "")
