"""Limit the requests of one key that are in progress to eight. Further requests wait, and are refused after ten
seconds.

So one key cannot block a process with long answers. A request is in progress until the client has read its whole
answer, or the connection is closed.

The limit holds for all web processes of a machine together. gunicorn's parent creates shared memory before it forks;
each process counts in its own cells, and the sum over all processes is checked. A key that is used on several
machines can have eight requests on each of them.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque

MOST_IN_PROGRESS = 8

WAIT_SECONDS = 10.0

SLOTS = 600
"""More than twice the maximum number of processes: during a reload, old and new ones run at the same time."""

KEYS = 4096
"""Number of cells for keys, chosen by `key_id`. With more keys, two keys may share one limit."""


class SharedCounts:
    """The counts of all processes. `claim` chooses the cells of this process; the default is the first slot."""

    def __init__(self, slots: int = SLOTS, most: int = MOST_IN_PROGRESS) -> None:
        self._memory = memoryview(mmap.mmap(-1, slots * KEYS))
        self._slots = slots
        self._own = 0
        self._most = most

    def claim(self, slot: int) -> None:
        """In the child: count in this slot."""
        self._own = slot

    def clear(self, slot: int) -> None:
        """In the parent: the process of this slot has ended, and so have its requests."""
        self._memory[slot :: self._slots] = bytes(KEYS)

    def add(self, key_id: int) -> bool:
        """Count one more request, if the limit allows it. Not safe to share between threads."""
        first = key_id % KEYS * self._slots
        # Count first, then check: two processes may both give up here, but can never both exceed the limit.
        self._memory[first + self._own] += 1
        if sum(self._memory[first : first + self._slots]) <= self._most:
            return True
        self._memory[first + self._own] -= 1
        return False

    def remove(self, key_id: int) -> None:
        self._memory[key_id % KEYS * self._slots + self._own] -= 1


shared_counts = SharedCounts()
"""Created in gunicorn's parent before it forks."""


class Turns:
    """The turns of this process, and the requests that wait for a turn, by key. Safe to share between threads."""

    def __init__(self, counts: SharedCounts = shared_counts, wait_seconds: float = WAIT_SECONDS) -> None:
        self.counts = counts
        self.lock = threading.Lock()
        self.waiting: dict[int, deque[Ticket]] = {}
        self.wait_seconds = wait_seconds

    def ticket(self, key_id: int) -> Ticket:
        """A place in the queue of this key's requests in this process."""
        ticket = Ticket(self, key_id)
        with self.lock:
            self.waiting.setdefault(key_id, deque()).append(ticket)
        return ticket

    def give_back(self, key_id: int) -> None:
        """The request that had the turn has ended."""
        with self.lock:
            self.counts.remove(key_id)


class Ticket:
    """A request's place in the queue of its key."""

    def __init__(self, turns: Turns, key_id: int) -> None:
        self._turns = turns
        self._key_id = key_id
        self._is_taken = False

    def take(self) -> bool:
        """Take the turn if it is available. Returns whether it is taken; then it must be given back."""
        with self._turns.lock:
            first = next(iter(self._turns.waiting.get(self._key_id, ())), None)
            if first is self and self._turns.counts.add(self._key_id):
                self._is_taken = True
                self._leave_queue()
            return self._is_taken

    def leave(self) -> bool:
        """Leave the queue. Returns whether the turn was taken before."""
        with self._turns.lock:
            if not self._is_taken:
                self._leave_queue()
            return self._is_taken

    def _leave_queue(self) -> None:
        queue = self._turns.waiting[self._key_id]
        queue.remove(self)
        if not queue:
            del self._turns.waiting[self._key_id]
