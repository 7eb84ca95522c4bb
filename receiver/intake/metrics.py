"""Answers to `/metrics`, and the metrics of the intake: its spool, and whether the database stores callbacks."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from receiver.counts import counts
from receiver.intake.spool import Spool, SpoolFailed
from receiver.intake.writer import Writer


def exposition(collector: Collector, key: str | None, authorization: str, accept: str) -> tuple[str, bytes] | None:
    """The content type and the text of an answer. None: the METRICS_KEY is needed, and was not sent."""
    if key is not None and not hmac.compare_digest(authorization.encode("latin-1"), f"Bearer {key}".encode()):
        return None
    registry = CollectorRegistry()
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


class IntakeMetrics:
    """The collector of a process that runs only the intake."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def collect(self) -> Iterable[Metric]:
        yield from (metric for metric in counts.collect() if metric.name != "receiver_web_replica_reads")
        yield from spool_metrics(self._writer.spool)
        stores = int(not self._writer.database_unavailable)
        yield GaugeMetricFamily("receiver_database_up", "1 if callbacks can be stored in the database.", stores)


def spool_metrics(spool: Spool) -> Iterable[Metric]:
    """Whether the spool can be read, and how many callbacks it has."""
    try:
        depth = spool.depth()
    except SpoolFailed:
        yield GaugeMetricFamily("receiver_web_spool_usable", "1 if the spool can be read.", 0)
    else:
        yield GaugeMetricFamily("receiver_web_spool_usable", "1 if the spool can be read.", 1)
        yield GaugeMetricFamily("receiver_web_spool_callbacks", "Callbacks in this machine's spool.", depth)
