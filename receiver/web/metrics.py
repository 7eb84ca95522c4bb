"""`/metrics` in Prometheus' text format: counts of this machine's web processes, and gauges of the whole service.

`receiver_web_*` belongs to one instance: add up the instances. Everything else is read from the database and is the
same for every instance: take the maximum. docs/metrics.md lists them all.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from itertools import accumulate

from flask import Blueprint, Response, current_app, request
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from receiver import __version__
from receiver.counts import counts
from receiver.database import worker_metrics
from receiver.database.pool import DatabaseUnavailable, connection
from receiver.intake.metrics import exposition, spool_metrics
from receiver.relay.endpoints import list_debts
from receiver.summary.gauges import Gauges, get_gauges
from receiver.web.problems import Problem
from receiver.web.services import Services, services

CACHE_SECONDS = 5.0
"""How long figures from the database are reused, so that many scrapers do not cause many queries."""

_CACHE = "receiver.metrics"

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Counts and times only. They contain no name, number, address or token, so no key is needed by default."""
    found = exposition(
        _Collector(services(), current_app.extensions.setdefault(_CACHE, _Cache())),
        services().config.metrics_key,
        request.headers.get("Authorization", ""),
        request.headers.get("Accept", ""),
    )
    if found is None:
        raise Problem(
            "unauthorized",
            "Send the METRICS_KEY: `Authorization: Bearer <key>`.",
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    content_type, text = found
    return Response(text, content_type=content_type)


class _Collector:
    """Collects the metrics for one request."""

    def __init__(self, held: Services, cache: _Cache) -> None:
        self._services = held
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        info = InfoMetricFamily("receiver_build", "Version of the running release.")
        python = ".".join(str(number) for number in sys.version_info[:3])
        info.add_metric([], {"version": __version__, "python": python})
        yield info
        yield from _of_web(self._services)
        found = self._cache.read(self._services)
        yield GaugeMetricFamily("receiver_database_up", "1 if the database answered.", int(found is not None))
        if found is not None:
            yield from _of_service(found[0])
            yield from _of_workers(found[1], found[2])
            yield from _of_endpoints(found[3])


def _of_web(held: Services) -> Iterable[Metric]:
    for metric in counts.collect():
        if held.replica is not None or metric.name != "receiver_web_replica_reads":
            yield metric
    if held.replica is not None:
        fitness, lag = held.replica.fitness(), held.replica.lag_seconds
        yield GaugeMetricFamily(
            "receiver_web_replica_usable", "1 if the replica is used for reads.", int(isinstance(fitness, float))
        )
        if lag is not None:
            yield GaugeMetricFamily("receiver_web_replica_lag_seconds", "Upper bound of the replica's lag.", lag)
    yield from spool_metrics(held.intake.spool)


def _of_service(gauges: Gauges) -> Iterable[Metric]:
    for name, help_text, values in (
        ("receiver_calls", "Calls of all batches by state or outcome.", gauges.calls),
        ("receiver_callbacks", "Stored callbacks by state; waiting ones are counted up to 100000.", gauges.callbacks),
        ("receiver_submissions", "Submissions by state.", gauges.submissions),
    ):
        yield _labelled(GaugeMetricFamily(name, help_text, labels=["state"]), values)
    loss, waiting, pending = gauges.loss, gauges.oldest_waiting_seconds, gauges.oldest_pending_submission_seconds
    for name, help_text, value in (
        ("receiver_due_calls", "Calls of batches that are past their due time.", loss.due),
        ("receiver_lost_calls", "Due calls that are overdue, or were fetched.", loss.overdue + loss.polled),
        ("receiver_oldest_waiting_seconds", "Age of the oldest unsettled callback; 0: none.", waiting or 0.0),
        ("receiver_oldest_pending_submission_seconds", "Age of the oldest that could be sent.", pending or 0.0),
        ("receiver_unreleased_calls", "Pending calls that were not sent yet.", gauges.unreleased_calls),
        ("receiver_feed_waiting", "Changes of results that are not in the feed yet, up to 100000.", gauges.unfed),
        ("receiver_feed_oldest_waiting_seconds", "Age of the oldest one; 0: none.", gauges.oldest_unfed_seconds or 0.0),
        ("receiver_workers", "Workers seen within 30 seconds.", gauges.workers),
        ("receiver_worker_heartbeat_age_seconds", "Time since a worker was seen.", gauges.worker_seen_seconds),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, help_text, value)


_TIMES = {
    "settle": ("receiver_settle_seconds", "Time from receiving a callback until it was settled."),
    "send": ("receiver_send_seconds", "Duration of bulk_queue requests, until the answer."),
}


def _of_workers(times: dict[str, worker_metrics.Times], counted: dict[str, dict[str, int]]) -> Iterable[Metric]:
    for name, (metric, help_text) in _TIMES.items():
        yield _histogram(metric, help_text, times.get(name, _NO_TIMES))
    sends = CounterMetricFamily("receiver_sends", "bulk_queue requests by result.", labels=["result"])
    yield _labelled(sends, counted["send_result"])
    attempts = CounterMetricFamily("receiver_deliveries", "Requests to endpoints by result.", labels=["result"])
    yield _labelled(attempts, counted["delivery"])
    help_text = "Steps of workers that failed and are tried again."
    failures = CounterMetricFamily("receiver_worker_failures", help_text, labels=["step"])
    yield _labelled(failures, counted["failure"])


def _of_endpoints(debts: _Debts) -> Iterable[Metric]:
    events = GaugeMetricFamily("receiver_endpoint_events", "Events by state.", labels=["endpoint", "state"])
    help_text = "Age of the oldest event that waits; 0: none."
    ages = GaugeMetricFamily("receiver_endpoint_oldest_waiting_seconds", help_text, labels=["endpoint"])
    for endpoint_id, (owed, age) in debts.items():
        ages.add_metric([str(endpoint_id)], age)
        for state, count in owed.items():
            events.add_metric([str(endpoint_id), state], count)
    yield from (events, ages)


_NO_TIMES = worker_metrics.Times((0,) * (len(worker_metrics.BOUNDS_SECONDS) + 1), 0.0)

_Debts = dict[int, tuple[dict[str, int], float]]
_Found = tuple[Gauges, dict[str, worker_metrics.Times], dict[str, dict[str, int]], _Debts]


_COUNTED = ("send_result", "failure", "delivery")


class _Cache:
    """The last figures from the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: _Found | None = None
        self._until = 0.0

    def read(self, held: Services) -> _Found | None:
        """The database's figures, at most CACHE_SECONDS old; None if it is unavailable."""
        with self._lock:
            if self._found is None or time.monotonic() >= self._until:
                try:
                    with connection(held.pool) as conn:
                        conn.execute("set local statement_timeout = '3s'")
                        counted = {name: worker_metrics.get_counts(conn, name) for name in _COUNTED}
                        times = worker_metrics.get_times(conn)
                        self._found = get_gauges(conn), times, counted, list_debts(conn)
                except DatabaseUnavailable:
                    return None
                self._until = time.monotonic() + CACHE_SECONDS
            return self._found


def _labelled(
    family: CounterMetricFamily | GaugeMetricFamily, values: dict[str, int]
) -> CounterMetricFamily | GaugeMetricFamily:
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, help_text: str, times: worker_metrics.Times) -> Metric:
    """Prometheus needs cumulative counts: each bucket includes all lower ones."""
    bounds = (*map(str, worker_metrics.BOUNDS_SECONDS), "+Inf")
    buckets = list(zip(bounds, map(float, accumulate(times.counts)), strict=True))
    return HistogramMetricFamily(name, help_text, buckets, times.sum_seconds)
