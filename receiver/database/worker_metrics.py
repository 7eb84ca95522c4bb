"""The measurements of the workers, stored in the database, because the web processes answer `/metrics`.

A worker collects them in memory, and adds them to the database every few seconds in one short statement. A killed
worker loses those of the last seconds. Times are stored as Prometheus histograms.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from receiver.database.pool import Connection

BOUNDS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets: from a fast settlement to a delay of half an hour, for example without a worker."""

_BUCKETS = (*(str(bound) for bound in BOUNDS_SECONDS), "+Inf")
_SUM = "sum"


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram. `counts`: the number in each bucket, one for each of BOUNDS_SECONDS and one for longer times."""

    counts: tuple[int, ...]
    sum_seconds: float


class Measurements:
    """Collects counts and times in memory. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gathered: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, label: str, number: int = 1) -> None:
        """Add `number` to a counter. Names and labels must be constants of the program, to limit their number."""
        with self._lock:
            self._gathered[name, label] += number

    def observe(self, name: str, times: Iterable[float]) -> None:
        """Add times, in seconds. A negative one, from clocks that differ, counts as zero."""
        with self._lock:
            for seconds in times:
                seconds = max(seconds, 0.0)
                self._gathered[name, _BUCKETS[bisect_left(BOUNDS_SECONDS, seconds)]] += 1
                self._gathered[name, _SUM] += round(seconds * 1e6)

    def take(self) -> Counter[tuple[str, str]]:
        """The measurements since the last call. If they cannot be written, return them with `back`."""
        with self._lock:
            taken, self._gathered = self._gathered, Counter()
        return taken

    def back(self, taken: Counter[tuple[str, str]]) -> None:
        with self._lock:
            self._gathered.update(taken)


def add_measured(conn: Connection, gathered: Mapping[tuple[str, str], int]) -> None:
    """Add the measurements to those in the database. The order of the rows is fixed, which prevents deadlocks."""
    if not gathered:
        return
    keys = sorted(gathered)
    conn.execute(
        "insert into measured as m (name, label, value) select * from unnest(%s::text[], %s::text[], %s::bigint[])"
        " on conflict (name, label) do update set value = m.value + excluded.value",
        ([name for name, _ in keys], [label for _, label in keys], [gathered[key] for key in keys]),
    )


def get_counts(conn: Connection, name: str) -> dict[str, int]:
    """The counts of one name, by label."""
    return dict(conn.execute("select label, value from measured where name = %s order by label", (name,)).fetchall())


def get_times(conn: Connection) -> dict[str, Times]:
    """All histograms, by name."""
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
