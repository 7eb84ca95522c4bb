"""The commands in a shell: their output and their exit statuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.service import SAMPLES, Service, ask, clean_environment, run_command

pytestmark = pytest.mark.long

IDS = ("--application", "7", "--deployment", "3")
CONTACTS = str(SAMPLES / "contacts.csv")


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    """Settings with a migrated database. No service is running."""
    return clean_environment(DATABASE_URL=database_url, SECRET_KEY="a secret that is long enough")


def test_help_needs_no_configuration() -> None:
    listed = run_command("--help", environment=clean_environment(PORT="none"))
    assert (listed.returncode, listed.stderr) == (0, "")
    commands = re.findall(r"^    (\w+)  ", listed.stdout, re.MULTILINE)
    assert {"serve", "migrate", "work", "simulate", "queue", "status", "verify", "replay", "keys"} <= set(commands)


def test_missing_arguments_exit_2_with_the_usage() -> None:
    refused = run_command("queue", CONTACTS, environment=clean_environment())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("usage: python -m receiver queue")


def test_dry_run_reports_the_counts_without_a_database(tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.csv"
    faulty.write_text("destination\n6175551234\nnobody\n6175551234\n")
    nowhere = clean_environment(DATABASE_URL="postgresql://127.0.0.1:9/none", SECRET_KEY="a secret that is long enough")
    ran = run_command("queue", str(faulty), *IDS, "--on-duplicate", "keep", "--dry-run", environment=nowhere)
    assert ran.returncode == 0
    assert ran.stderr.startswith("receiver: suppressed and recent numbers are not checked: The database is unavailable")
    assert ran.stdout.splitlines()[0] == "3 rows: 2 valid, 1 invalid, 1 duplicates"
    assert "row 2, line 3: " in ran.stdout


def test_refused_contacts_exit_1_and_name_their_rows(environment: dict[str, str], tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.csv"
    faulty.write_text("destination\nnobody\n")
    refused = run_command("queue", str(faulty), *IDS, environment=environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "row 1, line 2: " in refused.stderr


def test_missing_file_and_wrong_parameters_exit_2(environment: dict[str, str], tmp_path: Path) -> None:
    missing = run_command("queue", str(tmp_path / "missing.csv"), *IDS, environment=environment)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "missing.csv" in missing.stderr
    wrong = ("--application", "7", "--deployment", "x", "--max-attempts", "0")
    refused = run_command("queue", CONTACTS, *wrong, environment=environment)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "deployment_id" in refused.stderr
    assert "max_attempts" in refused.stderr


@pytest.mark.parametrize("command", ["status", "verify"])
def test_missing_batch_exits_1(environment: dict[str, str], command: str) -> None:
    answer = run_command(command, "999999", environment=environment)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "Batch 999999 does not exist." in answer.stderr


def test_commands_with_a_running_service(server_dir: Path) -> None:
    with Service(server_dir) as service:
        check_batch_is_queued_watched_shown_verified_and_replayed(service)
        check_refusal_by_the_provider_exits_1(service)
        check_key_works_within_its_scope_until_it_is_revoked(service)


def check_batch_is_queued_watched_shown_verified_and_replayed(service: Service) -> None:
    watched = service.run("queue", CONTACTS, *IDS, "--watch", "--name", "watched")
    assert (watched.returncode, watched.stderr) == (0, ""), "progress is shown only on a terminal"
    found = re.search(r"^Batch (\d+) is stored", watched.stdout)
    assert found is not None
    assert "100%, 4 ended, 0 pending, 0 overdue" in watched.stdout

    shown = service.run("status", found[1], "--watch")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"batch {found[1]} queued: 100%, 4 ended" in shown.stdout

    assert service.run("verify", found[1]).returncode == 0
    replayed = service.run("replay", "--state", "applied", "--dry-run")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert re.search(r"^4 callbacks settled again; 0 would change", replayed.stdout, re.MULTILINE)


def check_refusal_by_the_provider_exits_1(service: Service) -> None:
    refused = service.run("queue", CONTACTS, "--application", "7", "--deployment", "404", "--watch")
    assert refused.returncode == 1
    assert "provider status 404: deployment not found" in refused.stdout


def check_key_works_within_its_scope_until_it_is_revoked(service: Service) -> None:
    made = service.run("keys", "create", "reader", "--scope", "read")
    assert (made.returncode, made.stderr) == (0, "")
    key = made.stdout.splitlines()[-1]
    headers = {"Authorization": f"Bearer {key}"}
    assert ask(f"{service.url}/api/v1/batches", headers=headers).status == 200
    assert ask(f"{service.url}/api/v1/batches", "POST", b"", headers).status == 403

    listed = service.run("keys", "list")
    assert listed.returncode == 0
    assert "reader" in listed.stdout
    assert key not in listed.stdout

    assert service.run("keys", "revoke", "reader").returncode == 0
    assert ask(f"{service.url}/api/v1/batches", headers=headers).status == 401
    assert service.run("keys", "revoke", "reader").returncode == 1
