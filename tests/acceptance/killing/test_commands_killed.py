"""A command that is killed at one of its commits leaves consistent data, and the same command completes the work."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from receiver.database.pool import Connection
from tests.acceptance.killing.steps import Steps, service_with
from tests.acceptance.service import Service
from tests.waiting import eventually

pytestmark = pytest.mark.long

ROWS = 40
NUMBERS = [f"61755512{last}" for last in range(10, 10 + ROWS)]
MAX_COMMITS = 30


@pytest.fixture
def steps(server_dir: Path) -> Steps:
    return Steps(server_dir / "steps")


def queue(service: Service, folder: Path, **fields: str) -> int:
    contacts = folder / "contacts.csv"
    contacts.write_text("\n".join(("destination,name", *(f"{number},Person" for number in NUMBERS))))
    answer = service.queue(contacts, "Prefer: wait=60", **fields)
    assert answer.status in (201, 202), answer
    return int(answer.json["id"])


def wait_until_settled(service: Service, batch_id: int) -> None:
    eventually(lambda: service.batch(batch_id)["counts"]["final"] == ROWS)
    eventually(lambda: service.batch(batch_id)["callbacks"]["waiting"] == 0)


def kill_at_every_commit(service: Service, steps: Steps, when: str, where: str, *command: str) -> int:
    """Kill the command `before` or `after` its first commit, then its second, and so on, until it completes.

    Each run continues where the previous one was killed. Checks after each run that `verify` passes. Returns the number
    of kills.
    """
    for times in range(1, MAX_COMMITS):
        steps.arm(f"{when} commit of {where}", times, "self")
        ended = service.run(*command)
        verified = service.run("verify")
        assert verified.returncode == 0, (when, times, verified.stdout + verified.stderr)
        if steps.disarm():
            assert ended.returncode == 0, ended.stderr
            return times - 1
        assert ended.returncode == -signal.SIGKILL, ended
    pytest.fail(f"{command} did not complete")


def test_commands_killed_at_any_commit_lose_nothing(server_dir: Path, steps: Steps) -> None:
    with service_with(server_dir, steps) as service:
        batch_id = queue(service, server_dir)
        wait_until_settled(service, batch_id)
        before = service.batch(batch_id)

        for when, erased in (("before", NUMBERS[3]), ("after", NUMBERS[5])):
            assert (
                kill_at_every_commit(
                    service, steps, when, "results.replay._replay_with_retries", "replay", "--state", "applied"
                )
                == 1
            )
            assert service.batch(batch_id) == before
            assert (
                kill_at_every_commit(service, steps, when, "cli.maintenance._erase_pieces", "erase", erased, "--yes")
                >= 1
            )
            assert service.batch(batch_id)["counts"] == before["counts"]
            assert service.ask(f"/api/v1/calls?phone_number={erased}").json["calls"] == []
            before = service.batch(batch_id)


def test_resolve_killed_at_its_commit_is_applied_once_or_not_at_all(server_dir: Path, steps: Steps) -> None:
    with service_with(server_dir, steps) as service:
        # The simulated provider answers this deployment with 500, so the state is unknown.
        batch_id = queue(service, server_dir, deployment_id="500")
        assert service.batch(batch_id)["state"] == "unknown"
        commit = "commit of cli.database.opened_database"  # the first commit sets the session's settings
        command = ("resolve", str(batch_id), "1", "--queued", "--note", "their page shows it", "--yes")

        def state() -> str:
            return str(service.batch(batch_id)["submissions"][0]["state"])

        steps.arm(f"before {commit}", 2, "self")
        assert service.run(*command).returncode == -signal.SIGKILL
        assert state() == "unknown"
        steps.arm(f"after {commit}", 2, "self")
        assert service.run(*command).returncode == -signal.SIGKILL
        assert state() == "accepted"
        again = service.run(*command)
        assert again.returncode == 1 and "the provider accepted it" in again.stderr
        assert service.run("verify").returncode == 0


def test_purge_killed_at_any_commit_can_be_continued(
    server_dir: Path, steps: Steps, database_url: str, conn: Connection
) -> None:
    secret = "a secret that is long enough"
    with service_with(server_dir, steps, DATABASE_URL=database_url, SECRET_KEY=secret) as service:
        first, second, kept = (queue(service, server_dir, application_id=str(number)) for number in (7, 8, 9))
        for batch_id in (first, second, kept):
            wait_until_settled(service, batch_id)
        before = service.batch(kept)
        for when, old in (("before", first), ("after", second)):
            conn.execute(
                "update batch set created_at = created_at - interval '60 days', due_at = due_at - interval '60 days'"
                " where batch_id = %s",
                (old,),
            )
            conn.commit()
            assert (
                kill_at_every_commit(service, steps, when, "cli.maintenance._purge", "purge", "--older-than", "30") >= 4
            )
            assert service.ask(f"/api/v1/batches/{old}").status == 404
            assert service.ask(f"/api/v1/callbacks?batch_id={old}").status == 404
            assert service.batch(kept) == before
