"""How many requests one key has in progress: eight at most; further ones wait, and are refused after ten seconds.

Whoever has a key can then neither fill a process with long answers nor keep all others from it. A request is in
progress until the last byte of its answer was taken, or its connection is gone.

Counted for all web processes of a machine together, in memory that they share (as in receiver.web.counts): each process
adds to cells of its own, and whoever asks adds up those of all. A key that is used at several machines can have eight
at each of them. Nothing here may import psycopg: it is loaded before gevent has patched.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from time import monotonic

from receiver.web.counts import SLOTS

MOST_IN_PROGRESS = 8

WAIT_SECONDS = 10.0

CHECK_SECONDS = 0.05
"""How soon it is seen that a request ended in another process; one that ends in this process is seen at once."""

KEYS = 4096
"""Keys that are told apart, by their numbers. Of more keys than that, two in use may share their eight."""


class SharedCounts:
    """The counts of all processes. `claim` decides which cells are this one's; until then the first."""

    def __init__(self, slots: int = SLOTS, most: int = MOST_IN_PROGRESS) -> None:
        self._memory = memoryview(mmap.mmap(-1, slots * KEYS))
        self._slots = slots
        self._own = 0
        self._most = most

    def claim(self, slot: int) -> None:
        """In the child: count here."""
        self._own = slot

    def clear(self, slot: int) -> None:
        """In the parent: the process is gone, and its requests with it."""
        self._memory[slot :: self._slots] = bytes(KEYS)

    def add(self, key_id: int) -> bool:
        """One more, unless there are as many as may be. Not for two threads of a process at once."""
        first = key_id % KEYS * self._slots
        # Counted before it is looked at: two processes may both step back here, but never both go beyond.
        self._memory[first + self._own] += 1
        if sum(self._memory[first : first + self._slots]) <= self._most:
            return True
        self._memory[first + self._own] -= 1
        return False

    def remove(self, key_id: int) -> None:
        self._memory[key_id % KEYS * self._slots + self._own] -= 1


shared_counts = SharedCounts()
"""Made in gunicorn's parent, before it forks."""


class Turns:
    """Those of one process, in which requests of a key wait in the order they came."""

    def __init__(self, counts: SharedCounts = shared_counts, wait_seconds: float = WAIT_SECONDS) -> None:
        self._counts = counts
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._waiting: dict[int, deque[object]] = {}

    def take(self, key_id: int) -> bool:
        """Wait for a turn; False where none came in time. Each turn that was taken must be given back."""
        end, ticket = monotonic() + self._wait_seconds, object()
        with self._changed:
            queue = self._waiting.setdefault(key_id, deque())
            queue.append(ticket)
            try:
                while queue[0] is not ticket or not self._counts.add(key_id):
                    if (left := end - monotonic()) <= 0:
                        return False
                    self._changed.wait(min(left, CHECK_SECONDS))
                return True
            finally:
                queue.remove(ticket)
                if not queue:
                    del self._waiting[key_id]
                self._changed.notify_all()

    def give_back(self, key_id: int) -> None:
        with self._changed:
            self._counts.remove(key_id)
            self._changed.notify_all()
