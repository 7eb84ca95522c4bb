"""What a web process counts, in memory that all processes of this machine share.

gunicorn's parent makes the memory before it forks. Each process adds to a slot of its own, with no lock and
no file: a count costs 0.1 microseconds, where prometheus_client's multiprocess mode takes ten times as long,
on a path that is taken for every callback. Whichever process is asked for metrics adds the slots up. A slot
keeps its counts when its process is gone, and the next one goes on with them, so nothing ever counts backwards
but by a restart of the whole. Nothing here may import psycopg: it is loaded before gevent has patched.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from time import perf_counter

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
"""What a request to a `result_url` can be answered: each a word of its answer's body, but `spooled`, which the
sender is told is `stored`."""

BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Upper bounds of the buckets of every time measured here; the answer to a callback is owed within two seconds."""

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
"""psycopg_pool's statistics that are counts, and the metric that each becomes."""

READS = ("replica", "behind", "unusable", "interrupted", "not_found", "own_change")
"""Where what a replica may be asked for was read: there, or at the primary, and why (receiver.database.replica)."""

SLOTS = 600
"""Twice the most processes that can be configured, for old and new ones side by side, and some."""

_SPOOLED = ANSWERS.index("spooled")
_BUCKETS = len(BOUNDS_SECONDS) + 1

# The cells of a slot.
_ANSWER = 0
_ACKNOWLEDGED = _ANSWER + len(ANSWERS)
_ACKNOWLEDGED_SUM = _ACKNOWLEDGED + _BUCKETS
_REQUEST = _ACKNOWLEDGED_SUM + 1
_REQUESTED = _REQUEST + len(AREAS) * len(CLASSES)
_REQUESTED_SUM = _REQUESTED + _BUCKETS
_POOL = _REQUESTED_SUM + 1
_POOL_SIZE = _POOL + len(POOL_COUNTS)
_POOL_IN_USE = _POOL_SIZE + 1
_SPOOLING = _POOL_IN_USE + 1
_READ = _SPOOLING + 1
_CELLS = _READ + len(READS)

_GAUGES = range(_POOL_SIZE, _READ)
"""What describes a living process, and ends with it."""


class Counts:
    """The slots of all processes, and this one's own. `claim` decides whose this one's is; until then the first."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._memory = memoryview(mmap.mmap(-1, slots * _CELLS * 8)).cast("q")
        self._slots = slots
        self._taken: dict[int, int] = {}
        self._own = self._memory[:_CELLS]

    def reserve(self, worker: object) -> int:
        """In the parent: the slot for a process to be forked, until `release`."""
        free = (slot for slot in range(self._slots) if slot not in self._taken.values())
        slot = next(free, self._slots - 1)  # shared where there are more than can be: a count may be lost then
        self._taken[id(worker)] = slot
        return slot

    def release(self, worker: object) -> None:
        """In the parent: the process is gone, and what described it."""
        slot = self._taken.pop(id(worker), None)
        if slot is not None:
            for cell in _GAUGES:
                self._memory[slot * _CELLS + cell] = 0

    def claim(self, slot: int) -> None:
        """In the child: count here."""
        self._own = self._memory[slot * _CELLS : (slot + 1) * _CELLS]

    def callback(self, answer: int, began: float, *, timed: bool) -> None:
        """A request to a `result_url` was answered with ANSWERS[answer]; `timed`: it waited to be stored."""
        own = self._own
        own[_ANSWER + answer] += 1
        if timed:
            seconds = perf_counter() - began
            own[_ACKNOWLEDGED + bisect_left(BOUNDS_SECONDS, seconds)] += 1
            own[_ACKNOWLEDGED_SUM] += int(seconds * 1e6)
            own[_SPOOLING] = answer == _SPOOLED

    def request(self, area: str, status: int, seconds: float) -> None:
        """Any other request was answered."""
        own = self._own
        status_class = min(max(status // 100, 2), 5) - 2
        own[_REQUEST + AREAS.index(area) * len(CLASSES) + status_class] += 1
        own[_REQUESTED + bisect_left(BOUNDS_SECONDS, seconds)] += 1
        own[_REQUESTED_SUM] += int(seconds * 1e6)

    def pool(self, since: dict[str, int], now: dict[str, int]) -> None:
        """`since`: psycopg_pool's statistics since the last time; `now`: those of this moment."""
        own = self._own
        for cell, name in enumerate(POOL_COUNTS, _POOL):
            own[cell] += since.get(name, 0)
        own[_POOL_SIZE] = now.get("pool_size", 0)
        own[_POOL_IN_USE] = now.get("pool_size", 0) - now.get("pool_available", 0)

    def read(self, came: str) -> None:
        """An answer was read where READS says."""
        self._own[_READ + READS.index(came)] += 1

    def total(self) -> Totals:
        """All slots added up, at this moment."""
        return Totals([sum(self._memory[cell::_CELLS]) for cell in range(_CELLS)])


class Totals:
    """The sum of all slots."""

    def __init__(self, cells: list[int]) -> None:
        self.answers = dict(zip(ANSWERS, cells[_ANSWER:], strict=False))
        self.acknowledged = cells[_ACKNOWLEDGED:_ACKNOWLEDGED_SUM], cells[_ACKNOWLEDGED_SUM] / 1e6
        labels = [(area, status_class) for area in AREAS for status_class in CLASSES]
        self.requests = dict(zip(labels, cells[_REQUEST:], strict=False))
        self.requested = cells[_REQUESTED:_REQUESTED_SUM], cells[_REQUESTED_SUM] / 1e6
        self.pool: dict[str, float] = {
            metric: count / 1000 if name.endswith("_ms") else count
            for (name, metric), count in zip(POOL_COUNTS.items(), cells[_POOL:], strict=False)
        }
        self.pool_size = cells[_POOL_SIZE]
        self.pool_in_use = cells[_POOL_IN_USE]
        self.processes_spooling = cells[_SPOOLING]
        self.reads = dict(zip(READS, cells[_READ:], strict=True))


counts = Counts()
"""Those of this process and the ones it was forked with."""
