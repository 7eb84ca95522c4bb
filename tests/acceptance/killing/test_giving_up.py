"""`serve` restarts processes that end. If one ends again and again, `serve` ends too and logs the reason."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.killing.plan import SERVE_STEPS
from tests.acceptance.killing.steps import Steps, service_with
from tests.acceptance.killing.world import LIMIT_SECONDS, has_ended
from tests.acceptance.service import DEFAULT_RUNNER, SAMPLES, Service
from tests.waiting import eventually

pytestmark = pytest.mark.long

START_OF_WORKER = "before commit of release.presence.register_worker"


def check_ended(service: Service, *reasons: str) -> None:
    """Check that `serve` ended with exit status 1 and logged these reasons, and that its processes ended."""
    status, _ = service.stop()
    log = service.log.read_text()
    assert status == 1, log[-3000:]
    for reason in reasons:
        assert reason in log[-3000:], log[-3000:]
    eventually(lambda: service.processes() == [])


def test_worker_that_keeps_ending_ends_serve_with_the_reason(server_dir: Path) -> None:
    steps = Steps(server_dir / "steps")
    with service_with(server_dir, steps) as service:
        steps.arm(START_OF_WORKER, 1, "self")
        os.kill(service.process("receiver work").pid, signal.SIGKILL)
        deaths = 1
        limit = time.monotonic() + LIMIT_SECONDS
        while not has_ended(service):
            assert time.monotonic() < limit, service.log.read_text()[-3000:]
            if steps.is_reached(START_OF_WORKER):
                deaths += 1
                steps.arm(START_OF_WORKER, 1, "self")
            time.sleep(0.02)
        assert deaths >= 5, "serve must restart it several times"
        check_ended(service, "worker keeps ending (exit status -9): giving up")


def test_database_that_keeps_ending_ends_serve_with_the_reason(server_dir: Path) -> None:
    with service_with(server_dir, Steps(server_dir / "steps")) as service:
        killed: set[int] = set()
        limit = time.monotonic() + LIMIT_SECONDS
        while not has_ended(service):
            assert time.monotonic() < limit, service.log.read_text()[-3000:]
            for process in service.processes():
                if "postgres" in process.command and " -D " in process.command and process.pid not in killed:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.add(process.pid)
            time.sleep(0.05)
        assert len(killed) >= 5
        check_ended(service, "The database server keeps ending: 5 times within 60 seconds. See its last output in")


def test_first_start_killed_at_any_commit_is_completed_by_the_next_start(server_dir: Path) -> None:
    steps = Steps(server_dir / "steps")
    service = service_with(server_dir, steps)
    with ExitStack() as stack:
        stack.push(service)
        for step in SERVE_STEPS:
            steps.arm(step.name, step.times, "self")
            with service.log.open("ab") as log:
                serve = DEFAULT_RUNNER.start(
                    "serve", env=service.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            assert serve.wait(LIMIT_SECONDS) == -signal.SIGKILL, service.log.read_text()
            assert steps.is_reached(step.name)
        service.start()
        assert service.queue(SAMPLES / "contacts.csv", "Prefer: wait=60").status == 201
        eventually(lambda: service.batch(1)["counts"]["final"] == 4)
        assert service.run("verify").returncode == 0
