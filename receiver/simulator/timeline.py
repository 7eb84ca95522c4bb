"""Decides when each call of one submission is dialed. A simulation in whole seconds, without a clock.

Each submission has its own phone lines and counts from its own acceptance. So its results do not depend on other
submissions, nor on the speed of the machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from receiver.simulator.calls import Call, Plan


class Timeline:
    """Moves a submission's calls from queued to their end, on a bounded number of lines.

    `opens` and `closes` are offsets (seconds since acceptance) of the window. After `closes` no attempt begins: a call
    that was dialed before fails, and one that was never dialed is canceled.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        plan: Callable[[Call], Plan],
        *,
        lines: int,
        opens: int = 1,
        closes: int | None = None,
        reattempt_wait: int = 0,
    ) -> None:
        self._calls = calls
        self._plan = plan
        self._lines = lines
        self._opens = opens
        self._closes = closes
        self._reattempt_wait = reattempt_wait
        self._canceled = False
        self._now = 0
        self._fresh = 0  # calls[_fresh:] were never dialed
        self._retries: list[tuple[int, int]] = []  # (when, index), a heap
        self._busy: list[tuple[int, int]] = []  # (when ringing or talking ends, index), a heap
        self._plans: dict[int, Plan] = {}  # only of calls that have begun and not ended, to save memory

    def next_at(self) -> int | None:
        """The offset of the next change; None once every call has ended."""
        moments = [self._busy[0][0]] if self._busy else []
        waiting = [self._retries[0][0]] if self._retries else []
        if self._fresh < len(self._calls):
            waiting.append(self._opens)
        if waiting:
            if len(self._busy) < self._lines:
                moments.append(min(waiting))
            if self._closes is not None:
                moments.append(self._closes)
        return max(min(moments), self._now) if moments else None

    def advance(self, until: float) -> Iterator[Call]:
        """Let time pass until this offset; yields each call when it ends, in the order of the ends.

        The caller may stop after any call and continue with a new `advance`: nothing is lost.
        """
        while (at := self.next_at()) is not None and at <= until:
            self._now = at
            if self._busy and self._busy[0][0] <= at:
                ended = self._end_of_ringing_or_talking()
            elif self._closes is not None and self._closes <= at:
                ended = self._end_after_closing()
            else:
                ended = self._dial()
            if ended is not None:
                yield ended

    def cancel(self, at: float) -> None:
        """Dial nothing from now on: waiting calls are canceled, and so are attempts that are not answered."""
        self._canceled = True
        self._closes = int(at) if self._closes is None else min(int(at), self._closes)

    def _next_waiting(self) -> int:
        """The index of the next waiting call. A retry that is due comes before a first attempt."""
        if self._retries and (self._retries[0][0] <= self._now or self._fresh == len(self._calls)):
            return heapq.heappop(self._retries)[1]
        if self._fresh == len(self._calls):
            raise IndexError("no call is waiting")
        self._fresh += 1
        return self._fresh - 1

    def _end_after_closing(self) -> Call:
        index = self._next_waiting()
        call = self._calls[index]
        self._plans.pop(index, None)
        call.end("failed" if call.dialed and not self._canceled else "canceled", self._now)
        return call

    def _dial(self) -> Call | None:
        index = self._next_waiting()
        call = self._calls[index]
        plan = self._plans.get(index)
        if plan is None:
            plan = self._plans[index] = self._plan(call)
        if len(call.dialed) == len(plan.attempts):
            del self._plans[index]
            call.end(plan.outcome, self._now)
            return call
        attempt = plan.attempts[len(call.dialed)]
        call.dialed = (*call.dialed, self._now)
        call.status = "dialing"
        heapq.heappush(self._busy, (self._now + attempt.ring, index))
        return None

    def _end_of_ringing_or_talking(self) -> Call | None:
        _, index = heapq.heappop(self._busy)
        call, plan = self._calls[index], self._plans[index]
        talk = plan.attempts[len(call.dialed) - 1].talk
        if call.connected is not None:
            call.end("completed", self._now)
        elif talk is not None:
            call.connected = self._now
            call.status = "connected"
            heapq.heappush(self._busy, (self._now + talk, index))
            return None
        elif len(call.dialed) < len(plan.attempts) or plan.outcome == "canceled":
            call.status = "queued"
            heapq.heappush(self._retries, (self._now + self._reattempt_wait, index))
            return None
        else:
            call.end(plan.outcome, self._now)
        del self._plans[index]
        return call
