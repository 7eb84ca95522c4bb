"""What the work costs as it grows: 10,000 calls, 100,000, a million, ten million. Kept as JSON, drawn as a picture.

Each size has a database of its own. The sizes are measured in turns, because a machine's speed changes by the minute.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

from itsdangerous import URLSafeSerializer

from benchmarks.bodies import contact_rows
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.reading import Reader, cursor, quantile
from benchmarks.settling import journal, settled_callbacks
from benchmarks.storing import TABLES
from benchmarks.world import ROOT, SECRET, SUBMISSION_ROWS, World, cpu_milliseconds, family, web_pids
from receiver.database.api_keys import create_key
from receiver.database.pool import Connection, connect
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp
from receiver.queueing.parameters import BatchParameters
from receiver.relay.bodies import make_bodies
from receiver.relay.delivery import AHEAD, IN_PROGRESS
from receiver.relay.endpoints import create_endpoint
from receiver.relay.queue import Outcome, list_due, record_outcomes
from receiver.relay.sending import Attempt
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.results.overdue import OverdueBatch, mark_overdue
from receiver.results.retention import purge_batch

SETTLED = 20_000
"""Callbacks of a fresh batch that are settled beside what lies there."""

ROUNDS = 5
SETTLINGS = 3
"""In so many rounds, callbacks are settled."""

READ = {
    "batch": "GET /batches/{id}",
    "batches": "list of batches",
    "summary": "summary",
    "first page": "first page of 100 calls",
    "last page": "last page",
    "callbacks": "page of 100 callbacks",
    "number": "one number in the batch",
    "search": "one number in all batches",
    "first of feed": "page of 100 of the feed",
    "last of feed": "last page of the feed",
    "hours": "breakdown by hour",
}
WRITTEN = {
    "claim": "claiming a submission",
    "accept": "accepting 1,000 rows",
    "follow-up": "following up a batch of 1,000",
    "deliver": "delivering 48 events, without HTTP",
    "overdue": "counting overdue calls",
    "purge": "purging a batch of 1,000",
}
COUNTED = {"attempts": "breakdown by attempt", "areas": "breakdown by area"}
"""Each result is counted. So these grow."""

PICTURE = ROOT / "docs" / "pictures" / "growth.svg"


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured with `calls` calls in one batch, by name.

    `cpu`: milliseconds of CPU time of our processes and of Postgres for each request or piece of work, the least of
    the turns; of settling, for each callback. `taken`: milliseconds until the end, [p50, p99].
    """

    calls: int
    cpu: dict[str, float]
    taken: dict[str, tuple[float, float]]
    settled_per_second: float
    bytes_per_call: float


