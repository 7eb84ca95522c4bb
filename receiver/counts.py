"""The metrics of a web process: plain numbers, written once a second into the metrics of prometheus_client.

Each callback is counted, and that takes 0.3 microseconds here, but twenty times as long in prometheus_client. Under our
gunicorn settings the metrics are files (its multiprocess mode), so that any process can answer `/metrics` with the sums
of all processes (receiver.metric_files).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Literal

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from receiver.metric_files import folder

ANSWERS = (
    "stored",
    "spooled",
    "ok",
    "not_found",
    "incomplete",
    "too_large",
    "method_not_allowed",
    "forbidden",
    "over_budget",
    "unavailable",
)
"""The answers to a request to a `result_url`. For `spooled`, the sender gets `stored`."""

BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Upper bounds of the buckets of all durations. A callback must be answered within two seconds."""

AREAS = ("api", "dashboards", "operations")
CLASSES = ("2xx", "3xx", "4xx", "5xx")

POOL_COUNTS = {
    "requests_num": "receiver_web_pool_requests",
    "requests_queued": "receiver_web_pool_requests_queued",
    "requests_errors": "receiver_web_pool_requests_failed",
    "requests_wait_ms": "receiver_web_pool_wait_seconds",
    "usage_ms": "receiver_web_pool_usage_seconds",
    "connections_lost": "receiver_web_pool_connections_lost",
}
"""The statistics of psycopg_pool that are counters, and their metrics."""

READS = ("replica", "behind", "unusable", "interrupted", "not_found", "own_change")
"""Where an answer that a replica may give was read, and why (receiver.database.replica)."""

_Key = tuple[str, tuple[str, ...]]
"""A metric's name and the values of its labels."""


HISTOGRAMS = {
    "receiver_web_acknowledge_seconds": "Time from a callback's arrival until its answer.",
    "receiver_web_request_seconds": "Duration of all other requests.",
}


def _no_durations() -> list[float]:
    return [0.0] * (len(BOUNDS_SECONDS) + 2)


class Counts:
    """The counts of this process. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._added: Counter[_Key] = Counter()
        self._is_spooling = False
        # For each histogram: observations since the last flush in each bucket, then the sum of their seconds.
        self._durations: defaultdict[str, list[float]] = defaultdict(_no_durations)
        self._counters: dict[str, prometheus.Counter] = {}
        self._counter("receiver_web_callbacks", "Requests to a result_url by answer.", answer=ANSWERS)
        self._counter("receiver_web_requests", "All other requests by area and class of status.",
                      area=AREAS, status=CLASSES)  # fmt: skip
        for name in POOL_COUNTS.values():
            self._counter(name, "Connection pools, over all processes.")
        self._counter("receiver_web_replica_reads", "Answers by the database that was read, and why.", came=READS)
        self._histograms = {
            name: prometheus.Histogram(name, help_text, buckets=BOUNDS_SECONDS, registry=self._registry)
            for name, help_text in HISTOGRAMS.items()
        }
        self._pool_size = self._gauge("receiver_web_pool_connections", "Connections in the pools.")
        self._pool_in_use = self._gauge("receiver_web_pool_connections_in_use", "Connections in use.")
        self._spooling = self._gauge(
            "receiver_web_processes_spooling",
            "Processes whose last callback went to the spool, because they cannot use the database.",
        )
        self._loop_lag = self._gauge(
            "receiver_web_loop_lag_seconds",
            "Maximum delay of the event loop in the last seconds, of the slowest process.",
            "livemax",
        )

    def callback(self, answer: str, seconds: float | None = None) -> None:
        """Count a request to a `result_url`, its answer, and the seconds until then if it waited for storage."""
        with self._lock:
            self._added["receiver_web_callbacks", (answer,)] += 1
            if seconds is not None:
                self._observe("receiver_web_acknowledge_seconds", seconds)
                self._is_spooling = answer == "spooled"

    def request(self, area: str, status: int, seconds: float) -> None:
        """Count any other request."""
        status_class = CLASSES[min(max(status // 100, 2), 5) - 2]
        with self._lock:
            self._added["receiver_web_requests", (area, status_class)] += 1
            self._observe("receiver_web_request_seconds", seconds)

    def pool(self, since: dict[str, int], now: dict[str, int]) -> None:
        """Record the statistics of psycopg_pool: `since` the last time, and the current values."""
        with self._lock:
            for name, metric in POOL_COUNTS.items():
                self._added[metric, ()] += since.get(name, 0)
        self._pool_size.set(now.get("pool_size", 0))
        self._pool_in_use.set(now.get("pool_size", 0) - now.get("pool_available", 0))

    def read(self, came: str) -> None:
        """Count an answer by one of READS."""
        with self._lock:
            self._added["receiver_web_replica_reads", (came,)] += 1

    def loop_lag(self, seconds: float) -> None:
        """Record the maximum delay of the event loop since the last time."""
        self._loop_lag.set(seconds)

    def flush(self) -> None:
        """Add everything since the last time to the metrics."""
        with self._flushing:
            with self._lock:
                added, self._added = self._added, Counter()
                durations, self._durations = self._durations, defaultdict(_no_durations)
                spooling = self._is_spooling
            for (name, labels), count in added.items():
                counter = self._counters[name]
                (counter.labels(*labels) if labels else counter).inc(
                    count / 1000 if name in _IN_MILLISECONDS else count
                )
            for name, values in durations.items():
                # `Histogram.observe` takes one observation at a time, and these are thousands.
                histogram = self._histograms[name]
                for value, new in zip((*histogram._buckets, histogram._sum), values, strict=True):
                    if new:
                        value.inc(new)
            self._spooling.set(spooling)

    def collect(self) -> Iterable[Metric]:
        """The metrics of all processes that share the files, or of this one if there are none."""
        self.flush()
        path = folder()
        if path is None:
            return self._registry.collect()
        files = [str(file) for file in Path(path).glob("*.db") if _is_filled(file)]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return found

    def _counter(self, name: str, help_text: str, **labels: tuple[str, ...]) -> None:
        counter = self._counters[name] = prometheus.Counter(name, help_text, list(labels), registry=self._registry)
        for values in product(*labels.values()) if labels else ():
            counter.labels(*values)  # so that it is shown as 0 before it is counted

    def _observe(self, name: str, seconds: float) -> None:
        values = self._durations[name]
        values[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        values[-1] += seconds

    def _gauge(self, name: str, help_text: str, mode: Literal["livesum", "livemax"] = "livesum") -> prometheus.Gauge:
        return prometheus.Gauge(name, help_text, registry=self._registry, multiprocess_mode=mode)


def _is_filled(file: Path) -> bool:
    """False for a file that a new process has just created: MultiProcessCollector cannot read an empty one."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # its process has just ended
        return False


# The creation times of counters are not used, and the files do not have them.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

_IN_MILLISECONDS = {metric for name, metric in POOL_COUNTS.items() if name.endswith("_ms")}

counts = Counts()
"""The counts of this process."""
