"""Whether deleting a batch of a million calls is felt by those who send callbacks meanwhile."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time

from benchmarks.bodies import write_wrk_script
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.world import ROOT, World
from benchmarks.wrk import Load, drive
from receiver.database.pool import connect

ROWS = 400_000


def measure(world: World, *, calls: int, seconds: int, rounds: int) -> list[Figure]:
    """`calls`: of the batch that goes; `seconds`: each look, at half the top rate."""
    url = world.receiver_database("bench_purging")
    batch_id = world.batch(url, ROWS)
    script = world.folder / "purging.lua"
    write_wrk_script(script, world.result_paths(batch_id, ROWS), ROWS)
    without: list[Load] = []
    beside: list[Load] = []
    taken: list[float] = []
    with world.web(url) as port, world.worker(url), connect(url, name="benchmark", autocommit=True) as conn:
        top = drive(port, script, connections=32, seconds=4)
        first, rate = 1 + top.answered, top.rate / 2
        for _ in range(rounds):
            old = fill(conn, calls)
            conn.execute("update batch set created_at = now() - interval '9 days', due_at = now() - interval '9 days'"
                         " where batch_id = %s", (old,))  # fmt: skip
            conn.execute("update callback set received_at = now() - interval '9 days' where batch_id = %s", (old,))
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")
            without.append(drive(port, script, connections=32, seconds=seconds, first=first, rate=rate))
            first = (first + without[-1].answered) % ROWS + 1
            purge = threading.Thread(target=lambda: taken.append(_purge(world, url)))
            purge.start()
            beside.append(drive(port, script, connections=32, seconds=seconds, first=first, rate=rate))
            first = (first + beside[-1].answered) % ROWS + 1
            purge.join()
            left = conn.execute("select count(*) from batch where batch_id = %s", (old,)).fetchone()
            if left != (0,):
                raise RuntimeError("the purge left its batch")
    alone, during = (statistics.median(load.p99_ms for load in loads) for loads in (without, beside))
    return [
        Figure(f"purging {calls:,} calls beside {rate:,.0f} callbacks/s", statistics.median(taken), "s"),
        Figure("acknowledgement's p99 beside a purge / without", during / alone, "x", at_most=1.5,
               note=f"{during:.1f} and {alone:.1f} ms"),
        Figure("failed beside a purge", sum(load.failed for load in beside), "", at_most=0),
    ]  # fmt: skip


def _purge(world: World, url: str) -> float:
    """Seconds that the command takes."""
    began = time.monotonic()
    command = [sys.executable, "-m", "receiver", "purge", "--older-than", "7"]
    subprocess.run(command, env=world.environment(url), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.monotonic() - began