def measure(world: World, *, sizes: tuple[int, ...], count: int) -> list[Figure]:
    """Measures all sizes in turns, and draws the picture. `count`: asked this often."""
    (ROOT / "benchmarks" / "out").mkdir(exist_ok=True)
    with ExitStack() as stack:
        places = [stack.enter_context(_place(world, size)) for size in sizes]
        for at in range(ROUNDS):
            for place in places:
                place.measure(-(-count // ROUNDS))
            for place in places if at < SETTLINGS else ():
                place.settle()
            measured = [place.size for place in places]
            _keep(measured)
    for number, place in enumerate(places):
        place.accept_all()
        measured[number] = place.size
        _keep(measured)
    small, large = measured[0], measured[-1]
    label = f"{large.calls:,} calls / {small.calls:,}"
    figures = [
        Figure(f"CPU time, {name}: {label}", large.cpu[key] / small.cpu[key], "x",
               at_most=None if key in COUNTED else 1.3,
               note=f"{small.cpu[key]:.2f} and {large.cpu[key]:.2f} ms; p50 {large.taken[key][0]:.1f} ms")
        for key, name in {**READ, **WRITTEN, **COUNTED}.items()
    ]  # fmt: skip
    return [
        *figures,
        Figure(f"CPU time, settling: {label}", large.cpu["settle"] / small.cpu["settle"], "x", at_most=1.3,
               note=f"{1000 * large.cpu['settle']:.0f} µs a callback"),
        Figure(f"disk, a call: {label}", large.bytes_per_call / small.bytes_per_call, "x", at_most=1.3),
    ]  # fmt: skip


def _keep(measured: list[Size]) -> None:
    content = json.dumps([asdict(each) for each in measured], indent=1)
    (ROOT / "benchmarks" / "out" / "growth.json").write_text(content + "\n")
    draw(measured, PICTURE)


@contextmanager
def _place(world: World, calls: int) -> Iterator[_Place]:
    url = world.receiver_database(f"bench_growing_{calls}")
    with connect(url, name="benchmark", autocommit=True) as conn:
        key = create_key(conn, "benchmark", "read")
        batch_id = fill(conn, calls)
        conn.execute("vacuum analyze")
        bytes_per_call = _taken(conn) / calls
    with world.web(url) as port, connect(url, name="benchmark") as conn:
        yield _Place(world, url, calls, batch_id, port, key, conn, bytes_per_call)


class _Place:
    """The database of one size, and what was measured there so far."""

    def __init__(
        self,
        world: World,
        url: str,
        calls: int,
        batch_id: int,
        port: int,
        key: str,
        conn: Connection,
        bytes_per_call: float,
    ) -> None:
        self._world = world
        self._url = url
        self._calls = calls
        self._batch_id = batch_id
        self._port = port
        self._key = key
        self._conn = conn
        self._bytes_per_call = bytes_per_call
        self._cpu: defaultdict[str, list[float]] = defaultdict(list)
        self._taken: defaultdict[str, list[float]] = defaultdict(list)
        self._settled: list[float] = []
        self._worker_id = register_worker(conn, "benchmark", 1)
        self._small = fill(conn, 1000)
        """A batch that is followed up, and whose overdue calls are counted."""
        address = {"url": "http://127.0.0.1:9/", "events": ["call.result"]}
        endpoint, _ = create_endpoint(conn, address, [IPv4Network("127.0.0.0/8")], by="benchmark")
        self._endpoint_id = endpoint.id
        conn.execute(
            "insert into owed_event (endpoint_id, event, batch_id, subject)"
            " select %s, 'call.result', %s, %s / 2 + g * 3 from generate_series(1, %s) g",
            (endpoint.id, batch_id, calls, IN_PROGRESS + AHEAD),
        )
        conn.execute("update endpoint set disabled_at = now()")  # nothing is owed, and no worker delivers
        conn.commit()

    @property
    def size(self) -> Size:
        taken = {name: sorted(found) for name, found in self._taken.items()}
        return Size(
            self._calls,
            {name: min(found) for name, found in self._cpu.items()},
            {name: (statistics.median(found), quantile(found, 0.99)) for name, found in taken.items()},
            settled_per_second=statistics.median(self._settled) if self._settled else 0.0,
            bytes_per_call=self._bytes_per_call,
        )

    def measure(self, count: int) -> None:
        """Measure everything `count` times, and what takes longer once."""
        self._world.batch(self._url, 1000)  # Submissions to claim: the last turn sent all earlier ones.
        with Reader(self._port, self._key) as reader:
            for name, path in self._paths(reader).items():
                reader.ask(path)
                self._note(name, web_pids(self._port), partial(reader.ask, path), 1 if name in COUNTED else count)
        for name, work in self._work().items():
            self._note(name, [os.getpid()], work, count)
        batch_id = fill(self._conn, 1000)
        self._conn.commit()
        self._note("purge", [os.getpid()], partial(self._purge, batch_id), 1)

    def _note(self, name: str, pids: Collection[int], work: Callable[[], object], count: int) -> None:
        """Note what the work takes. `pids`: our processes that do it, beside Postgres."""
        pids = [*pids, *self._backends()]
        before = cpu_milliseconds(pids)
        for _ in range(count):
            began = time.perf_counter()
            done = work()
            self._taken[name].append((time.perf_counter() - began) * 1000)
            self._conn.rollback()
            assert done  # noqa: S101 there is something to do
        self._cpu[name].append((cpu_milliseconds(pids) - before) / count)

    def _backends(self) -> list[int]:
        """The processes of Postgres that serve this database."""
        found = self._conn.execute("select pid from pg_stat_activity where datname = current_database()").fetchall()
        self._conn.rollback()
        return [pid for (pid,) in found]

    def _paths(self, reader: Reader) -> dict[str, str]:
        base = f"/api/v1/batches/{self._batch_id}"
        last = cursor(self._batch_id, self._calls - 150)
        number = reader.number_of(base, self._calls // 2)
        epoch, position = self._conn.execute("select epoch, last_position from feed").fetchall()[0]
        self._conn.rollback()
        end = str(URLSafeSerializer([SECRET], salt="cursor results").dumps([epoch, position, 0]))
        return {
            "batch": base,
            "batches": "/api/v1/batches",
            "summary": f"/api/v1/summary?batch_id={self._batch_id}",
            "first page": f"{base}/calls?limit=100",
            "last page": f"{base}/calls?limit=100&cursor={last}",
            "callbacks": "/api/v1/callbacks?limit=100",
            "number": f"{base}/calls?phone_number={number}",
            "search": f"/api/v1/calls?phone_number={number}",
            "first of feed": "/api/v1/results?limit=100",
            "last of feed": f"/api/v1/results?limit=100&cursor={end}",
            "hours": "/api/v1/summary/breakdown?by=hour_of_day",
            "attempts": "/api/v1/summary/breakdown?by=attempt",
            "areas": "/api/v1/summary/breakdown?by=area",
        }

    def _work(self) -> dict[str, Callable[[], object]]:
        """What is done in one transaction, which is rolled back."""
        csv = "".join(contact_rows(1000)).encode()
        limits = Limits(SUBMISSION_ROWS, 3600)
        followed = FollowUp(self._small)
        return {
            "claim": lambda: claim_submission(self._conn, self._worker_id),
            "accept": lambda: accept(self._conn, io.BytesIO(csv), BatchParameters(1, 1), limits),
            "follow-up": lambda: accept(self._conn, followed, BatchParameters(1, 1, on_duplicate="keep"), limits),
            "deliver": self._deliver,
            "overdue": self._overdue,
        }

    def _overdue(self) -> list[OverdueBatch]:
        self._conn.execute("update submission set due_at = now() where batch_id = %s", (self._small,))
        return mark_overdue(self._conn)[0]

    def _deliver(self) -> list[Outcome]:
        due = list_due(self._conn, self._endpoint_id, IN_PROGRESS + AHEAD, [])
        bodies = make_bodies(self._conn, due)
        delivered = Attempt(datetime.now(UTC), 200, 0, None)
        outcomes = [Outcome(owed, delivered) for owed in due if bodies[owed.id]]
        record_outcomes(self._conn, self._endpoint_id, outcomes)
        return outcomes

    def _purge(self, batch_id: int) -> bool:
        for _ in purge_batch(self._conn, batch_id, by="benchmark", force=True):
            self._conn.commit()
        return True

    def settle(self) -> None:
        """Settle a fresh batch beside what is there."""
        journal(self._url, self._world.sent_batch(self._url, SETTLED), 1, SETTLED)
        with connect(self._url, name="benchmark", autocommit=True) as conn:
            before = settled_callbacks(conn)
            with self._world.worker(self._url) as pid:
                while (first := settled_callbacks(conn)) == before:
                    time.sleep(0.01)
                pids = {*family(pid), *self._backends()} - {conn.info.backend_pid}
                began, cpu = time.monotonic(), cpu_milliseconds(pids)
                while (settled := settled_callbacks(conn)) < before + SETTLED:
                    time.sleep(0.05)
                self._settled.append((settled - first) / (time.monotonic() - began))
                self._cpu["settle"].append((cpu_milliseconds(pids) - cpu) / (settled - first))

    def accept_all(self) -> None:
        """Accept a CSV of as many rows as there are calls."""
        contacts = self._world.folder / "contacts.csv"
        with contacts.open("w", newline="") as file:
            file.writelines(contact_rows(self._calls))
        with connect(self._url, name="benchmark") as conn, contacts.open("rb") as csv:
            pids = [os.getpid(), conn.info.backend_pid]
            began, cpu = time.monotonic(), cpu_milliseconds(pids)
            accept(conn, csv, BatchParameters(1, 1), Limits(SUBMISSION_ROWS, 3600))
            self._cpu["accept all"] = [cpu_milliseconds(pids) - cpu]
            self._taken["accept all"] = [(time.monotonic() - began) * 1000]
        contacts.unlink()


def _taken(conn: Connection) -> int:
    """Bytes of the tables that grow with the calls, with their partitions."""
    row = conn.execute(
        "select sum(pg_total_relation_size(relid)) from unnest(%s::text[]) name,"
        " lateral (select name::regclass as relid union select relid from pg_partition_tree(name::regclass)) each",
        ([*TABLES],),
    ).fetchall()[0]
    return int(row[0])


def draw(measured: list[Size], path: Path) -> None:
    """The curves side by side. Axes are logarithmic where they span decades."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    calls = [size.calls for size in measured]
    figure, ((reading, working, growing), (settling, storing, empty)) = pyplot.subplots(
        2, 3, figsize=(17, 9), layout="constrained"
    )
    empty.set_axis_off()
    for axes, names, title in (
        (reading, READ, "Reading over HTTP"),
        (working, WRITTEN, "Work of one transaction"),
        (growing, COUNTED, "What grows: each row is read or written"),
    ):
        axes.set_prop_cycle(color=pyplot.colormaps["tab20"].colors)
        for name, label in names.items():
            axes.plot(calls, [size.cpu[name] for size in measured], marker="o", label=label)
        axes.set(title=title, ylabel="ms of CPU time", yscale="log")
    accepted = [size for size in measured if "accept all" in size.cpu]
    line = [size.cpu["accept all"] for size in accepted]
    growing.plot([size.calls for size in accepted], line, marker="o", label="accepting a CSV of so many rows")
    for axes, below in ((reading, 30), (working, 30), (growing, 1)):
        low, high = axes.dataLim.y0, axes.dataLim.y1
        axes.set_ylim(low / 1.5, high * below)  # room for the legend
        axes.legend(fontsize="x-small", ncols=2 if below > 1 else 1, loc="upper left")
    settled = [size for size in measured if "settle" in size.cpu]
    settling.plot([size.calls for size in settled], [1000 * size.cpu["settle"] for size in settled], marker="o")
    settling.set(title=f"Settling {SETTLED:,} callbacks beside them", ylabel="µs of CPU time a callback")
    storing.plot(calls, [size.bytes_per_call for size in measured], marker="o")
    storing.set(title="Disk for each settled call, indexes included", ylabel="bytes")
    for axes in (settling, storing):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    for axes in (reading, working, growing, settling, storing):
        axes.set(xlabel="calls in the batch", xscale="log")
        axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
