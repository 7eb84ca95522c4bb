"""What the work costs as it grows: 10,000 calls, 100,000, a million, ten million. Kept as JSON, drawn as a picture."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bodies import contact_rows
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.reading import Reader, cursor, quantile
from benchmarks.settling import journal, settled_callbacks
from benchmarks.storing import TABLES
from benchmarks.world import ROOT, SUBMISSION_ROWS, World
from receiver.database.api_keys import create_key
from receiver.database.pool import Connection, connect
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker

SETTLED = 20_000
"""Callbacks of a fresh batch that are settled beside what lies there."""

READ = {
    "batch_ms": "GET /batches/{id}",
    "summary_ms": "summary",
    "first_page_ms": "first page of 100 calls",
    "last_page_ms": "last page",
    "number_ms": "one number",
    "search_ms": "a number in all batches",
    "feed_ms": "page of 100 of the feed",
    "claim_ms": "claiming a submission",
}
"""What is read, and what its curve is called."""

PICTURE = ROOT / "docs" / "pictures" / "growth.svg"


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured with `calls` calls in one batch. Times of reading are milliseconds, [p50, p99]."""

    calls: int
    batch_ms: tuple[float, float]
    summary_ms: tuple[float, float]
    first_page_ms: tuple[float, float]
    last_page_ms: tuple[float, float]
    number_ms: tuple[float, float]
    search_ms: tuple[float, float]
    feed_ms: tuple[float, float]
    claim_ms: tuple[float, float]
    settled_per_second: float
    accept_seconds: float
    bytes_per_call: float


def measure(world: World, *, sizes: tuple[int, ...], count: int) -> list[Figure]:
    """Measures each size in a database of its own, and draws the picture. `count`: asked this often."""
    measured: list[Size] = []
    (ROOT / "benchmarks" / "out").mkdir(exist_ok=True)
    for size in sizes:  # drawn after each: the last takes longer than all before
        measured.append(_measure(world, size, count))
        content = json.dumps([asdict(each) for each in measured], indent=1)
        (ROOT / "benchmarks" / "out" / "growth.json").write_text(content + "\n")
        draw(measured, PICTURE)
    grown: dict[str, Callable[[Size], float]] = {
        "GET /batches/{id}": lambda size: size.batch_ms[0],
        "summary": lambda size: size.summary_ms[0],
        "first page": lambda size: size.first_page_ms[0],
        "last page": lambda size: size.last_page_ms[0],
        "one number": lambda size: size.number_ms[0],
        "a number in all batches": lambda size: size.search_ms[0],
        "page of the feed": lambda size: size.feed_ms[0],
        "claiming a submission": lambda size: size.claim_ms[0],
        "settled a second": lambda size: size.settled_per_second,
        "accepting, a call": lambda size: size.accept_seconds / size.calls,
        "disk, a call": lambda size: size.bytes_per_call,
    }
    small, large = measured[0], measured[-1]
    return [
        Figure(f"{name}: {large.calls:,} calls / {small.calls:,}", of(large) / of(small), "x")
        for name, of in grown.items()
    ]


