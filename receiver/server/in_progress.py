"""How many requests one key has in progress: eight at most; further ones wait, and are refused after ten seconds.

So the holder of one key can neither fill a process with long answers nor keep all others from it. A request is in
progress until the last byte of its answer was taken, or its connection is gone.

Counted for all web processes of a machine together, in memory that they share and that gunicorn's parent made before it
forked: each process adds to cells of its own, and a request adds up those of all. A key that is used at several
machines can have eight at each of them.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque

MOST_IN_PROGRESS = 8

WAIT_SECONDS = 10.0

SLOTS = 600
"""Twice the most processes that can be configured, for old and new ones side by side, and some."""

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
    """Those of one process. Safe among threads."""

    def __init__(self, counts: SharedCounts = shared_counts, wait_seconds: float = WAIT_SECONDS) -> None:
        self._counts = counts
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Ticket]] = {}
        self.wait_seconds = wait_seconds

    def ticket(self, key_id: int) -> Ticket:
        """A place behind the requests of this key that wait in this process."""
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
    """A request's place among those of its key."""

    def __init__(self, turns: Turns, key_id: int) -> None:
        self._turns = turns
        self.key_id = key_id
        self.is_taken = False

    def take(self) -> bool:
        """Take the turn if it is there; whether it is taken. A turn that was taken must be given back."""
        return self._turns._take(self)

    def leave(self) -> bool:
        """Wait no longer; whether the turn was taken before."""
        return self._turns._leave(self)
