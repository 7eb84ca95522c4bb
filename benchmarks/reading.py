"""What a reader waits for: a batch of a million calls beside one of a thousand, and pages anywhere in it."""

from __future__ import annotations

import http.client
import json
import statistics
import time

from itsdangerous import URLSafeSerializer

from benchmarks.bodies import AREA
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.world import SECRET, World
from receiver.database.api_keys import create_key
from receiver.database.pool import connect


class Reader:
    """Asks one web process over a connection that stays open; times are milliseconds until the whole answer."""

    def __init__(self, port: int, key: str) -> None:
        self._conn = http.client.HTTPConnection("127.0.0.1", port)
        self._headers = {"Authorization": f"Bearer {key}"}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()

    def ask(self, path: str) -> tuple[float, dict[str, object]]:
        began = time.perf_counter()
        self._conn.request("GET", path, headers=self._headers)
        answer = self._conn.getresponse()
        body = answer.read()
        taken = (time.perf_counter() - began) * 1000
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:300]!r}")
        return taken, json.loads(body)

    def number_of(self, base: str, row: int) -> str:
        """The number that a call of the batch at `base` has, as it stands in a query."""
        return str(self.ask(f"{base}/calls/{row}")[1]["phone_number"]).replace("+", "%2B")

    def times(self, path: str, count: int) -> list[float]:
        for _ in range(10):
            self.ask(path)
        return sorted(self.ask(path)[0] for _ in range(count))


def quantile(times: list[float], part: float) -> float:
    """Of sorted times, the one that `part` of them do not exceed."""
    return times[min(int(len(times) * part), len(times) - 1)]


def measure(world: World, *, large: int, others: int, count: int) -> list[Figure]:
    """`large`: calls of the large batch; `others`: batches of that size beside it; `count`: asked this often."""
    url = world.receiver_database("bench_reading")
    with connect(url, name="benchmark", autocommit=True) as conn:
        small = fill(conn, 1000)
        for _ in range(others):
            fill(conn, large)
        batch_id = fill(conn, large)
        conn.execute("vacuum analyze")
        key = create_key(conn, "benchmark", "read")
    figures: list[Figure] = []
    with world.web(url, "benchmarks.peers.select_one:app") as port:
        with Reader(port, key) as reader:
            floor = reader.times("/api/v1/batches/1", count)
    with world.web(url) as port, Reader(port, key) as reader:
        for name, path in (("GET /batches/{id}", "/api/v1/batches/{}"), ("summary", "/api/v1/summary?batch_id={}")):
            of_small = reader.times(path.format(small), count)
            of_large = reader.times(path.format(batch_id), count)
            for part in (0.5, 0.99):
                label = f"p{part * 100:g}"
                figures.append(
                    Figure(
                        f"{name}, {large:,} calls / 1,000: {label}",
                        quantile(of_large, part) / quantile(of_small, part),
                        "x",
                        at_most=1.3,
                        note=f"{quantile(of_large, part):.2f} ms",
                    )
                )
                figures.append(
                    Figure(
                        f"{name}, {large:,} calls / a view that runs select 1: {label}",
                        quantile(of_large, part) / quantile(floor, part),
                        "x",
                        at_most=2.0,
                        note=f"which takes {quantile(floor, part):.2f} ms",
                    )
                )
        for name, times in _pages(reader, batch_id, large, count):
            figures.append(
                Figure(
                    f"calls, {name}: p99",
                    quantile(times, 0.99),
                    "ms",
                    at_most=25,
                    note=f"p50 {statistics.median(times):.1f} ms",
                )
            )
    return figures


def _pages(reader: Reader, batch_id: int, large: int, count: int) -> list[tuple[str, list[float]]]:
    base = f"/api/v1/batches/{batch_id}/calls"
    filters = {
        "no filter": "",
        "state pending (rarest)": "&state=pending",
        "outcome other (rarest)": "&outcome=other",
        "outcome completed": "&outcome=completed",
        "state final": "&state=final",
    }
    found = []
    for name, condition in filters.items():
        found.append((f"{name}, first page", reader.times(f"{base}?limit=100{condition}", count)))
        for place, row in (("middle", large // 2), ("last", large - 150)):
            path = f"{base}?limit=100{condition}&cursor={cursor(batch_id, row)}"
            found.append((f"{name}, {place} page", reader.times(path, count)))
    number = f"%2B{AREA + large // 3}"
    found.append(("by number in the batch", reader.times(f"{base}?phone_number={number}", count)))
    found.append(("by number in all batches", reader.times(f"/api/v1/calls?phone_number={number}", count)))
    return found


def cursor(batch_id: int, row: int) -> str:
    """A cursor as the API signs it (`receiver.web.cursors`), at any row."""
    return str(URLSafeSerializer([SECRET], salt=f"cursor calls {batch_id}").dumps([row]))
