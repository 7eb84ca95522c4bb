"""How fast callbacks are acknowledged, and at what cost, beside FastAPI and a server that does nothing."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bodies import write_wrk_script
from benchmarks.figures import Figure
from benchmarks.world import World, cpu_seconds, settle_down
from benchmarks.wrk import Load, drive
from receiver.embedded_postgres.account import account_for
from receiver.embedded_postgres.installation import programs_for

ROWS = 400_000
ROUNDS = 3
"""Each side is measured this often, in turn, so that a noisy minute falls on all of them; medians count."""

ALONE = "receiver.intake.asgi:app"


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of all rounds. `cpu_us`: of the web processes, for each acknowledgement."""

    rate: float
    p99_ms: float
    cpu_us: float
    failed: int

    @classmethod
    def of(cls, rounds: list[tuple[Load, float]]) -> Measured:
        return cls(
            statistics.median(load.rate for load, _ in rounds),
            statistics.median(load.p99_ms for load, _ in rounds),
            statistics.median(cpu / load.answered * 1e6 for load, cpu in rounds),
            sum(load.failed for load, _ in rounds),
        )


def measure(world: World, *, seconds: int, rounds: int = ROUNDS) -> list[Figure]:
    ours = world.receiver_database("bench_ours")
    batch_id = world.batch(ours, ROWS)
    peers = world.peer_database("bench_peer", ROWS)
    script, peer_script = world.folder / "ours.lua", world.folder / "peer.lua"
    write_wrk_script(script, world.result_paths(batch_id, ROWS), ROWS)
    write_wrk_script(peer_script, ["/results/1"], ROWS)
    settle_down(ours, peers)
    sides: dict[str, tuple[Callable[[], AbstractContextManager[int]], Path]] = {
        "no-op view": (lambda: world.noop(ours), script),
        "whole service": (lambda: world.web(ours), script),
        "intake alone": (lambda: world.web(ours, ALONE), script),
        "FastAPI": (lambda: world.fastapi(peers), peer_script),
    }
    measured: dict[tuple[str, int], list[tuple[Load, float]]] = {}
    for _ in range(rounds):
        for name, (start, lua) in sides.items():
            with start() as port:
                first = 1 + drive(port, lua, connections=32, seconds=2).answered  # warms up
                for connections in (32, 256):
                    before = cpu_seconds(port)
                    load = drive(port, lua, connections=connections, seconds=seconds, first=first)
                    first = (first + load.answered) % ROWS + 1
                    measured.setdefault((name, connections), []).append((load, cpu_seconds(port) - before))
    found = {side: Measured.of(loads) for side, loads in measured.items()}
    few, many, peer = found["whole service", 32], found["whole service", 256], found["FastAPI", 32]
    return [
        *(Figure(f"{name}, {connections} connections", each.rate, "/s",
                 note=f"p99 {each.p99_ms:.1f} ms, {each.cpu_us:.0f} us of CPU")
          for (name, connections), each in found.items()),
        Figure("pgbench: Postgres alone, the same rows", _pgbench(world, seconds), "/s"),
        Figure("acknowledged / no-op view, the ceiling", few.rate / found["no-op view", 32].rate, "x"),
        Figure("acknowledged / FastAPI, 32 connections", few.rate / peer.rate, "x", at_least=2.4),
        Figure("p99 / FastAPI's", few.p99_ms / peer.p99_ms, "x", at_most=0.5),
        Figure("CPU for an acknowledgement, 32 connections", few.cpu_us, "us", at_most=110),
        Figure("CPU for an acknowledgement, 256 connections", many.cpu_us, "us", at_most=80),
        Figure("256 connections / 32: rate", many.rate / few.rate, "x", at_least=1.1),
        Figure("256 connections / 32: p99", many.p99_ms / few.p99_ms, "x", at_most=5),
        Figure("256 connections: failed", many.failed, "", at_most=0),
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
