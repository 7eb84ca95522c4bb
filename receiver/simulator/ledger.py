"""Counts what was queued and delivered, so that a test can compare it with what the receiver stored.

The result of each call is in exactly one state: `delivered` (answered 200 at least once), `dropped` on purpose,
`failed` (no attempt was answered 200, and none is left) or still `to_come`. The callbacks `to_come` are those of
calls that have ended, with duplicates and further attempts.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from receiver.simulator.bodies import dialed_digits
from receiver.simulator.calls import Call
from receiver.simulator.submission import Submission


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST to a `result_url`.

    `what`: `result`, `duplicate` or `step`. `answered`: the HTTP status; None if there was no answer, for the reason in
    `error`. `at`: real Unix seconds. `fault`: the names of its faults, joined by `+`.
    """

    what: str
    answered: int | None
    at: float
    fault: str | None
    error: str | None = None


@dataclass(slots=True)
class _Entry:
    """One call: the state of its result, and how many of its planned POSTs are not over yet."""

    state: str = "to_come"
    fault: str | None = None
    outstanding: int = 0
    deliveries: tuple[Delivery, ...] = ()


class Ledger:
    """Counts under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._submissions: list[Submission] = []
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._states: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._callbacks: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def accepted(self, submission: Submission) -> None:
        with self._lock:
            self._submissions.append(submission)
            self._states["to_come"] += len(submission.calls)

    def request_dropped(self, submission: Submission, reason: str) -> None:
        """No call of the submission is dialed, because its `result_url` did not answer a GET with 200."""
        with self._lock:
            self._faults[f"request_{reason}"] += 1
            for call in submission.calls:
                self._move(self._entry(submission, call), "dropped", reason)

    def dropped(self, submission: Submission, call: Call, reason: str) -> None:
        """The call has ended, and its result is not delivered on purpose."""
        with self._lock:
            self._statuses[call.status] += 1
            self._faults[reason] += 1
            self._move(self._entry(submission, call), "dropped", reason)

    def ended(self, submission: Submission, call: Call, fault: str | None, outstanding: int) -> None:
        """The call has ended; `outstanding` POSTs about it will follow."""
        with self._lock:
            self._statuses[call.status] += 1
            self._faults.update(fault.split("+") if fault else ())
            entry = self._entry(submission, call)
            entry.fault, entry.outstanding = fault, outstanding
            self._callbacks["to_come"] += outstanding

    def delivered_before(self, submission: Submission, call: Call) -> None:
        """The call has ended, and an earlier process delivered its result."""
        with self._lock:
            self._statuses[call.status] += 1
            self._move(self._entry(submission, call), "delivered", None)

    def posted(self, submission: Submission, call: Call, delivery: Delivery, *, again: bool) -> bool:
        """A POST has ended. `again`: it will be repeated. Returns whether it was the last POST for the call."""
        with self._lock:
            entry = self._entry(submission, call)
            entry.deliveries = (*entry.deliveries, delivery)
            entry.outstanding -= not again
            self._callbacks["to_come"] -= not again
            self._callbacks["attempted"] += 1
            self._callbacks[f"{delivery.what}s"] += 1
            self._callbacks["answered_200" if delivery.answered == 200 else "failed"] += 1
            state = entry.state
            if delivery.answered == 200 and delivery.what != "step":
                state = "delivered"
            elif state == "to_come" and entry.outstanding == 0:
                state = "failed"
            self._move(entry, state, entry.fault)
            return entry.outstanding == 0

    def summary(self) -> dict[str, object]:
        """The figures, as `GET /simulator/ledger` shows them."""
        with self._lock:
            times = Counter(each.result_url for each in self._submissions if each.result_url)
            states = {name: self._states[name] for name in ("delivered", "dropped", "failed", "to_come")}
            names = ("attempted", "answered_200", "failed", "to_come", "results", "duplicates", "steps")
            return {
                "requests": [
                    {**_request(each), "times_queued": times[each.result_url or ""]} for each in self._submissions
                ],
                "queued_more_than_once": sorted(url for url, count in times.items() if count > 1),
                "calls": {"queued": sum(states.values()), **states},
                "statuses": dict(self._statuses),
                "callbacks": {name: self._callbacks[name] for name in names},
                "faults": dict(self._faults),
            }

    def lines(self) -> Iterator[str]:
        """One JSON line per call, in the order of acceptance. Each line shows the call at the time when it is
        written."""
        for submission in list(self._submissions):
            for call in submission.calls:
                with self._lock:
                    entry = self._entries.get((submission.number, call.row), _Entry())
                    line = _call(submission, call, entry)
                yield json.dumps(line) + "\n"

    def _entry(self, submission: Submission, call: Call) -> _Entry:
        return self._entries.setdefault((submission.number, call.row), _Entry())

    def _move(self, entry: _Entry, state: str, fault: str | None) -> None:
        self._states[entry.state] -= 1
        self._states[state] += 1
        entry.state, entry.fault = state, fault


def _request(submission: Submission) -> dict[str, object]:
    return {
        "application_id": submission.request.application_id,
        "deployment_id": submission.request.deployment_id,
        "result_url": submission.result_url,
        "submission_no": submission.number,
        "calls_queued": len(submission.calls),
    }


def _call(submission: Submission, call: Call, entry: _Entry) -> dict[str, object]:
    return {
        "result_url": submission.result_url,
        "submission_no": submission.number,
        "row": call.row,
        "destination": call.destination,
        "phone_number": dialed_digits(call.destination),
        "status": None if call.ended is None else call.status,
        "attempts": len(call.dialed),
        "duration": call.duration,
        "callback": entry.state,
        "fault": entry.fault,
        "deliveries": [asdict(delivery) for delivery in entry.deliveries],
    }
