"""What a reader waits for: a batch of a million calls beside one of a thousand, and pages anywhere in it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import socket
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from itsdangerous import URLSafeSerializer

from benchmarks.bodies import AREA
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.world import ROOT, SECRET, World
from receiver.database.api_keys import create_key
from receiver.database.pool import connect

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n(?:[^\r\n]+\r\n)*\r\n")
"""The head of an answer from the length of what follows, to its end."""

EARLIER = "7f165ca"
"""The last version under gevent, to compare with."""

TURN = 30
"""Requests of one kind before it is the next one's turn."""


class Reader:
    """Asks one web process over a connection that stays open; times are milliseconds until the whole answer.

    It looks at no header but the length: `http.client` takes 80 us to parse fifteen, which is no time of the server's.
    """

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._headers = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, path: str) -> tuple[float, dict[str, object]]:
        request = f"GET {path} HTTP/1.1\r\n{self._headers}\r\n".encode()
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = b""
        while (length := _LENGTH.search(answer)) is None or len(answer) < length.end() + int(length[1]):
            if not (read := self._socket.recv(1 << 20)):
                raise RuntimeError(f"{path}: hung up on after {answer[:300]!r}")
            answer += read
        taken = (time.perf_counter() - began) * 1000
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{path}: {answer[:500]!r}")
        return taken, json.loads(answer[length.end() :])

    def number_of(self, base: str, row: int) -> str:
        """The number that a call of the batch at `base` has, as it stands in a query."""
        return str(self.ask(f"{base}/calls/{row}")[1]["phone_number"]).replace("+", "%2B")

    def times(self, path: str, count: int) -> list[float]:
        for _ in range(10):
            self.ask(path)
        return sorted(self.ask(path)[0] for _ in range(count))


def in_turn(asked: dict[str, tuple[Reader, str]], count: int) -> dict[str, list[float]]:
    """Times of each, sorted, `count` or a few more; in short turns, as a machine's speed changes by the minute."""
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(0, count, TURN):
        for name, (reader, path) in asked.items():
            times[name] += reader.times(path, TURN)
    return {name: sorted(found) for name, found in times.items()}


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
    with (
        world.web(url, "benchmarks.peers.select_one:app", "--worker-class", "gthread", "--threads", "2") as floor_port,
        world.web(url) as port,
        Reader(floor_port, key) as floor_reader,
        Reader(port, key) as reader,
        ExitStack() as earlier,
    ):
        kinds = {"GET /batches/{id}": "/api/v1/batches/{}", "summary": "/api/v1/summary?batch_id={}"}
        asked = {"select 1": (floor_reader, "/api/v1/batches/1")}
        for name, path in kinds.items():
            asked |= {f"{name} {calls}": (reader, path.format(calls)) for calls in (small, batch_id)}
        if (folder := earlier_version(world)) is not None:
            earlier_port = earlier.enter_context(world.web(url, "app:app", root=folder))
            earlier_reader = earlier.enter_context(Reader(earlier_port, key))
            asked |= {f"{name}, before": (earlier_reader, path.format(batch_id)) for name, path in kinds.items()}
        times = in_turn(asked, count)
        for name, part in itertools.product(kinds, (0.5, 0.99)):
            floor, of_small, of_large = (
                quantile(times[which], part) for which in ("select 1", f"{name} {small}", f"{name} {batch_id}")
            )
            label = f"p{part * 100:g}"
            figures += [
                Figure(f"{name}, {large:,} calls / 1,000: {label}", of_large / of_small, "x", at_most=1.3,
                       note=f"{of_large:.2f} ms"),
                Figure(f"{name}, {large:,} calls / a view that runs select 1: {label}", of_large / floor, "x",
                       at_most=2.0, note=f"which takes {floor:.2f} ms"),
            ]  # fmt: skip
        for name in kinds if folder is not None else ():
            now, before = (quantile(times[f"{name}{which}"], 0.5) for which in (f" {batch_id}", ", before"))
            figures.append(
                Figure(
                    f"{name}: p50 / under gevent", now / before, "x", at_most=1, note=f"{now:.2f} and {before:.2f} ms"
                )
            )
        for name, of_page in _pages(reader, batch_id, large, count):
            figures.append(
                Figure(
                    f"calls, {name}: p99",
                    quantile(of_page, 0.99),
                    "ms",
                    at_most=25,
                    note=f"p50 {statistics.median(of_page):.1f} ms",
                )
            )
    return figures


def earlier_version(world: World) -> Path | None:
    """The code of the last version under gevent, out of git; None where git does not have it."""
    folder = world.folder / "earlier"
    folder.mkdir(mode=0o755)
    packed = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, capture_output=True)  # noqa: S603, S607
    if packed.returncode or importlib.util.find_spec("gevent") is None:
        return None
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)  # noqa: S603, S607
    return folder


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
