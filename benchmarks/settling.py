"""How fast what was acknowledged becomes results: draining a backlog, keeping up, and how soon it is seen."""

from __future__ import annotations

import statistics
import threading
import time
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime
from uuid import uuid4

from benchmarks.bodies import body, write_wrk_script
from benchmarks.figures import Figure
from benchmarks.world import SUBMISSION_ROWS, World, settle_down
from benchmarks.wrk import drive
from receiver.database.pool import Connection, connect
from receiver.intake.journal import Callback, Group, write_group
from receiver.model import SubmissionKey

GROUP = 500


def journal(url: str, batch_id: int, first: int, last: int) -> None:
    """Store the callbacks of rows `first` to `last`, as the web processes do."""
    writer_id = uuid4()
    with connect(url, name="benchmark", autocommit=True) as conn:
        for number, start in enumerate(range(first, last + 1, GROUP), 1):
            callbacks = tuple(
                Callback(
                    SubmissionKey(batch_id, (row - 1) // SUBMISSION_ROWS + 1),
                    datetime.now(UTC),
                    "application/json",
                    "",
                    body(row),
                )
                for row in range(start, min(start + GROUP, last + 1))
            )
            write_group(conn, Group(writer_id, number, callbacks))


def drain(world: World, *, callbacks: int) -> list[Figure]:
    """A backlog settled by one worker, then another one by two."""
    rates = []
    for workers in (1, 2):
        url = world.receiver_database(f"bench_drain_{workers}")
        journal(url, world.sent_batch(url, callbacks), 1, callbacks)
        with connect(url, name="benchmark", autocommit=True) as conn:
            conn.execute("vacuum analyze")
            with ExitStack() as stack:
                for _ in range(workers):
                    stack.enter_context(world.worker(url))
                settled = 0
                while settled == 0:  # the first group: the workers have started
                    time.sleep(0.02)
                    settled = settled_callbacks(conn)
                began, before = time.monotonic(), settled
                while settled < callbacks:
                    time.sleep(0.1)
                    settled = settled_callbacks(conn)
                rates.append((settled - before) / (time.monotonic() - began))
    return [
        Figure(f"draining {callbacks:,} stored callbacks, one worker", rates[0], "/s", at_least=12_000),
        Figure("draining one batch, two workers / one", rates[1] / rates[0], "x", at_least=1.6),
    ]


def keep_up(world: World, *, seconds: int, rounds: int) -> list[Figure]:
    """Acknowledged and settled at once, beside FastAPI, which does both in the request; then at 0.9 of that rate."""
    rows = 9_000 * (rounds + 1) * (seconds + 2)  # more than anything here reaches: each result is its call's first
    url = world.receiver_database("bench_sustained")
    batch_id = world.sent_batch(url, rows)
    peers = world.peer_database("bench_sustained_peer", rows)
    script, peer_script = world.folder / "sustained.lua", world.folder / "sustained_peer.lua"
    write_wrk_script(script, world.result_paths(batch_id, rows), rows)
    write_wrk_script(peer_script, ["/results/1"], rows)
    settle_down(url, peers)
    rates: list[float] = []
    peer_rates: list[float] = []
    first = peer_first = 1
    backlog = 0
    calm = []
    for _ in range(rounds):
        with world.fastapi(peers) as port:
            peer_first += drive(port, peer_script, connections=32, seconds=2, first=peer_first).answered
            load = drive(port, peer_script, connections=32, seconds=seconds, first=peer_first)
            peer_first += load.answered
            peer_rates.append(load.rate)
        with world.web(url) as port, world.worker(url), connect(url, name="benchmark", autocommit=True) as conn:
            first += drive(port, script, connections=32, seconds=2, first=first).answered
            began, before = time.monotonic(), settled_callbacks(conn)
            first += drive(port, script, connections=32, seconds=seconds, first=first).answered
            rates.append((settled_callbacks(conn) - before) / (time.monotonic() - began))
            backlog = max(backlog, _waiting(conn))
            while _waiting(conn):
                time.sleep(0.1)
    rate, peer_rate = statistics.median(rates), statistics.median(peer_rates)
    with world.web(url) as port, world.worker(url), connect(url, name="benchmark", autocommit=True) as conn:
        for _ in range(2):
            paced = drive(port, script, connections=64, seconds=seconds // 2, first=first, rate=0.9 * rate)
            first += paced.answered
            calm.append(_waiting(conn))
    may_grow = rate * max(0.5, 0.01 * seconds)  # groups come and go: half a second's worth is none
    return [
        Figure("acknowledged and settled, sustained", rate, "/s", note=f"{backlog:,} waited at the end, at most"),
        Figure("acknowledged and settled, sustained / FastAPI", rate / peer_rate, "x", at_least=2.2),
        Figure("at 0.9 of that rate: backlog grew by", max(0, calm[1] - calm[0]), "", at_most=may_grow,
               note=f"{calm[0]:,} waited half-way, {calm[1]:,} at the end, {paced.rate:,.0f}/s"),
    ]  # fmt: skip


def delay(world: World, *, rate: int, seconds: int) -> list[Figure]:
    """From the acknowledgement of a callback to its being in the batch's counts, at `rate` callbacks a second."""
    rows = rate * seconds
    url = world.receiver_database("bench_delay")
    batch_id = world.sent_batch(url, rows)
    paths = world.result_paths(batch_id, rows)
    acknowledged: list[float] = []
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def look() -> None:
        with connect(url, name="benchmark", autocommit=True) as conn:
            while not over.is_set() or seen[-1][1] < rows:
                seen.append((time.monotonic(), settled_callbacks(conn)))
                time.sleep(0.002)

    with world.web(url) as port, world.worker(url):
        with connect(url, name="benchmark", autocommit=True) as conn:
            while conn.execute("select from worker").fetchone() is None:
                time.sleep(0.05)
        watcher = threading.Thread(target=look)
        watcher.start()
        began = time.monotonic()
        for row in range(1, rows + 1):
            time.sleep(max(0.0, began + row / rate - time.monotonic()))
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{paths[(row - 1) // SUBMISSION_ROWS]}",
                body(row),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 loopback
                answer.read()
            acknowledged.append(time.monotonic())
        over.set()
        watcher.join()
    delays = []
    at = 0
    for number, moment in enumerate(acknowledged, 1):
        while seen[at][1] < number:
            at += 1
        delays.append(max(0.0, seen[at][0] - moment) * 1000)
    delays.sort()
    return [
        Figure("acknowledged to visible, p50", statistics.median(delays), "ms", at_most=100),
        Figure("acknowledged to visible, p99", delays[int(len(delays) * 0.99)], "ms", at_most=500),
    ]


def settled_callbacks(conn: Connection) -> int:
    query = "select coalesce(sum(applied + duplicate + conflict + unmatched + unreadable), 0) from batch_total"
    row = conn.execute(query).fetchone()
    assert row is not None  # noqa: S101 an aggregate returns a row
    return int(row[0])


def _waiting(conn: Connection) -> int:
    row = conn.execute("select count(*) from waiting").fetchone()
    assert row is not None  # noqa: S101 an aggregate returns a row
    return int(row[0])
