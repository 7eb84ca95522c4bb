"""The sizes of the queue tables while the service works for long, with the autovacuum of the product's own settings.

Two databases of one server. In the first, the whole service works: batches are released to a provider, callbacks are
settled, calls that get none become overdue and are polled, and each event is delivered to an endpoint. In the second,
SQL adds and removes rows of the same tables, at the rate of a much busier service.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from urllib.parse import urlsplit

from benchmarks.bodies import AREA, body, contact_rows
from benchmarks.figures import Figure
from benchmarks.world import ROOT, World
from receiver.database.pool import Connection, connect
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from receiver.relay.endpoints import create_endpoint
from receiver.supervisor.ports import free_port

QUEUES = ("waiting", "poll", "owed_event_{slot}", "changed_results", "outstanding", "settling", "endpoint_count",
          "batch_count", "submission_due", "submission_pending", "batch_queueing")  # fmt: skip
"""Tables of which rows go, and indexes of `submission` and `batch` that are queues. The last three have no table."""

BATCH_SECONDS = 30
SUBMISSION_ROWS = 500
SILENT = 20
"""One in so many calls gets no callback, and is polled."""
POSTERS = 8
GROUP = 400
"""Rows that the second database adds to each table at once."""
EVERY = 60.0
"""Seconds between two samples."""


def measure(world: World, *, rate: int, churn: int, minutes: int) -> list[Figure]:
    """`rate`: calls a second through the whole service. `churn`: rows a second through each table of the second
    database. Each size at the end is compared with the largest in the first third of the time."""
    url, churned = world.receiver_database("bench_queues"), world.receiver_database("bench_churn")
    until = time.monotonic() + minutes * 60
    samples: dict[str, list[dict[str, dict[str, int]]]] = {url: [], churned: []}
    port = free_port()
    network = IPv4Network("127.0.0.0/8")
    with connect(url, name="benchmark") as conn:
        create_endpoint(conn, {"url": f"http://127.0.0.1:{port}/events"}, [network], by="benchmark")
    settings = {"PLUM_URL": f"http://127.0.0.1:{port}", "RESULT_GRACE": "60", "RESULT_POLL_RATE": "100"}
    threads = [threading.Thread(target=_churn, args=(churned, churn, until))]
    with world.web(url) as web:
        provider = _Provider(web, rate)
        threads += [threading.Thread(target=_queue, args=(url, provider, rate, until))]
        threads += [threading.Thread(target=lambda: asyncio.run(provider.serve(port, until)))]
        for thread in threads:
            thread.start()
        with world.worker(url, RELAY_NETWORKS=str(network), **settings):
            with (
                connect(url, name="benchmark", autocommit=True) as one,
                connect(churned, name="benchmark", autocommit=True) as other,
            ):
                while time.monotonic() < until:
                    for each, conn in ((url, one), (churned, other)):
                        samples[each].append(_sample(conn))
                    _keep(list(samples.values()))
                    time.sleep(max(0.0, min(EVERY, until - time.monotonic())))
            for thread in threads:
                thread.join()
    figures = []
    for name, found in (("service", samples[url]), ("rows by SQL", samples[churned])):
        for queue in found[0]:
            sizes = [sample[queue]["bytes"] for sample in found]
            early, late = max(sizes[: len(sizes) // 3]), max(sizes[-len(sizes) // 3 :])
            note = f"{late / 1e6:.1f} MB; {found[-1][queue].get('removed', 0):,} rows removed"
            figures.append(
                Figure(f"{name}: {queue}, last third / first", late / max(early, 1), "x", at_most=1.2, note=note)
            )
    return figures


def _keep(samples: list[list[dict[str, dict[str, int]]]]) -> None:
    (ROOT / "benchmarks" / "out").mkdir(exist_ok=True)
    (ROOT / "benchmarks" / "out" / "queues.json").write_text(json.dumps(samples) + "\n")


def _sample(conn: Connection) -> dict[str, dict[str, int]]:
    slot = conn.execute("select slot_of(now())").fetchall()[0][0]
    found: dict[str, dict[str, int]] = {}
    for queue in QUEUES:
        name = queue.format(slot=slot)
        size, heap = conn.execute(
            "select pg_total_relation_size(%s::regclass), pg_relation_size(%s::regclass)", (name, name)
        ).fetchall()[0]
        found[queue.partition("_{")[0]] = {"at": int(time.time()), "bytes": size, "heap": heap}
        counted = conn.execute(
            "select n_live_tup, n_dead_tup, n_tup_ins, n_tup_upd, n_tup_del, autovacuum_count from pg_stat_user_tables"
            " where relname = %s",
            (name,),
        ).fetchone()
        if counted is not None:
            names = ("live", "dead", "added", "updated", "removed", "vacuums")
            found[queue.partition("_{")[0]] |= dict(zip(names, counted, strict=True))
    return found


def _queue(url: str, provider: _Provider, rate: int, until: float) -> None:
    """Queue a batch every BATCH_SECONDS, unless the machine is too slow for that."""
    csv = "".join(contact_rows(rate * BATCH_SECONDS)).encode()
    due = time.monotonic()
    while due < until:
        due += BATCH_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
        if provider.behind:
            continue
        with connect(url, name="benchmark") as conn:
            end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2 * BATCH_SECONDS)
            accept(conn, io.BytesIO(csv), BatchParameters(1, 1, end_timestamp=end), Limits(SUBMISSION_ROWS, 60))


def _churn(url: str, rate: int, until: float) -> None:
    """Add rows to each table and remove those of the turn before, by the keys that the service uses."""
    with connect(url, name="benchmark", autocommit=True) as conn:
        due, first = time.monotonic(), 1
        while time.monotonic() < until:
            values = {"first": first, "last": first + GROUP - 1, "rows": GROUP}
            for statement in _CHURN:
                conn.execute(statement.format_map(values))
            first += GROUP
            due = max(due + GROUP / rate, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))


_CHURN = (
    "insert into waiting (callback_id, batch_id, received_at, body_bytes)"
    " select g, 1, now(), 400 from generate_series({first}, {last}) g",
    "insert into outstanding (batch_id, row) select 1, g from generate_series({first}, {last}) g",
    "insert into poll (batch_id, row, submission_no, call_id)"
    " select 1, g, 1, g from generate_series({first}, {last}) g",
    "insert into changed_results (batch_id, rows) select 1, array[g] from generate_series({first}, {last}) g",
    "insert into owed_event (endpoint_id, event_id, event, batch_id, subject)"
    " select 1, g, 'call.result', 1, g from generate_series({first}, {last}) g",
    # Each poll is claimed, and each event fails once: both change an indexed time.
    "update poll set tries = 1, next_try_at = now() + interval '5 minutes'"
    " where batch_id = 1 and row between {first} and {last}",
    "update owed_event set next_try_at = now() + interval '5 seconds', attempts = '[{{}}]'"
    " where endpoint_id = 1 and event_id between {first} and {last} and slot = slot_of(now())",
    "delete from waiting where callback_id between {first} - {rows} and {first} - 1",
    "delete from outstanding where batch_id = 1 and row between {first} - {rows} and {first} - 1",
    "delete from poll where batch_id = 1 and row between {first} - {rows} and {first} - 1",
    "delete from changed_results where change_id in (select change_id from changed_results order by change_id"
    " limit {rows})",
    "delete from owed_event where endpoint_id = 1 and event_id between {first} - {rows} and {first} - 1",
)


class _Provider:
    """A provider, and the receiver of an endpoint. Posts callbacks at a rate, and answers polls."""

    def __init__(self, web: int, rate: int) -> None:
        self._web = web
        self._rate = rate
        self._queued: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    @property
    def behind(self) -> bool:
        """Whether the callbacks of half a batch wait to be posted."""
        return self._queued.qsize() > BATCH_SECONDS * self._rate / 2

    async def serve(self, port: int, until: float) -> None:
        server = await asyncio.start_server(self._take, "127.0.0.1", port)
        due = time.monotonic()
        ready: asyncio.Queue[tuple[str, int]] = asyncio.Queue(POSTERS)
        posters = [asyncio.create_task(self._post(ready)) for _ in range(POSTERS)]
        while time.monotonic() < until:
            try:
                await ready.put(await asyncio.wait_for(self._queued.get(), 1))
            except TimeoutError:
                continue
            due = max(due + 1 / self._rate, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        for poster in posters:
            poster.cancel()
        server.close()

    async def _post(self, ready: asyncio.Queue[tuple[str, int]]) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._web)
            try:
                while True:
                    path, row = await ready.get()
                    content = body(row)
                    writer.write(
                        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                        f"Content-Length: {len(content)}\r\n\r\n".encode()
                        + content
                    )
                    await _read(reader)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.1)
            finally:
                writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, content = await _read(reader)
                if head.startswith(b"GET /api/outbound/"):
                    answer = body(int(head.split()[1].rpartition(b"/")[2]))
                elif b"/bulk_queue " in head:
                    answer = self._begin(content)
                else:
                    answer = b"{}"
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
                    + answer
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _begin(self, content: bytes) -> bytes:
        """Take a submission: its calls get their callbacks in turn, all but the silent ones."""
        found = re.search(rb'name="result_url"\r\n\r\n(\S+)', content)
        assert found is not None  # noqa: S101 the service sends one
        path = urlsplit(found[1].decode()).path
        rows = [int(number) - AREA for number in re.findall(rb"^(?:\+?1)?(617\d{7}),", content, re.MULTILINE)]
        for row in rows:
            if row % SILENT:
                self._queued.put_nowait((path, row))
        return json.dumps({"calls_queued": len(rows), "call_ids": [str(row) for row in rows]}).encode()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body of one HTTP message."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return head, await reader.readexactly(int(length[1])) if length else b""
