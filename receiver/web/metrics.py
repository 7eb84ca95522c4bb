"""`/metrics`, in Prometheus' text format: counts of this machine's web processes, and gauges of the whole service.

`receiver_web_*` belongs to the instance that is asked: add instances up. Everything else is read from the
database and is the same whichever is asked: take the maximum. docs/metrics.md lists them all.
"""

from __future__ import annotations

import hmac
import sys
import threading
import time
from collections.abc import Iterable, Sequence

from flask import Blueprint, Flask, Response, current_app, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from receiver import __version__
from receiver.counts import counts
from receiver.database import worker_metrics
from receiver.database.pool import DatabaseUnavailable, connection
from receiver.intake.metrics import spool_metrics
from receiver.summary.gauges import Gauges, get_gauges
from receiver.web.problems import Problem
from receiver.web.services import Services, services

KEPT_SECONDS = 5.0
"""How long what was read from the database is told again: many who ask must not make it work more."""

_KEPT = "receiver.metrics"

blueprint = Blueprint("metrics", __name__)


def register(app: Flask) -> None:
    """Serve the metrics of this app."""
    app.extensions[_KEPT] = _Kept()
    app.register_blueprint(blueprint)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Counts and times only; no name, number, address or token can be in them, so anybody may ask by default."""
    key = services().config.metrics_key
    given = request.headers.get("Authorization", "").encode()
    if key is not None and not hmac.compare_digest(given, f"Bearer {key}".encode()):
        raise Problem(
            "unauthorized",
            "Send the METRICS_KEY: `Authorization: Bearer <key>`.",
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    registry = CollectorRegistry()
    registry.register(_Asked(services(), current_app.extensions[_KEPT]))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


class _Asked:
    """What one request for metrics collects."""

    def __init__(self, held: Services, kept: _Kept) -> None:
        self._services = held
        self._kept = kept

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is asked of the database when this is registered

    def collect(self) -> Iterable[Metric]:
        info = InfoMetricFamily("receiver_build", "Version of the running release.")
        python = ".".join(str(number) for number in sys.version_info[:3])
        info.add_metric([], {"version": __version__, "python": python})
        yield info
        yield from _of_web(self._services)
        found = _read(self._services, self._kept)
        yield GaugeMetricFamily("receiver_database_up", "1 if the database answered.", int(found is not None))
        if found is not None:
            yield from _of_service(found[0])
            yield from _of_workers(found[1], found[2])


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
    yield _gauge("receiver_calls", "Calls of all batches by state or outcome.", "state", gauges.calls)
    yield _gauge(
        "receiver_callbacks",
        "Stored callbacks by state; waiting ones are counted up to 100000.",
        "state",
        gauges.callbacks,
    )
    yield _gauge("receiver_submissions", "Submissions by state.", "state", gauges.submissions)
    loss = gauges.loss
    yield GaugeMetricFamily("receiver_due_calls", "Calls of batches that are past their due time.", loss.due)
    yield GaugeMetricFamily(
        "receiver_lost_calls",
        "Due calls whose result was never delivered: overdue, or fetched from the provider.",
        loss.overdue + loss.polled,
    )
    for name, help_text, age in (
        (
            "receiver_oldest_waiting_seconds",
            "Age of the oldest callback that is not settled; 0 if there is none.",
            gauges.oldest_waiting_seconds,
        ),
        (
            "receiver_oldest_pending_submission_seconds",
            "How long the oldest submission that could be sent has waited; 0 if there is none.",
            gauges.oldest_pending_submission_seconds,
        ),
    ):
        yield GaugeMetricFamily(name, help_text, age or 0.0)
    yield GaugeMetricFamily("receiver_workers", "Workers seen within 30 seconds.", gauges.workers)
    if gauges.worker_seen_seconds is not None:
        yield GaugeMetricFamily(
            "receiver_worker_heartbeat_age_seconds", "Time since a worker was last seen.", gauges.worker_seen_seconds
        )


_TIMES = {
    "settle": ("receiver_settle_seconds", "Time from receiving a callback until it was settled."),
    "send": ("receiver_send_seconds", "Duration of bulk_queue requests, until the answer."),
}


def _of_workers(times: dict[str, worker_metrics.Times], counted: dict[str, dict[str, int]]) -> Iterable[Metric]:
    for name, (metric, help_text) in _TIMES.items():
        kept = times.get(name, worker_metrics.Times((0,) * (len(worker_metrics.BOUNDS_SECONDS) + 1), 0.0))
        yield _histogram(metric, help_text, worker_metrics.BOUNDS_SECONDS, kept.counts, kept.sum_seconds)
    yield _counter("receiver_sends", "bulk_queue requests by result.", "result", counted["send_result"])
    yield _counter(
        "receiver_worker_failures", "Steps of workers that failed and are tried again.", "step", counted["failure"]
    )


_Found = tuple[Gauges, dict[str, worker_metrics.Times], dict[str, dict[str, int]]]


class _Kept:
    """What the database said last, for those who ask soon after."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: _Found | None = None
        self.until = 0.0


def _read(held: Services, kept: _Kept) -> _Found | None:
    """What the database says, at most KEPT_SECONDS old; None where it cannot be asked."""
    with kept.lock:
        if kept.found is not None and time.monotonic() < kept.until:
            return kept.found
        try:
            with connection(held.pool) as conn:
                conn.execute("set local statement_timeout = '3s'")
                names = ("send_result", "failure")
                found = (
                    get_gauges(conn),
                    worker_metrics.get_times(conn),
                    {n: worker_metrics.get_counts(conn, n) for n in names},
                )
        except DatabaseUnavailable:
            return None
        kept.found, kept.until = found, time.monotonic() + KEPT_SECONDS
        return found


def _counter(name: str, help_text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, help_text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(
    name: str, help_text: str, bounds: Sequence[float], bucket_counts: Sequence[int], total: float
) -> Metric:
    """From how many fell into each bucket to how many fell into it or a lower one, as Prometheus wants it."""
    family = HistogramMetricFamily(name, help_text)
    below = 0
    buckets = []
    for bound, count in zip((*bounds, float("inf")), bucket_counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(below)))
    family.add_metric([], buckets, total)
    return family
