"""`serve` by itself: what it starts, what it says, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.service import OURSELVES, SAMPLES, Process, Service, ask, clean_environment, run_command
from tests.waiting import eventually

pytestmark = pytest.mark.long


def is_alive(process: Process) -> bool:
    try:
        status = (Path("/proc") / str(process.pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return status[19] == process.started and status[0] != "Z"


def answers(url: str) -> bool:
    try:
        return ask(f"{url}/simulator/ledger").status == 200
    except OSError:
        return False


def stop_down_to_the_last_process(service: Service, how: signal.Signals) -> float:
    """The seconds that it took to end, with exit status 0."""
    before = service.processes()
    assert len(before) > 8, before
    status, seconds = service.stop(how)
    assert status == 0
    eventually(lambda: not any(is_alive(each) for each in before) and not service.processes())
    return seconds


def check_everything_stops(service: Service, how: signal.Signals) -> None:
    """Within ten seconds of the signal, at the latest at the third try: a busy machine may hold up one."""
    took = [stop_down_to_the_last_process(service, how)]
    while took[-1] >= 10:
        assert len(took) < 3, took
        service.start()
        took.append(stop_down_to_the_last_process(service, how))


def check_sample_is_called(service: Service) -> int:
    """Queue the sample contacts; every result arrives. Returns the batch id."""
    answer = service.queue(SAMPLES / "contacts.csv", "Prefer: wait=60", name="samples")
    assert answer.status == 201, answer.body
    batch_id = int(answer.told["id"])
    eventually(lambda: service.batch(batch_id)["counts"]["final"] == 4)
    batch = service.batch(batch_id)
    assert (batch["state"], batch["progress"], batch["counts"]["rows"]) == ("queued", 1.0, 4)
    assert batch["callbacks"]["received"] == batch["callbacks"]["applied"] == 4
    return batch_id


def test_without_a_provider_samples_are_called_by_its_simulator_and_a_signal_ends_it_all(server_dir: Path) -> None:
    with Service(server_dir, METRICS_KEY="asked with this", OF_NOBODY="x", LOG_FORMAT="json") as service:
        assert "simulator" in service.log.read_text(), "it says that nobody is really called"
        assert "rr_" not in service.log.read_text(), "what is captured may be read by others"
        assert (service.data_dir / "api-key").stat().st_mode & 0o777 == 0o600
        variables = {line.partition("=")[0] for line in service.process("receiver simulate").environment.split("\0")}
        assert variables & {"SECRET_KEY", "DATABASE_URL", "PLUM_KEY", "METRICS_KEY", "OF_NOBODY"} == set()
        assert (
            '"level": "warning"' not in service.log.read_text() and '"event": "web_started"' in service.log.read_text()
        )
        eventually(service.is_ready)
        batch_id = check_sample_is_called(service)

        simulator = service.process("receiver simulate")
        os.kill(simulator.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(simulator))
        eventually(lambda: answers(service.simulator_url))
        check_sample_is_called(service)

        key = service.key
        check_everything_stops(service, signal.SIGTERM)
        service.start()
        assert service.key == key
        assert service.batch(batch_id)["counts"]["final"] == 4
        check_everything_stops(service, signal.SIGINT)


def test_key_is_printed_on_a_terminal(server_dir: Path) -> None:
    """Only there; `Service` reads it from the file that is named elsewhere."""
    ours, its = os.openpty()
    with Service(server_dir) as service:
        service.stop()
        process = OURSELVES.started(
            "serve", env=service.environment, stdin=subprocess.DEVNULL, stdout=its, stderr=subprocess.STDOUT
        )
        os.close(its)
        try:
            printed = b""
            while b"  Provider " not in printed:
                printed += os.read(ours, 4096)
            assert f"  API key    {service.key}\r\n" in printed.decode()
        finally:
            process.terminate()
            while process.poll() is None:
                with suppress(OSError):  # nobody holds the other end any more
                    os.read(ours, 4096)
            os.close(ours)


def test_second_serve_does_not_start_and_says_why(server_dir: Path) -> None:
    with Service(server_dir) as service:
        again = service.run("serve")
        assert again.returncode == 2
        assert f"Another `serve` is running on {service.data_dir}" in again.stderr
        assert again.stderr.count("\n") == 1, again.stderr

        elsewhere = clean_environment(DATA_DIR=str(server_dir / "other"), PORT=str(service.port))
        other = run_command("serve", environment=elsewhere)
        assert other.returncode == 2
        assert f"Port {service.port} cannot be used" in other.stderr
        assert other.stderr.count("\n") == 1, other.stderr

        eventually(service.is_ready)
        assert service.ask("/api/v1/batches").status == 200


def test_port_that_another_program_uses_is_named(server_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = clean_environment(DATA_DIR=str(server_dir / "var"), PORT=str(port))
        refused = run_command("serve", environment=environment)
    assert refused.returncode == 2
    assert f"Port {port} cannot be used" in refused.stderr
    assert not (server_dir / "var" / "postgres").exists(), "it looks before it makes a database"


@pytest.mark.parametrize("command", [["serve"], ["work"]])
def test_every_fault_of_the_configuration_is_named_at_once(server_dir: Path, command: list[str]) -> None:
    wrong = {
        "PORT": "99999",
        "PLUM_USER": "somebody",
        "PLUM_URL": "ftp://example.com",
        "PUBLIC_URL": "calls.example.com",
        "SECRET_KEY": "short",
        "DEFAULT_REGION": "Narnia",
        "SUBMISSION_ROWS": "0",
        "RESULT_GRACE": "1h",
        "WEB_CONCURRENCY": "two",
        "RETENTION_DAYS": "-1",
    }
    refused = run_command(*command, environment=clean_environment(DATA_DIR=str(server_dir / "var"), **wrong))
    assert refused.returncode == 2
    assert refused.stdout == ""
    named = {line.split()[1] for line in refused.stderr.splitlines()}
    assert named == {*wrong, "PLUM_KEY"} - {"PLUM_USER"}
    assert "Traceback" not in refused.stderr
    assert not (server_dir / "var").exists()
