"""Whether readers of the heaviest pages delay an acknowledgement: in the same processes, and of the intake alone."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.acknowledging import ALONE
from benchmarks.bodies import write_wrk_script
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.world import World
from benchmarks.wrk import Load, drive
from receiver.database.api_keys import create_key
from receiver.database.pool import connect

ROWS = 100_000
READERS = 12
READ_CALLS = 20_000
"""Of the batch that is read."""

_READER = """
local keys, paths, asked = { %s }, { %s }, 0
request = function()
  asked = asked + 1
  local key = keys[math.floor(asked / 2) %% #keys + 1]
  return wrk.format("GET", paths[asked %% #paths + 1], { Authorization = "Bearer " .. key })
end
"""


def measure(world: World, *, seconds: int, rounds: int) -> list[Figure]:
    url = world.receiver_database("bench_disturbing")
    batch_id = world.batch(url, ROWS)
    script, reader = world.folder / "disturbed.lua", world.folder / "reader.lua"
    write_wrk_script(script, world.result_paths(batch_id, ROWS), ROWS)
    with connect(url, name="benchmark", autocommit=True) as conn:
        read = fill(conn, READ_CALLS)
        conn.execute(
            "insert into result_count (batch_id, at, completed, attempts, duration_seconds) select %s, at, 1, 1, 60"
            " from generate_series(now() - interval '1 year', now() - interval '1 day', '1 hour') at",
            (read,),
        )
        conn.execute("vacuum analyze")
        keys = [create_key(conn, f"benchmark {number}", "read") for number in (1, 2)]  # one may have 8 at once
    since, until = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (datetime.now(UTC) - timedelta(365), datetime.now(UTC)))
    pages = (
        f"/api/v1/summary?interval=hour&from={since}&to={until}",
        f"/api/v1/batches/{read}/calls?limit=1000",
    )
    reader.write_text(_READER % tuple(", ".join(f'"{each}"' for each in listed) for listed in (keys, pages)))
    beside: list[Load] = []
    alone: list[Load] = []
    for _ in range(rounds):
        with world.web(url) as port:
            drive(port, script, connections=32, seconds=2)
            with _read(port, reader, seconds):
                beside.append(drive(port, script, connections=32, seconds=seconds))
            with world.web(url, ALONE) as intake:
                drive(intake, script, connections=32, seconds=2)
                with _read(port, reader, seconds):
                    alone.append(drive(intake, script, connections=32, seconds=seconds))
    return [
        Figure(f"p99 while {READERS} clients read the heaviest pages: {name}",
               statistics.median(load.p99_ms for load in loads), "ms", at_most=goal,
               note=f"{statistics.median(load.rate for load in loads):,.0f}/s")
        for name, loads, goal in (("same process", beside, 100), ("intake alone", alone, 40))
    ]  # fmt: skip


@contextmanager
def _read(port: int, reader: Path, seconds: int) -> Iterator[None]:
    """Read while the block runs, which takes `seconds`. Raises RuntimeError if most pages were refused."""
    loads: list[Load] = []
    thread = threading.Thread(
        target=lambda: loads.append(drive(port, reader, connections=READERS, seconds=seconds + 1))
    )
    thread.start()
    yield
    thread.join()
    if not loads or loads[0].failed > loads[0].answered / 2:
        raise RuntimeError(f"the pages could not be read: {loads}")
