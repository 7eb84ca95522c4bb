"""How fast callbacks are acknowledged, beside a view that does nothing and two that do both at once."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.bodies import write_wrk_script
from benchmarks.figures import Figure
from benchmarks.world import World
from benchmarks.wrk import Load, drive
from receiver.embedded_postgres.account import account_for
from receiver.embedded_postgres.installation import programs_for

ROWS = 400_000
ROUNDS = 3
"""Each side is measured this often, in turn, so that a noisy minute falls on all of them; medians count."""


def measure(world: World, *, seconds: int, rounds: int = ROUNDS) -> list[Figure]:
    ours = world.receiver_database("bench_ours")
    batch_id = world.batch(ours, ROWS)
    peers = world.peer_database("bench_peer", ROWS)
    script, peer_script = world.folder / "ours.lua", world.folder / "peer.lua"
    write_wrk_script(script, world.result_paths(batch_id, ROWS), ROWS)
    write_wrk_script(peer_script, ["/results/1"], ROWS)
    sides: dict[str, tuple[Callable[[], AbstractContextManager[int]], Path]] = {
        "no-op view": (lambda: world.noop(ours), script),
        "ours": (lambda: world.web(ours), script),
        "FastAPI, asyncpg": (lambda: world.fastapi(peers), peer_script),
        "Flask, gthread": (lambda: world.flask(peers), peer_script),
    }
    measured: dict[tuple[str, int], list[Load]] = {}
    for _ in range(rounds):
        for name, (start, lua) in sides.items():
            with start() as port:
                first = 1 + drive(port, lua, connections=32, seconds=2).answered  # warms up
                for connections in (32, 256):
                    load = drive(port, lua, connections=connections, seconds=seconds, first=first)
                    first = (first + load.answered) % ROWS + 1
                    measured.setdefault((name, connections), []).append(load)
    rate = {key: statistics.median(load.rate for load in loads) for key, loads in measured.items()}
    p99 = {key: statistics.median(load.p99_ms for load in loads) for key, loads in measured.items()}
    mine = rate["ours", 32]
    return [
        *(Figure(f"{name}, {connections} connections", value, "/s", note=f"p99 {p99[name, connections]:.1f} ms")
          for (name, connections), value in rate.items()),
        Figure("pgbench: Postgres alone, the same rows", _pgbench(world, seconds), "/s"),
        Figure("acknowledged / no-op view, the ceiling", mine / rate["no-op view", 32], "x"),
        Figure("acknowledged / FastAPI, asyncpg", mine / rate["FastAPI, asyncpg", 32], "x", at_least=1.7),
        Figure("acknowledged / Flask, gthread", mine / rate["Flask, gthread", 32], "x", at_least=2.5),
        Figure("p99 / FastAPI's", p99["ours", 32] / p99["FastAPI, asyncpg", 32], "x", at_most=1.0),
        Figure("256 connections / 32: rate", rate["ours", 256] / mine, "x", at_least=0.9),
        Figure("256 connections / 32: p99", p99["ours", 256] / p99["ours", 32], "x", at_most=4.0),
        Figure("256 connections: failed", sum(load.failed for load in measured["ours", 256]), "", at_most=0),
    ]  # fmt: skip


def _pgbench(world: World, seconds: int) -> float:
    """Durable single inserts a second of the same rows, 16 clients."""
    url = world.receiver_database("bench_alone")
    script = world.folder / "insert.sql"
    script.write_text(
        "insert into callback (batch_id, received_at, submission_no, content_type, body)"
        f" values (1, now(), 1, 'application/json', decode('{'7b' * 511}', 'hex'));\n"
    )
    account = account_for(world.server.cluster)
    pgbench = programs_for(account) / "pgbench"
    said = subprocess.run(  # noqa: S603 our own command
        [str(pgbench), "-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", str(seconds), "-f", str(script), url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return float(said.split("tps = ")[1].split()[0])
