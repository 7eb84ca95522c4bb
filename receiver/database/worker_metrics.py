"""What workers measured, in the database: `/metrics` is asked of the web processes, wherever they are.

A worker gathers in its memory and adds every few seconds, in one short statement; what a killed one had
gathered since is lost, as with any counter of a process. Times are histograms of Prometheus' kind.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from receiver.database.pool import Connection

BOUNDS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets: from a prompt settlement to a worker that was away for half an hour."""

_BUCKETS = (*(str(bound) for bound in BOUNDS_SECONDS), "+Inf")
_SUM = "sum"


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram. `counts`: how many fell into each bucket, one for each of BOUNDS_SECONDS and one beyond."""

    counts: tuple[int, ...]
    sum_seconds: float


class Measurements:
    """Gathers counts and times in memory until they are written. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gathered: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, label: str, number: int = 1) -> None:
        """Count `number` more of something. Names and labels are a program's own few words."""
        with self._lock:
            self._gathered[name, label] += number

    def observe(self, name: str, times: Iterable[float]) -> None:
        """Add times, in seconds. One below zero, from clocks that differ, counts as none."""
        with self._lock:
            for seconds in times:
                seconds = max(seconds, 0.0)
                self._gathered[name, _BUCKETS[bisect_left(BOUNDS_SECONDS, seconds)]] += 1
                self._gathered[name, _SUM] += round(seconds * 1e6)

    def take(self) -> Counter[tuple[str, str]]:
        """What was gathered since the last time. Whoever fails to write it gives it `back`."""
        with self._lock:
            taken, self._gathered = self._gathered, Counter()
        return taken

    def back(self, taken: Counter[tuple[str, str]]) -> None:
        with self._lock:
            self._gathered.update(taken)


def add_measured(conn: Connection, gathered: Mapping[tuple[str, str], int]) -> None:
    """Add to what is kept. In one order, so that two workers wait for each other and never both."""
    if not gathered:
        return
    keys = sorted(gathered)
    conn.execute(
        "insert into measured as m (name, label, value) select * from unnest(%s::text[], %s::text[], %s::bigint[])"
        " on conflict (name, label) do update set value = m.value + excluded.value",
        ([name for name, _ in keys], [label for _, label in keys], [gathered[key] for key in keys]),
    )


def get_counts(conn: Connection, name: str) -> dict[str, int]:
    """Label to count of what `Measurements.count` counted."""
    return dict(conn.execute("select label, value from measured where name = %s order by label", (name,)).fetchall())


def get_times(conn: Connection) -> dict[str, Times]:
    """Name to histogram of what `Measurements.observe` was given."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, label, value in conn.execute(
        "select name, label, value from measured where name in"
        " (select name from measured where label = %s) order by name",
        (_SUM,),
    ):
        found[name][label] = value
    return {
        name: Times(tuple(values.get(bucket, 0) for bucket in _BUCKETS), values[_SUM] / 1e6)
        for name, values in found.items()
    }
