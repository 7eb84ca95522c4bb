"""Constant load and a burst: nothing grows, nothing is lost. LOAD_SECONDS: the duration (make load-long).

In a long run, an endpoint gets each result, and people look at the pages.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest

from tests.acceptance.calling import AcceptingProvider
from tests.acceptance.load import Load
from tests.acceptance.outages import sign_in
from tests.acceptance.service import Service, ask
from tests.relay.endpoint_server import Request, receiving
from tests.waiting import eventually

pytestmark = pytest.mark.long

SECONDS = float(os.environ.get("LOAD_SECONDS", "20"))
LONG = SECONDS >= 300
SAMPLES = 60
SHARE = 0.8
"""The share of the service's top rate, while its worker settles."""

ROWS = 300_000 if LONG else 15_000
"""Many rows, so that each call gets few callbacks. Repeated callbacks of a call are slower to settle."""

NUMBERS = [str(6_175_550_000 + row) for row in range(ROWS)]
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the service's processes use at one moment."""

    at: float
    rss_bytes: dict[str, int]
    files: dict[str, int]
    connections: int
    """To the database, of web processes and worker."""


def sample(service: Service) -> Sample:
    rss, files, connections = {}, {}, 0
    for process in service.processes():
        if "postgres: receiver-" in process.command:
            connections += " receiver receiver " in process.command
            continue
        kind = "web" if "gunicorn" in process.command else "worker" if "receiver work" in process.command else ""
        if kind:
            name = f"{kind} {process.pid}"
            try:
                rss[name] = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE
                files[name] = len(os.listdir(f"/proc/{process.pid}/fd"))
            except OSError:
                continue  # it has ended
    return Sample(time.monotonic(), rss, files, connections)


@contextmanager
def called(folder: Path) -> Iterator[tuple[Service, str]]:
    """A service with a batch that was queued, and its `result_url`."""
    contacts = folder / "contacts.csv"
    contacts.write_text("destination\n" + "".join(f"{number}\n" for number in NUMBERS))
    with AcceptingProvider() as provider:
        login: dict[str, Any] = {
            "PLUM_URL": provider.url,
            "PLUM_USER": "u",
            "PLUM_KEY": "k",
            "SUBMISSION_ROWS": str(ROWS),
            "RELAY_NETWORKS": "127.0.0.0/8",
        }
        with Service(folder, WEB_CONCURRENCY="2", **login) as service:
            assert service.queue(contacts, "Prefer: wait=0").status in (201, 202)
            eventually(lambda: len(provider.result_urls) == 1, 120)
            eventually(lambda: service.batch(1)["state"] == "queued")
            yield service, provider.result_urls[0]


PAGES = (
    "/ /attention /batches /batches/1 /batches/1/calls/1 /callbacks?state=any /answer-rates?batch_id=1 /endpoints"
    " /endpoints/1 /keys /audit /api/v1/batches/1/calls?limit=200 /api/v1/results"
).split()
LOOK_SECONDS = 0.25


@dataclass(slots=True)
class Looks:
    """What people saw who looked at the pages."""

    seconds: list[float]
    failures: list[str]


