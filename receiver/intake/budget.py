"""How many callbacks of one submission are stored: so that a token that leaked cannot fill the disk.

The budget is CALLBACK_BUDGET for each call of the submission, and never less than LEAST_CALLBACKS. Each web process
counts in memory what it stores, adds that to the table `callback_budget` every few seconds
(`receiver.intake.budget_reports`), and learns with the same statement what all processes together have stored. The
closer a submission comes to its budget, the sooner a process reports: up to SHARING processes exceed it together by
no more than its double. While the database is away each process goes by what it knows and its own count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from receiver.database.pool import Connection
from receiver.model import SubmissionKey

LEAST_CALLBACKS = 10_000
"""Stored of every submission, however few calls it has."""

SHARING = 32
"""Processes that keep to a budget together: each may store this part of what is left before it must report."""

LEAST_UNREPORTED = 100
"""So few are never a reason to report at once."""

KEPT_SUBMISSIONS = 50_000
"""How many are remembered; what is forgotten is learned again from the database."""


@dataclass(slots=True)
class _Tally:
    """One submission. `limit`: None until the database was asked about it."""

    stored: int = 0
    """By all processes, as the database last said."""
    taken: int = 0
    """By this process, and not reported yet."""
    limit: int | None = None
    report_at: int = 1
    """Report once `taken` is so much."""


@dataclass(frozen=True, slots=True)
class Unreported:
    """What a process stored of a submission since its last report. `known`: whether its calls are."""

    key: SubmissionKey
    callbacks: int
    known: bool


class Budget:
    """What this process knows of each submission's budget. No I/O; any thread may call it.

    `most_calls`: what a submission counts as that the database could not be asked about yet. That refuses no genuine
    callback; SPOOL_MAX_BYTES bounds what is stored meanwhile.
    """

    def __init__(self, callbacks_per_call: int, most_calls: int) -> None:
        self._per_call = callbacks_per_call
        self._unknown_limit = self._limit(most_calls)
        self._tallies: dict[SubmissionKey, _Tally] = {}
        self._lock = threading.Lock()
        self.due = threading.Event()
        """Set where a report must not wait."""

    def take(self, key: SubmissionKey) -> bool:
        """Count one callback that is about to be stored; False where the budget is used up."""
        with self._lock:
            tally = self._tallies.get(key)
            if tally is None:
                tally = self._tallies[key] = _Tally()
            limit = self._unknown_limit if tally.limit is None else tally.limit
            if tally.stored + tally.taken >= limit:
                return False
            tally.taken += 1
            due = tally.taken >= tally.report_at
        if due and not self.due.is_set():
            self.due.set()
        return True

    def give_back(self, key: SubmissionKey) -> None:
        """It could not be stored."""
        with self._lock:
            tally = self._tallies.get(key)
            if tally is not None:
                tally.taken -= 1

    def list_unreported(self, most: int) -> list[Unreported]:
        """What is to be reported, the largest counts first where there are more; in the order of their keys."""
        with self._lock:
            if len(self._tallies) > KEPT_SUBMISSIONS:
                self._tallies = {key: tally for key, tally in self._tallies.items() if tally.taken}
            found = [
                Unreported(key, tally.taken, tally.limit is not None)
                for key, tally in self._tallies.items()
                if tally.taken
            ]
        if len(found) > most:
            found = sorted(found, key=lambda each: -each.callbacks)[:most]
        return sorted(found, key=lambda each: (each.key.batch_id, each.key.submission_no))

    def learn(self, reported: Iterable[Unreported], told: dict[SubmissionKey, Told]) -> None:
        """The report was committed, and this is what the database said."""
        with self._lock:
            for each in reported:
                tally = self._tallies.get(each.key)
                if tally is None:
                    continue
                tally.taken -= each.callbacks
                tally.stored = told[each.key].stored
                if tally.limit is None:
                    tally.limit = self._limit(told[each.key].calls)
                left = max(0, tally.limit - tally.stored)
                tally.report_at = max(LEAST_UNREPORTED, left // SHARING)

    def _limit(self, calls: int) -> int:
        return max(LEAST_CALLBACKS, self._per_call * calls)


@dataclass(frozen=True, slots=True)
class Told:
    """What the database knows of a submission. `calls`: 0 where it is gone, or was known before."""

    stored: int
    calls: int


def add_stored(conn: Connection, unreported: Sequence[Unreported]) -> dict[SubmissionKey, Told]:
    """Add what a process stored, in the order of the keys so that two never wait for each other in a circle."""
    keys = [each.key for each in unreported]
    calls: dict[SubmissionKey, int] = {}
    if unknown := [each.key for each in unreported if not each.known]:
        for batch_id, submission_no, found in conn.execute(
            "select s.batch_id, s.submission_no, s.calls from submission s"
            " join unnest(%(batch_id)s::bigint[], %(submission_no)s::integer[]) as asked (batch_id, submission_no)"
            " on s.batch_id = asked.batch_id and s.submission_no = asked.submission_no",
            _columns(unknown),
        ):
            calls[SubmissionKey(batch_id, submission_no)] = found
    rows = conn.execute(
        "insert into callback_budget as budget (batch_id, submission_no, stored)"
        " select * from unnest(%(batch_id)s::bigint[], %(submission_no)s::integer[], %(stored)s::bigint[])"
        " on conflict (batch_id, submission_no) do update set stored = budget.stored + excluded.stored"
        " returning batch_id, submission_no, stored",
        {**_columns(keys), "stored": [each.callbacks for each in unreported]},
    ).fetchall()
    stored = {SubmissionKey(batch_id, submission_no): found for batch_id, submission_no, found in rows}
    return {key: Told(stored[key], calls.get(key, 0)) for key in keys}


def _columns(keys: Sequence[SubmissionKey]) -> dict[str, list[int]]:
    return {"batch_id": [key.batch_id for key in keys], "submission_no": [key.submission_no for key in keys]}
