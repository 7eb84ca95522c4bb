"""Limit the requests that one key has in progress: at most eight; further ones wait, and are refused after ten seconds.

So one key cannot block a process with long answers. A request is in progress until the last byte of its answer was
read, or its connection is closed.

The limit holds for all web processes of a machine together. gunicorn's parent creates shared memory before it forks;
each process counts in cells of its own, and the sum over all processes is checked. A key that is used on several
machines can have eight requests on each of them.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque

MOST_IN_PROGRESS = 8

WAIT_SECONDS = 10.0

SLOTS = 600
"""More than twice the most processes that can be configured: during a reload, old and new ones run side by side."""

KEYS = 4096
"""Keys that have a cell of their own, by `key_id`. With more keys, two of them may share one limit."""


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
        """Count one more, if the limit allows it. Not safe among threads."""
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
    """The turns of this process. Safe among threads."""

    def __init__(self, counts: SharedCounts = shared_counts, wait_seconds: float = WAIT_SECONDS) -> None:
        self._counts = counts
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Ticket]] = {}
        self.wait_seconds = wait_seconds

    def ticket(self, key_id: int) -> Ticket:
        """A place in the queue of this key's requests in this process."""
        ticket = Ticket(self, key_id)
        with self._lock:
            self._waiting.setdefault(key_id, deque()).append(ticket)
        return ticket

    def give_back(self, key_id: int) -> None:
        """The request that had the turn has ended."""
        with self._lock:
            self._counts.remove(key_id)

    def _take(self, ticket: Ticket) -> bool:
        with self._lock:
            queue = self._waiting.get(ticket.key_id)
            if ticket.is_taken or queue is None or queue[0] is not ticket or not self._counts.add(ticket.key_id):
                return ticket.is_taken
            ticket.is_taken = True
            self._remove(ticket)
            return True

    def _leave(self, ticket: Ticket) -> bool:
        with self._lock:
            if not ticket.is_taken:
                self._remove(ticket)
            return ticket.is_taken

    def _remove(self, ticket: Ticket) -> None:
        queue = self._waiting.get(ticket.key_id)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._waiting[ticket.key_id]


class Ticket:
    """A request's place in the queue of its key."""

    def __init__(self, turns: Turns, key_id: int) -> None:
        self._turns = turns
        self.key_id = key_id
        self.is_taken = False

    def take(self) -> bool:
        """Take the turn if it is available. Returns whether it is taken; then it must be given back."""
        return self._turns._take(self)

    def leave(self) -> bool:
        """Leave the queue. Returns whether the turn was taken before."""
        return self._turns._leave(self)