@contextmanager
def in_use(service: Service) -> Iterator[Looks]:
    """An endpoint gets each result until the end of the block, and people look at one page after the other."""
    here, there = multiprocessing.Pipe()
    # In its own process, so that it does not slow down the sender of the callbacks.
    endpoint = multiprocessing.get_context("spawn").Process(target=_receive, args=(there,))
    endpoint.start()
    looks, over = Looks([], []), threading.Event()
    headers = {"Cookie": sign_in(service), "Authorization": f"Bearer {service.key}"}

    def look() -> None:
        for page in cycle(PAGES):
            if over.wait(LOOK_SECONDS):
                return
            began = time.monotonic()
            answer = ask(service.url + page, headers=headers)
            looks.seconds.append(time.monotonic() - began)
            if answer.status != 200:
                looks.failures.append(f"{page}: {answer.status}")

    people = threading.Thread(target=look)
    try:
        made = service.ask(
            "/api/v1/endpoints",
            "POST",
            json.dumps({"url": here.recv(), "events": ["call.result"]}).encode(),
            {"Content-Type": "application/json"},
        )
        assert made.status == 201, made
        people.start()
        yield looks
        over.set()
        people.join()
        # On a slow machine the deliveries take longer than the load, but each thousand takes less than two minutes.
        for few in range(_owed(service)["waiting"] // 1000 * 1000, -1, -1000):
            eventually(partial(_owes, service, few), 120, lambda: _owed(service))
        assert _owed(service)["given_up"] == 0
    finally:
        over.set()
        endpoint.kill()
        endpoint.join()


def _owed(service: Service) -> dict[str, int]:
    owed: dict[str, int] = service.ask("/api/v1/endpoints/1").json["events_owed"]
    return owed


def _owes(service: Service, at_most: int) -> bool:
    return _owed(service)["waiting"] <= at_most


def _receive(told: Connection) -> None:
    """Accept each event, and forget it."""

    def answer(_: Request) -> tuple[int, dict[str, str], bytes]:
        server.requests.clear()
        return 200, {}, b""

    with receiving(answer) as server:
        told.send(server.url)
        threading.Event().wait()


def all_settled(service: Service, stored: int, seconds: float) -> None:
    """Every callback that was answered 200 is in the journal, once, and is settled, and the counters agree."""
    eventually(lambda: service.batch(1)["callbacks"]["waiting"] == 0, seconds, lambda: service.batch(1)["callbacks"])
    callbacks = service.batch(1)["callbacks"]
    assert callbacks["received"] == stored
    assert callbacks["applied"] + callbacks["duplicate"] == stored
    verified = service.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def milliseconds(seconds: list[float]) -> str:
    return f"p50 {1000 * median(seconds):.1f} ms, p99 {1000 * quantiles(seconds, n=100)[98]:.1f} ms"


def print_figures(top_rate: float, load: Load, samples: list[Sample], began: float, waiting: int) -> None:
    """Print the figures of a run: at its beginning, in its middle, and at its end."""
    seconds = samples[-1].at - began
    print(f"\ntop rate {top_rate:,.0f} callbacks/s; {seconds:.0f} s at {load.stored / seconds:,.0f}/s")
    for name, first, last in (("first third", 0.0, 1 / 3), ("last third", 2 / 3, 9.0)):
        waits = [wait for due, wait in load.durations if first <= (due - began) / seconds < last]
        print(f"{name:<12} {milliseconds(waits)}")
    three = samples[0], samples[len(samples) // 2], samples[-1]
    for name in samples[-1].rss_bytes:
        megabytes = " → ".join(f"{each.rss_bytes.get(name, 0) / 2**20:.1f}" for each in three)
        print(f"{name.split()[0]:<12} {megabytes} MiB, files {[each.files.get(name, 0) for each in three]}")
    print(f"{'database':<12} connections {[each.connections for each in three]}; {waiting:,} not settled yet")
    print(f"{'machine':<12} load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def test_nothing_grows_at_four_fifths_of_the_top_rate(server_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with called(server_dir) as (service, result_url), in_use(service) if LONG else nullcontext() as looks:
        began = time.monotonic()
        with Load(result_url, NUMBERS, rate=0) as top:
            time.sleep(max(4.0, SECONDS / 20))
        top_rate = top.stored / (time.monotonic() - began)
        rate = SHARE * top_rate
        samples: list[Sample] = []
        with Load(result_url, NUMBERS, rate) as load:
            began = time.monotonic()
            # A slow machine needs longer to get all samples that are compared below.
            while time.monotonic() < began + SECONDS or len(samples) < SAMPLES:
                time.sleep(SECONDS / SAMPLES)
                samples.append(sample(service))
        waiting = service.batch(1)["callbacks"]["waiting"]
        with capsys.disabled():
            print_figures(top_rate, load, samples, began, waiting)
        settled_at = time.monotonic()
        all_settled(service, top.stored + load.stored, 120 + 2 * SECONDS)
        with capsys.disabled():
            print(f"{'verify':<12} passed; all settled {time.monotonic() - settled_at:.0f} s after the last callback")
            if looks is not None:
                print(f"{'pages':<12} {len(looks.seconds):,} opened, {milliseconds(looks.seconds)}")
                print(f"{'events':<12} {_owed(service)}")
                assert looks.failures == []
    assert (top.failures, load.failures) == ([], [])

    # The first third fills caches and pools; what grows later would grow without a limit.
    middle, end = samples[20:30], samples[-10:]
    assert end[-1].rss_bytes.keys() == samples[0].rss_bytes.keys() and len(end[-1].rss_bytes) >= 3, "none was replaced"
    for name in end[-1].rss_bytes:
        before, after = (median(each.rss_bytes[name] for each in some) for some in (middle, end))
        assert after < before * 1.05 + (8 << 20), f"{name} grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB"
        assert max(each.files[name] for each in end) <= max(each.files[name] for each in middle) + 5, name
    assert max(each.connections for each in end) <= max(each.connections for each in middle) + 2
    if LONG:  # in a short run, other load on this machine has more influence
        middle_of_run = began + SECONDS / 2
        halves = [[wait for due, wait in load.durations if (due < middle_of_run) is first] for first in (True, False)]
        assert median(halves[1]) < 1.5 * median(halves[0]) + 0.005


def test_burst_of_twenty_times_the_usual_rate_loses_nothing(server_dir: Path) -> None:
    usual = 40.0
    with called(server_dir) as (service, result_url):
        with Load(result_url, NUMBERS, usual, connections=300) as load:
            time.sleep(2)
            before, load.rate = load.stored, 20 * usual
            eventually(lambda: load.stored > before + 5 * load.rate, 120)  # five seconds of the burst
            load.rate = usual
            time.sleep(1)
        assert load.failures == []
        all_settled(service, load.stored, 60)
