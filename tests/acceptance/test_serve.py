"""`serve`: what it starts and prints, and that all of its processes end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pytest

from tests.acceptance.service import DEFAULT_RUNNER, SAMPLES, Process, Service, ask, clean_environment, run_command
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


def stop_all_processes(service: Service, how: signal.Signals) -> float:
    """Stop the service, and check its exit status and that all of its processes end. Returns the seconds."""
    before = service.processes()
    assert len(before) > 8, before
    status, seconds = service.stop(how)
    assert status == 0
    eventually(lambda: not any(is_alive(each) for each in before) and not service.processes())
    return seconds


def check_everything_stops(service: Service, how: signal.Signals) -> None:
    """Check that the service stops within ten seconds. Three attempts, because a busy machine can delay one."""
    durations = [stop_all_processes(service, how)]
    while durations[-1] >= 10:
        assert len(durations) < 3, durations
        service.start()
        durations.append(stop_all_processes(service, how))


def check_sample_is_called(service: Service) -> int:
    """Queue the sample contacts; every result arrives. Returns the batch id."""
    answer = service.queue(SAMPLES / "contacts.csv", "Prefer: wait=60", name="samples")
    assert answer.status == 201, answer.body
    batch_id = int(answer.json["id"])
    eventually(lambda: service.batch(batch_id)["counts"]["final"] == 4)
    batch = service.batch(batch_id)
    assert (batch["state"], batch["progress"], batch["counts"]["rows"]) == ("queued", 1.0, 4)
    assert batch["callbacks"]["received"] == batch["callbacks"]["applied"] == 4
    return batch_id


def test_serve_without_a_provider_uses_its_simulator_and_a_signal_stops_all_processes(server_dir: Path) -> None:
    with Service(server_dir, METRICS_KEY="the key for metrics", UNRELATED="x", LOG_FORMAT="json") as service:
        assert "simulator" in service.log.read_text(), "the log says that calls are simulated"
        assert "rr_" not in service.log.read_text(), "the key must not be in the log, which others may read"
        assert (service.data_dir / "api-key").stat().st_mode & 0o777 == 0o600
        variables = {line.partition("=")[0] for line in service.process("receiver simulate").environment.split("\0")}
        assert variables & {"SECRET_KEY", "DATABASE_URL", "PLUM_KEY", "METRICS_KEY", "UNRELATED"} == set()
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


def test_key_is_printed_only_on_a_terminal(server_dir: Path) -> None:
    """Otherwise the path of its file is printed, from which `Service` reads it."""
    our_end, its_end = os.openpty()
    with Service(server_dir) as service:
        service.stop()
        process = DEFAULT_RUNNER.start(
            "serve", env=service.environment, stdin=subprocess.DEVNULL, stdout=its_end, stderr=subprocess.STDOUT
        )
        os.close(its_end)
        try:
            printed = b""
            while b"  Provider " not in printed:
                printed += os.read(our_end, 4096)
            assert f"  API key    {service.key}\r\n" in printed.decode()
        finally:
            process.terminate()
            while process.poll() is None:
                with suppress(OSError):  # no process has the other end open any more
                    os.read(our_end, 4096)
            os.close(our_end)


def test_start_waits_for_the_lock_of_a_serve_that_was_just_killed(server_dir: Path) -> None:
    """A child that was forked just before the kill has the lock until its program starts."""
    service = Service(server_dir)
    service.data_dir.mkdir(exist_ok=True)
    held = (service.data_dir / "serve.lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    Timer(2, held.close).start()
    with service:
        assert held.closed


def test_second_serve_is_refused_with_the_reason(server_dir: Path) -> None:
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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        environment = clean_environment(DATA_DIR=str(server_dir / "var"), PORT=str(port))
        refused = run_command("serve", environment=environment)
    assert refused.returncode == 2
    assert f"Port {port} cannot be used" in refused.stderr
    assert not (server_dir / "var" / "postgres").exists(), "the port is checked before the database is created"


@pytest.mark.parametrize("command", [["serve"], ["work"]])
def test_every_fault_of_the_configuration_is_named_at_once(server_dir: Path, command: list[str]) -> None:
    wrong = {
        "PORT": "99999",
        "PLUM_USER": "user",
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
