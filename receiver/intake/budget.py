"""Limits how many callbacks of one submission are stored, so that a leaked token cannot fill the disk.

The budget is CALLBACK_BUDGET for each call of the submission, and at least LEAST_CALLBACKS. Each web process counts in
memory what it stores. Every few seconds it adds this number to the table `callback_budget`
(`receiver.intake.budget_reports`). The same statement returns how many callbacks all processes have stored. The closer
a submission comes to its budget, the sooner a process reports, so that up to SHARING processes together store at most
twice the budget. While the database is unavailable, each process uses its last known numbers and its own count.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import NamedTuple

from receiver.database.arrays import columns
from receiver.database.pool import Connection
from receiver.model import SubmissionKey

LEAST_CALLBACKS = 10_000
"""The least budget of a submission, however few calls it has."""

SHARING = 32
"""Assumed number of processes that share a budget: each may store 1 / SHARING of the rest before it must report."""

LEAST_UNREPORTED = 100
"""Fewer unreported callbacks never cause an immediate report."""

KEPT_SUBMISSIONS = 50_000
"""Maximum number of submissions in memory. The numbers of others are read from the database again."""


@dataclass(slots=True)
class _Tally:
    """One submission. `limit`: None until it was read from the database."""

    stored: int = 0
    """By all processes, at the last report."""
    unreported: int = 0
    """By this process, since its last report."""
    limit: int | None = None
    report_at: int = 1
    """Report when `unreported` reaches this number."""


class Budget:
    """What this process knows about each submission's budget. No I/O; any thread may call it.

    `most_calls`: the assumed number of calls of a submission that could not be read from the database yet. It is so
    large that no genuine callback is refused. Until it is read, SPOOL_MAX_BYTES limits what is stored.
    """

    def __init__(self, callbacks_per_call: int, most_calls: int) -> None:
        self._per_call = callbacks_per_call
        self._unknown_limit = self._limit(most_calls)
        self._tallies: dict[SubmissionKey, _Tally] = {}
        self._lock = threading.Lock()
        self.due = threading.Event()
        """Set when a report must not wait."""

    def reserve(self, key: SubmissionKey) -> bool:
        """Count one callback that will be stored; False if the budget is used up."""
        with self._lock:
            tally = self._tallies.get(key)
            if tally is None:
                tally = self._tallies[key] = _Tally()
            limit = self._unknown_limit if tally.limit is None else tally.limit
            if tally.stored + tally.unreported >= limit:
                return False
            tally.unreported += 1
            due = tally.unreported >= tally.report_at
        if due and not self.due.is_set():
            self.due.set()
        return True

    def release(self, key: SubmissionKey) -> None:
        """Do not count a reserved callback: it could not be stored."""
        with self._lock:
            tally = self._tallies.get(key)
            if tally is not None:
                tally.unreported -= 1

    def list_unreported(self, most: int) -> dict[SubmissionKey, int]:
        """What this process stored since its last report: at most `most` counts, the largest if there are more."""
        with self._lock:
            if len(self._tallies) > KEPT_SUBMISSIONS:
                self._tallies = {key: tally for key, tally in self._tallies.items() if tally.unreported}
            found = {key: tally.unreported for key, tally in self._tallies.items() if tally.unreported}
        return {key: found[key] for key in nlargest(most, found, key=found.__getitem__)}

    def update(self, reported: Mapping[SubmissionKey, int], totals: Mapping[SubmissionKey, Total]) -> None:
        """The report was committed. `totals` are the numbers in the database."""
        with self._lock:
            for key, callbacks in reported.items():
                if (tally := self._tallies.get(key)) is None:
                    continue
                tally.unreported -= callbacks
                tally.stored = totals[key].stored
                tally.limit = self._limit(totals[key].calls)
                left = max(0, tally.limit - tally.stored)
                tally.report_at = max(LEAST_UNREPORTED, left // SHARING)

    def _limit(self, calls: int) -> int:
        return max(LEAST_CALLBACKS, self._per_call * calls)


class Total(NamedTuple):
    """A submission's numbers in the database. `calls`: 0 if it was deleted."""

    stored: int
    calls: int


def add_stored(conn: Connection, unreported: Mapping[SubmissionKey, int]) -> dict[SubmissionKey, Total]:
    """Add what a process stored, in the order of the keys, so that two processes never deadlock."""
    rows = [(key.batch_id, key.submission_no, unreported[key]) for key in sorted(unreported)]
    batch_ids, numbers, stored = columns(rows, list, list, list)
    calls_of = {
        (batch_id, submission_no): calls
        for batch_id, submission_no, calls in conn.execute(
            "select s.batch_id, s.submission_no, s.calls from submission s"
            " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, submission_no) using (batch_id, submission_no)",
            (batch_ids, numbers),
        )
    }
    found = conn.execute(
        "insert into callback_budget as budget (batch_id, submission_no, stored)"
        " select * from unnest(%s::bigint[], %s::integer[], %s::bigint[])"
        " on conflict (batch_id, submission_no) do update set stored = budget.stored + excluded.stored"
        " returning batch_id, submission_no, stored",
        (batch_ids, numbers, stored),
    )
    return {
        SubmissionKey(batch_id, submission_no): Total(total, calls_of.get((batch_id, submission_no), 0))
        for batch_id, submission_no, total in found
    }
