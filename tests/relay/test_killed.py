"""Worker processes that deliver events are killed at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.database.pool import Connection
from receiver.relay.endpoints import get_endpoint
from tests.acceptance.service import ROOT, clean_environment
from tests.relay.endpoint_server import Request, receiving
from tests.relay.test_delivery import endpoint, owe_results, read, settled
from tests.waiting import eventually
from tests.workers import SECRET, running_simulator

pytestmark = pytest.mark.long

CALLS = 1500
KILLS = 8


@contextlib.contextmanager
def worker_processes(folder: Path, database_url: str, provider_url: str, count: int) -> Iterator[list[int]]:
    """Workers in processes of their own. A killed one is started again. Yields the process ids that run now."""
    environment = clean_environment(
        DATABASE_URL=database_url, SECRET_KEY=SECRET, DATA_DIR=str(folder), PLUM_URL=provider_url,
        PLUM_USER="simulator",
        PLUM_KEY="simulator", PLUM_SIMULATED="1", PUBLIC_URL="https://calls.example.com", TEST_RELAY_SPEED="1000",
        RELAY_NETWORKS="127.0.0.0/8",
    )  # fmt: skip
    over, running = threading.Event(), list[int]()

    def keep_running() -> None:
        with (folder / "log").open("ab") as log:
            while not over.is_set():
                process = subprocess.Popen(
                    [sys.executable, "-m", "receiver", "work"], cwd=ROOT, env=environment, stdout=log, stderr=log
                )
                running.append(process.pid)
                while process.poll() is None and not over.wait(0.05):
                    pass
                running.remove(process.pid)
                process.terminate()
                process.wait(60)

    threads = [threading.Thread(target=keep_running) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def test_every_event_arrives_at_least_once_with_one_id_however_workers_are_killed(
    conn: Connection, database_url: str, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()
    chance = random.Random(7)

    def answer(request: Request) -> tuple[int, dict[str, str], bytes]:
        seen[request.id] += 1
        time.sleep(0.02)
        return (500, {}, b"") if seen[request.id] == 1 and chance.random() < 0.3 else (200, {}, b"")

    with receiving(answer) as server, receiving() as other, running_simulator() as simulator:
        ids = [endpoint(conn, each) for each in (server, other)]
        owe_results(conn, CALLS)
        with worker_processes(tmp_path, database_url, simulator.url, 2) as running:
            for kill in range(KILLS):
                reached = len(server.requests)
                eventually(lambda before=reached: len(server.requests) > before + 50 or _done(conn, ids[0][0]))  # type: ignore[misc]
                time.sleep(chance.random() / 10)
                if running:
                    os.kill(running[kill % len(running)], signal.SIGKILL)
            for endpoint_id, _ in ids:
                settled(conn, endpoint_id)
    for (endpoint_id, secret), each in zip(ids, (server, other), strict=True):
        assert {request.verified(secret)["data"]["row"] for request in each.requests} == set(range(1, CALLS + 1))
        assert len(set(each.ids)) == CALLS, "an event keeps its id"
        assert read(conn, endpoint_id).events_owed == {"delivered": CALLS, "waiting": 0, "given_up": 0}
        again = sum(Counter(each.ids).values()) - CALLS
        assert again < CALLS, "only what was in progress, and what failed, was sent again"


def _done(conn: Connection, endpoint_id: int) -> bool:
    found = get_endpoint(conn, endpoint_id)
    conn.commit()
    return found.waiting == 0
