"""Dials the calls of accepted submissions, and has their callbacks sent.

One thread and one heap of due times, however many calls there are. A submission is in the heap once, with the time at
which its next call ends; so is each callback that is delayed.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from receiver.simulator import bodies, faults
from receiver.simulator.bodies import Parameters
from receiver.simulator.calls import Call, Window, draw_plan, play, seeded
from receiver.simulator.delivery import Job, Senders
from receiver.simulator.faults import CallFaults
from receiver.simulator.forms import Refused
from receiver.simulator.ledger import Delivery, Ledger
from receiver.simulator.settings import Settings
from receiver.simulator.store import Store, Stored
from receiver.simulator.submission import Request, Submission

log = logging.getLogger(__name__)

SLICE = 50
"""How many actions, and how many ended calls of one action, are handled before the lock is released for other
threads."""
BACKLOG = 2000
"""Dialing pauses while more callbacks than this wait for a sender, so that memory stays bounded."""
PAUSE_SECONDS = 0.005
CALL_SECONDS = 40
"""Simulated seconds until the next calls of a submission are dialed, as many as it has lines. A call takes about as
long."""


class Exchange:
    """Its methods may be called from any thread, between `start` and `stop`.

    It continues the submissions that an earlier process stored. Results that became due in the meantime are delivered
    at once.
    """

    def __init__(self, settings: Settings, ledger: Ledger, store: Store) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._senders = Senders(settings.senders)
        self._changed = threading.Condition()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._submissions: dict[int, Submission] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)

    def start(self) -> None:
        with self._changed:
            for stored in self._store.submissions():
                self._resume(stored)
        self._senders.start()
        self._thread.start()

    def stop(self, within: float) -> None:
        """Dial and deliver nothing more; deliveries that have begun get `within` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + within
        self._senders.stop(within)
        self._thread.join(max(0.1, end - time.monotonic()))
        self._store.close()

    def accept(
        self, kind: str, application_id: int, deployment_id: int, parameters: Parameters, destinations: Sequence[str]
    ) -> Submission:
        """Queue these calls. The submission's number, and so its random draws, depend only on the order of
        acceptance."""
        with self._changed:
            accepted_at = time.time()
            queued_at = int(accepted_at) if self._settings.epoch is None else self._settings.epoch
            request = Request(kind, application_id, deployment_id, parameters, queued_at, accepted_at, destinations)
            submission = self._submission(Stored(self._store.accept(request), request), time.monotonic())
            self._begin(submission, check=self._settings.check)
        return submission

    def _resume(self, stored: Stored) -> None:
        """Continue a submission of an earlier process as if there had been no gap."""
        submission = self._submission(stored, time.monotonic() - (time.time() - stored.request.accepted_at))
        self._begin(submission, check=self._settings.check and not stored.checked)
        left = submission.left - len(stored.finished)
        log.info("submission %d continues: %d of %d calls left", stored.number, left, submission.left)

    def _submission(self, stored: Stored, started: float) -> Submission:
        number, request = stored.number, stored.request
        start, end = request.parameters.start_timestamp, request.parameters.end_timestamp
        window = Window(
            opens=1 if start is None else max(1, start - request.queued_at),
            closes=None if end is None else max(0, end - request.queued_at),
            canceled=stored.canceled,
            reattempt_wait=request.parameters.reattempt_wait or 0,
        )
        calls = [
            self._play(number, Call(row, destination), request, window)
            for row, destination in enumerate(request.destinations, start=1)
        ]
        return Submission(number, request, window, calls, started, left=len(calls), finished=stored.finished)

    def _play(self, number: int, call: Call, request: Request, window: Window) -> Call:
        draws = _draws(self._settings.seed, number, call, "life")
        plan = draw_plan(draws, self._settings.outcomes, request.parameters.max_attempts)
        start = window.opens + (call.row - 1) // self._settings.lines * CALL_SECONDS
        return play(call, plan, start, window)

    def _begin(self, submission: Submission, *, check: bool) -> None:
        self._submissions[submission.number] = submission
        self._ledger.accepted(submission)
        if submission.result_url is None or not check:
            self._wake(submission, submission.started)
        else:
            self._senders.submit(partial(self._check, submission, submission.result_url, 0))

    def cancel(self, application_id: int, deployment_id: int) -> None:
        """Cancel every pending call of the deployment."""
        with self._changed:
            now = time.monotonic()
            for submission in self._submissions.values():
                request = submission.request
                if (request.application_id, request.deployment_id) != (application_id, deployment_id):
                    continue
                offset = int(self._offset(submission, now))
                self._store.cancel(submission.number, offset)
                window = submission.window = replace(submission.window, canceled=offset)
                rows = [row for _, row in submission.upcoming]
                for row in rows:
                    undialed = Call(row, request.destinations[row - 1])
                    submission.calls[row - 1] = self._play(submission.number, undialed, request, window)
                submission.schedule(submission.calls[row - 1] for row in rows)
                if submission.is_dialed:
                    self._wake(submission, now)

    def call_details(self, call_id: str) -> dict[str, object]:
        """The call as it is now; raises `Refused` (404) for an unknown id."""
        number, _, row = call_id.partition("-")
        if not (number.isascii() and number.isdigit() and row.isascii() and row.isdigit()):
            raise Refused(404, "call not found")
        with self._changed:
            submission = self._submissions.get(int(number))
            if submission is None or not 1 <= int(row) <= len(submission.calls):
                raise Refused(404, "call not found")
            now = self._offset(submission, time.monotonic()) if submission.is_dialed else 0
            return self._details(submission, submission.calls[int(row) - 1].until(now))

    def _offset(self, submission: Submission, now: float) -> float:
        return (now - submission.started) * self._settings.speed

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), action))
        self._changed.notify_all()

    def _wake(self, submission: Submission, when: float) -> None:
        submission.is_dialed, submission.wakes_at = True, when
        self._at(when, partial(self._dial, submission, when))

    def _run(self) -> None:
        while True:
            with self._changed:
                for _ in range(SLICE):
                    if self._stopping:
                        return
                    self._next()
            # The lock is not fair: without this, other threads would never get it.
            time.sleep(0)

    def _next(self) -> None:
        """Do what is due, or wait until something is."""
        now = time.monotonic()
        if self._senders.waiting > BACKLOG:
            self._changed.wait(PAUSE_SECONDS)
        elif not self._agenda:
            self._changed.wait()
        elif (due := self._agenda[0][0]) > now:
            # A window may open in years; a wait longer than the clock's type overflows.
            self._changed.wait(min(due - now, 3600.0))
        else:
            heapq.heappop(self._agenda)[2]()

    def _check(self, submission: Submission, result_url: str, tried: int) -> None:
        """As a sister product does: GET the result_url before dialing, and drop the request unless it answers 200."""
        answer = self._senders.client.get(result_url)
        if answer.status is None and self._stopping:
            return
        with self._changed:
            if answer.status == 200:
                self._store.check(submission.number)
                self._wake(submission, submission.started)
                return
            if answer.status is None and tried < self._settings.retry:
                self._try_again(tried, partial(self._check, submission, result_url, tried + 1))
                return
            self._store.forget(submission.number)
        self._ledger.request_dropped(submission, "check")
        log.warning("submission %d dropped: GET result_url: %s", submission.number, answer.status or answer.error)

    def _dial(self, submission: Submission, when: float) -> None:
        if submission.wakes_at != when:
            return  # it was woken earlier, and has had a newer entry since
        now = self._offset(submission, time.monotonic())
        upcoming = submission.upcoming
        for _ in range(SLICE):
            if not upcoming or upcoming[-1][0] > now:
                break
            _, row = upcoming.pop()
            self._ended(submission, submission.calls[row - 1])
        submission.wakes_at = None
        if upcoming:
            self._wake(submission, submission.started + upcoming[-1][0] / self._settings.speed)

    def _ended(self, submission: Submission, call: Call) -> None:
        """Plan the callbacks of a call that has ended."""
        settings = self._settings
        draws = _draws(settings.seed, submission.number, call, "mishaps")
        drawn = faults.draw_call_faults(draws, settings.rates, settings.shapes)
        call.undocumented = drawn.status
        if call.row in submission.finished:
            self._ledger.delivered_before(submission, call)
            self._finish(submission, call)
            return
        if submission.result_url is None or "drop" in drawn.occur:
            self._ledger.dropped(submission, call, "drop" if submission.result_url else "no_result_url")
            self._finish(submission, call)
            return
        posts = ("step", "result") if "step" in drawn.occur else ("result",)
        is_repeated = "duplicate" in drawn.occur
        self._ledger.ended(submission, call, drawn.names, len(posts) + is_repeated)
        if "reorder" in drawn.occur:
            posts = posts[::-1]
        self._send(submission, call, drawn.delay, partial(self._deliver, submission, call, drawn, posts, 0))
        if is_repeated:
            duplicate = partial(self._deliver, submission, call, drawn, ("duplicate",), 0)
            self._send(submission, call, drawn.delay + drawn.duplicate_after, duplicate)

    def _send(self, submission: Submission, call: Call, delay: int, job: Job) -> None:
        """Give the job to the senders `delay` simulated seconds after the call ended."""
        if delay == 0:
            self._senders.submit(job)
        else:
            offset = (call.ended or 0) + delay
            self._at(submission.started + offset / self._settings.speed, partial(self._senders.submit, job))

    def _deliver(self, submission: Submission, call: Call, drawn: CallFaults, posts: Sequence[str], tried: int) -> None:
        for what in posts:
            body, content_type = self._body(submission, call, drawn, step=what == "step")
            slow = "slow_sender" in drawn.occur
            answer = self._senders.client.post(submission.result_url or "", body, content_type, slow=slow)
            again = answer.status != 200 and tried < self._settings.retry and not self._stopping
            delivery = Delivery(what, answer.status, time.time(), drawn.names, answer.error)
            was_last = self._ledger.posted(submission, call, delivery, again=again)
            # If a stop cut it off, the next process delivers it.
            if was_last and (answer.status == 200 or not self._stopping):
                self._finish(submission, call)
            if again:
                with self._changed:
                    self._try_again(tried, partial(self._deliver, submission, call, drawn, (what,), tried + 1))

    def _try_again(self, tried: int, job: Job) -> None:
        self._at(time.monotonic() + min(2.0**tried, 30.0), partial(self._senders.submit, job))

    def _finish(self, submission: Submission, call: Call) -> None:
        """Nothing is left to deliver about this call."""
        with self._changed:
            submission.left -= 1
            if submission.left == 0:
                self._store.forget(submission.number)
            elif call.row not in submission.finished:
                self._store.finish(submission.number, call.row)

    def _body(self, submission: Submission, call: Call, drawn: CallFaults, *, step: bool) -> tuple[bytes, str]:
        details = self._details(submission, call.until((call.ended or 0) - 1) if step else call)
        if "extra_fields" in drawn.occur:
            details = bodies.with_extra_fields(details, submission.call_id(call))
        if drawn.inconsistency is not None:
            details = bodies.with_inconsistency(details, drawn.inconsistency)
        body, content_type = bodies.encode(details, drawn.shape)
        if drawn.keep is not None and not step:
            body = body[: max(1, int(len(body) * drawn.keep))]
        return body, content_type if drawn.content_type is None else drawn.content_type

    def _details(self, submission: Submission, call: Call) -> dict[str, object]:
        spelling = bodies.draw_spelling(_draws(self._settings.seed, submission.number, call, "spelling"))
        return bodies.call_details(call, submission.request.parameters, submission.request.queued_at, spelling)


def _draws(seed: int, number: int, call: Call, purpose: str) -> random.Random:
    """The draws of one call for one purpose. They depend on submission, row and phone number, not on the result_url."""
    return seeded(seed, number, call.row, bodies.dialed_digits(call.destination), purpose)
