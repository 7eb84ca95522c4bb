"""The metrics of the intake besides the counters: its spool, and whether the database stores callbacks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from receiver.counts import counts
from receiver.intake.spool import Spool, SpoolFailed
from receiver.intake.writer import Writer


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