def _measure(world: World, calls: int, count: int) -> Size:
    url = world.receiver_database("bench_growing")
    with connect(url, name="benchmark") as conn:
        key = create_key(conn, "benchmark", "read")
    with connect(url, name="benchmark", autocommit=True) as conn:
        batch_id = fill(conn, calls)
        conn.execute("vacuum analyze")
        bytes_per_call = _taken(conn) / calls
        with world.web(url) as port, Reader(port, key) as reader:
            base = f"/api/v1/batches/{batch_id}"
            last = cursor(batch_id, calls - 150)
            number = reader.number_of(base, calls // 2)
            read = {
                "batch_ms": reader.times(base, count),
                "summary_ms": reader.times(f"/api/v1/summary?batch_id={batch_id}", count),
                "first_page_ms": reader.times(f"{base}/calls?limit=100", count),
                "last_page_ms": reader.times(f"{base}/calls?limit=100&cursor={last}", count),
                "number_ms": reader.times(f"{base}/calls?phone_number={number}", count),
                "search_ms": reader.times(f"/api/v1/calls?phone_number={number}", count),
                "claim_ms": _claim(world, url, count),
            }
        before = settled_callbacks(conn)
        journal(url, world.batch(url, SETTLED), 1, SETTLED)
        conn.execute("vacuum analyze")
        with world.worker(url):
            while (first := settled_callbacks(conn)) == before:
                time.sleep(0.01)
            began = time.monotonic()
            while settled_callbacks(conn) < before + SETTLED:
                time.sleep(0.01)
            settled = (before + SETTLED - first) / (time.monotonic() - began)
        with world.web(url) as port, Reader(port, key) as reader:
            read["feed_ms"] = reader.times("/api/v1/results?limit=100", count)
    contacts = world.folder / "contacts.csv"
    with contacts.open("w", newline="") as file:
        file.writelines(contact_rows(calls))
    began = time.monotonic()
    with connect(url, name="benchmark") as conn, contacts.open("rb") as csv:
        accept(conn, csv, BatchParameters(1, 1), Limits(SUBMISSION_ROWS, 3600))
    accepted = time.monotonic() - began
    contacts.unlink()
    return Size(
        calls,
        **{name: (statistics.median(times), quantile(times, 0.99)) for name, times in read.items()},
        settled_per_second=settled,
        accept_seconds=accepted,
        bytes_per_call=bytes_per_call,
    )


def _claim(world: World, url: str, count: int) -> list[float]:
    """Times of claiming a submission of a new batch, without sending it. Sorted."""
    world.batch(url, SETTLED)
    times = []
    with connect(url, name="benchmark") as conn:
        worker_id = register_worker(conn, "benchmark", 1)
        conn.commit()
        for _ in range(count):
            began = time.perf_counter()
            claimed = claim_submission(conn, worker_id)
            times.append((time.perf_counter() - began) * 1000)
            conn.rollback()
            assert claimed is not None  # noqa: S101 its gates are open
    return sorted(times)


def _taken(conn: Connection) -> int:
    row = conn.execute("select sum(pg_total_relation_size(name::regclass)) from unnest(%s::text[]) name", ([*TABLES],))
    found = row.fetchone()
    assert found is not None  # noqa: S101 an aggregate returns a row
    return int(found[0])


def draw(measured: list[Size], path: Path) -> None:
    """Four curves side by side, both axes logarithmic where they span decades."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    calls = [size.calls for size in measured]
    figure, ((reading, settling), (accepting, storing)) = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for name, label in READ.items():
        (line,) = reading.plot(calls, [getattr(size, name)[0] for size in measured], marker="o", label=label)
        reading.plot(calls, [getattr(size, name)[1] for size in measured], linestyle=":", color=line.get_color())
    slowest = max(getattr(size, name)[1] for size in measured for name in READ)
    reading.set(title="Reading: p50, and p99 dotted", ylabel="ms", ylim=(0, 1.45 * slowest))  # room for the legend
    reading.legend(fontsize="small", ncols=2, loc="upper left")
    settling.plot(calls, [size.settled_per_second for size in measured], marker="o")
    settling.set(title=f"Settling {SETTLED:,} callbacks beside them, one worker", ylabel="callbacks/s")
    accepting.plot(calls, [size.accept_seconds for size in measured], marker="o")
    accepting.set(title="Accepting a CSV of so many rows", ylabel="s", yscale="log")
    storing.plot(calls, [size.bytes_per_call for size in measured], marker="o")
    storing.set(title="Disk for each settled call, indexes included", ylabel="bytes")
    for axes in (settling, storing):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    for axes in (reading, settling, accepting, storing):
        axes.set(xlabel="calls in the batch", xscale="log")
        axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
