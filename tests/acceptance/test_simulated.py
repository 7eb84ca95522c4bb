"""Simulated batches: they continue after a restart, are marked, never reach a real provider, and can be purged."""

from __future__ import annotations

import csv
import io
import signal
from pathlib import Path

import pytest

from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests.acceptance.service import Service, run_command
from tests.simulator.receiving import ask
from tests.waiting import eventually

pytestmark = pytest.mark.long

CALLS = 400


def contacts(folder: Path, count: int) -> Path:
    path = folder / "contacts.csv"
    path.write_text("destination\n" + "".join(f"617555{1000 + row}\n" for row in range(count)))
    return path


def test_simulated_batch_continues_after_a_kill_and_is_never_sent_to_a_real_provider(server_dir: Path) -> None:
    with Service(server_dir) as service:
        eventually(service.is_ready)
        answer = service.queue(contacts(server_dir, CALLS), "Prefer: wait=60")
        assert answer.status == 201 and answer.json["simulated"] is True
        batch_id = int(answer.json["id"])
        eventually(lambda: service.batch(batch_id)["counts"]["final"] > 0)
        assert service.batch(batch_id)["counts"]["pending"] > 0
        service.stop(signal.SIGKILL)
        service.start()
        eventually(lambda: service.batch(batch_id)["counts"]["final"] == CALLS)
        batch = service.batch(batch_id)
        assert (batch["progress"], batch["callbacks"]["conflict"]) == (1.0, 0)
        assert service.run("verify").returncode == 0
        listed = service.ask("/api/v1/batches").json["batches"]
        assert [each["simulated"] for each in listed] == [True]
        assert "simulated" in service.run("status", str(batch_id)).stdout
        rows = csv.DictReader(io.StringIO(service.run("export", str(batch_id)).stdout))
        assert len(list(rows)) == CALLS
        service.stop()

        with Simulator(Settings(check=False, speed=1e6)) as provider:
            login = {"PLUM_URL": provider.url, "PLUM_USER": "simulator", "PLUM_KEY": "simulator"}
            service.environment.update(login)
            service.start()
            assert f"Simulated  batches 1, calls {CALLS}: made with the simulator" in service.log.read_text()
            eventually(service.is_ready)
            without_login = {name: value for name, value in service.environment.items() if name not in login}
            waiting = queue_with(service, without_login, contacts(server_dir, 2))
            real = queue_with(service, service.environment, contacts(server_dir, 3))
            eventually(lambda: service.batch(real)["state"] == "queued")
            assert service.batch(real)["simulated"] is False
            assert (service.batch(waiting)["state"], service.batch(waiting)["simulated"]) == ("queueing", True)
            requests = ask(f"{provider.url}/simulator/ledger").content["requests"]
            assert [each["calls_queued"] for each in requests] == [3]

            assert service.run("purge", "--simulated", "--dry-run").stdout.startswith("Would purge 2 simulated batches")
            assert service.run("purge", "--simulated").returncode == 0
            assert [each["id"] for each in service.ask("/api/v1/batches").json["batches"]] == [real]
            assert service.run("verify").returncode == 0


def queue_with(service: Service, environment: dict[str, str], path: Path) -> int:
    """Queue from the command line with these settings; returns the batch id."""
    ran = run_command("queue", str(path), "--application", "7", "--deployment", "3", environment=environment)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout.split()[1])
