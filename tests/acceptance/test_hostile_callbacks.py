"""A sender with one result_url posts many bodies that are slow to read. All other results are recorded in time."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.acceptance.outages import NUMBERS, World, world
from tests.acceptance.postgres import Postgres
from tests.waiting import eventually

pytestmark = pytest.mark.long

GENUINE = 150
"""Results of one run, one each 20 ms."""

BACKLOG = 300
"""Hostile callbacks that wait before the first result is posted. More are posted during the test."""

SENDERS = 2
TRIES = 3
"""The machine can stall once; a service that is too slow is slow every time."""

VISIBLE_SECONDS = 2.0
RSS_MIB = 200
PAGE = os.sysconf("SC_PAGE_SIZE")

_EVENT = "<item><event>dialing</event><timestamp>1700000000</timestamp></item>"
_EVENTS = {"events": [{"event": "dialing", "timestamp": 1_700_000_000 + number} for number in range(1_200)]}


def hostile_bodies(number: str) -> list[bytes]:
    """Bodies that are slowest to read for their length: XML compressed to a kilobyte, and as many events as fit."""
    xml = f"<r><phone_number>{number}</phone_number><status>failed</status><events>{_EVENT * 1_300}</events></r>"
    events = json.dumps({"phone_number": number, "status": "failed", **_EVENTS})
    return [gzip.compress(xml.encode()), events.encode(), gzip.compress(b" " * (1 << 20))]


class Poster:
    """Posts to one `result_url`, on a persistent connection."""

    def __init__(self, result_url: str) -> None:
        self._address = urlsplit(result_url)
        self._connection = http.client.HTTPConnection(self._address.netloc, timeout=60)

    def post(self, body: bytes) -> int:
        try:
            self._connection.request("POST", self._address.path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            self.close()
            return 0

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Watch:
    """Measures the service during a context: results in the counters, and the largest memory of a process."""

    running: World
    batch_id: int
    seen: list[tuple[float, int]] = field(default_factory=list)
    rss_mib: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        threads = [threading.Thread(target=each) for each in (self._watch_results, self._watch_memory)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def results(self) -> int:
        return self.seen[-1][1] if self.seen else 0

    def _watch_results(self) -> None:
        query = "select applied from batch_count where batch_id = %s"
        with psycopg.connect(self.running.postgres.url, autocommit=True) as conn:
            while not self._over.wait(0.01):
                (applied,) = conn.execute(query, (self.batch_id,)).fetchone() or (0,)
                self.seen.append((time.monotonic(), applied))

    def _watch_memory(self) -> None:
        while not self._over.wait(0.1):
            for process in self.running.service.processes():
                if "gunicorn" in process.command or "receiver work" in process.command:
                    with contextlib.suppress(OSError):
                        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                        self.rss_mib = max(self.rss_mib, pages * PAGE / (1 << 20))


def post_results(running: World) -> tuple[float, float]:
    """Queue a batch and post its results, one each 20 ms. All are answered; returns the 99th percentile of the seconds
    from an answer until its result is counted, and the largest memory of a process in MiB.
    """
    queued = running.queue(NUMBERS[:GENUINE])
    assert queued.status == 201, queued.body
    poster, watch = Poster(running.provider.result_urls[-1]), Watch(running, int(queued.json["id"]))
    answered: list[float] = []
    with watch.watching():
        began = time.monotonic()
        for place, number in enumerate(NUMBERS[:GENUINE]):
            time.sleep(max(0.0, began + 0.02 * place - time.monotonic()))
            body = json.dumps({"phone_number": number, "status": "completed", "attempts": 1}).encode()
            assert poster.post(body) == 200
            answered.append(time.monotonic())
        poster.close()
        eventually(lambda: watch.results() == GENUINE, otherwise=watch.results)
    delays = sorted(
        next(at for at, results in watch.seen if results >= count) - moment for count, moment in enumerate(answered, 1)
    )
    return delays[int(len(delays) * 0.99)], watch.rss_mib


@contextlib.contextmanager
def attacking(running: World) -> Iterator[None]:
    """Post hostile callbacks before the context, and more during it, for a few calls."""
    bodies = [body for number in NUMBERS[:20] for body in hostile_bodies(number)]
    over = threading.Event()

    def attack(first: int) -> None:
        with contextlib.closing(Poster(running.results.result_url)) as poster:
            for place in itertools.count(first, SENDERS):
                if over.is_set():
                    return
                poster.post(bodies[place % len(bodies)])
                posted[0] += 1

    posted = [0]
    attackers = [threading.Thread(target=attack, args=(place,)) for place in range(SENDERS)]
    for attacker in attackers:
        attacker.start()
    try:
        eventually(lambda: posted[0] >= BACKLOG)
        yield
    finally:
        over.set()
        for attacker in attackers:
            attacker.join()


def test_costly_callbacks_of_one_token_do_not_delay_others_or_fill_the_memory(server_dir: Path) -> None:
    with Postgres(server_dir) as postgres, world(server_dir, postgres) as running:
        calm, _ = post_results(running)
        tried = []
        with attacking(running):
            for _ in range(TRIES):
                tried.append(post_results(running))
                print(f"calm {calm:.2f} s; under attack {tried[-1][0]:.2f} s, {tried[-1][1]:.0f} MiB")
                if tried[-1][0] <= VISIBLE_SECONDS + calm:
                    break
        assert min(delay for delay, _ in tried) <= VISIBLE_SECONDS + calm, tried
        assert max(rss for _, rss in tried) <= RSS_MIB, tried
