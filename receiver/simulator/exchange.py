"""The exchange: accepted submissions are dialed, and their results handed to the senders.

One thread and one heap of moments, however many calls there are: a submission stands in the heap
once, with the moment its timeline next moves, and so does each callback that is held back.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from receiver.simulator import bodies, faults
from receiver.simulator.bodies import Terms
from receiver.simulator.calls import Call, draw_plan, seeded
from receiver.simulator.delivery import Senders, Wire
from receiver.simulator.faults import Mishaps
from receiver.simulator.forms import Refused
from receiver.simulator.ledger import Delivery, Ledger
from receiver.simulator.settings import Settings
from receiver.simulator.store import Store, Stored
from receiver.simulator.submission import Submission
from receiver.simulator.timeline import Timeline

log = logging.getLogger(__name__)

SLICE = 50
"""Ends of calls, and moments, taken in one go, so that a large submission keeps no other waiting."""
BACKLOG = 2000
"""Callbacks waiting for a sender above which dialing pauses: memory stays bounded."""
PAUSE = 0.005
"""Seconds of that pause."""


class Exchange:
    """Dials what it accepts. Its methods may be called from any thread, between `start` and `stop`.

    With a store it goes on with what an earlier process accepted. What became due meanwhile is delivered at once.
    """

    def __init__(self, settings: Settings, ledger: Ledger, store: Store | None = None) -> None:
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
        if self._store is not None:
            with self._changed:
                for stored in self._store.submissions():
                    self._resume(stored)
        self._senders.start()
        self._thread.start()

    def stop(self, within: float) -> None:
        """Nothing more is dialed or delivered; what is under way has `within` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + within
        self._senders.stop(within)
        self._thread.join(max(0.1, end - time.monotonic()))
        with self._changed:
            if self._store is not None:
                self._store.close()
                self._store = None

    def accept(
        self, kind: str, application_id: int, deployment_id: int, terms: Terms, destinations: Sequence[str]
    ) -> Submission:
        """Queue these calls. Which number the submission gets, and so all that happens to it, depends
        on the order of acceptance alone."""
        calls = [Call(row, destination) for row, destination in enumerate(destinations, start=1)]
        with self._changed:
            now, accepted_at = time.monotonic(), time.time()
            queued_at = int(accepted_at) if self._settings.epoch is None else self._settings.epoch
            if self._store is None:
                number = len(self._submissions) + 1
            else:
                number = self._store.accept(
                    kind, application_id, deployment_id, terms, queued_at, accepted_at, destinations
                )
            submission = Submission(
                number=number,
                kind=kind,
                application_id=application_id,
                deployment_id=deployment_id,
                terms=terms,
                calls=calls,
                timeline=self._timeline(number, calls, terms, queued_at),
                queued_at=queued_at,
                accepted=now,
                left=len(calls),
            )
            self._begin(submission, check=self._settings.check)
        return submission

    def _resume(self, stored: Stored) -> None:
        """Go on with a submission of an earlier process, as if this one had been there all the time."""
        calls = [Call(row, destination) for row, destination in enumerate(stored.destinations, start=1)]
        submission = Submission(
            number=stored.number,
            kind=stored.kind,
            application_id=stored.application_id,
            deployment_id=stored.deployment_id,
            terms=stored.terms,
            calls=calls,
            timeline=self._timeline(stored.number, calls, stored.terms, stored.queued_at),
            queued_at=stored.queued_at,
            accepted=time.monotonic() - (time.time() - stored.accepted_at),
            told=stored.told,
            left=len(calls),
        )
        if stored.canceled is not None:
            submission.timeline.cancel(stored.canceled)
        self._begin(submission, check=self._settings.check and not stored.checked)
        log.info(
            "submission %d goes on: %d of %d calls to come", stored.number, len(calls) - len(stored.told), len(calls)
        )

    def _begin(self, submission: Submission, *, check: bool) -> None:
        self._submissions[submission.number] = submission
        self._ledger.accepted(submission)
        if submission.terms.result_url is None or not check:
            self._wake(submission, submission.accepted)
        else:
            self._senders.hand(partial(self._check, submission, submission.terms.result_url, 0))

    def cancel(self, application_id: int, deployment_id: int) -> None:
        """Mark every pending call of the deployment for cancelling."""
        with self._changed:
            now = time.monotonic()
            for submission in self._submissions.values():
                if (submission.application_id, submission.deployment_id) == (application_id, deployment_id):
                    offset = int(self._offset(submission, now))
                    if self._store is not None:
                        self._store.canceled(submission.number, offset)
                    submission.timeline.cancel(offset)
                    if submission.wakes is not None:
                        self._wake(submission, now)

    def call_details(self, call_id: str) -> dict[str, object]:
        """The call as it stands now; raises `Refused` (404) for an id that was never given."""
        number, _, row = call_id.partition("-")
        if not (number.isascii() and number.isdigit() and row.isascii() and row.isdigit()):
            raise Refused(404, "call not found")
        with self._changed:
            submission = self._submissions.get(int(number))
            if submission is None or not 1 <= int(row) <= len(submission.calls):
                raise Refused(404, "call not found")
            return self._details(submission, submission.calls[int(row) - 1])

    def _timeline(self, number: int, calls: Sequence[Call], terms: Terms, queued_at: int) -> Timeline:
        outcomes, seed = self._settings.outcomes, self._settings.seed
        return Timeline(
            calls,
            lambda call: draw_plan(_draws(seed, number, call, "life"), outcomes, terms.max_attempts),
            lines=self._settings.lines,
            opens=1 if terms.start_timestamp is None else max(1, terms.start_timestamp - queued_at),
            closes=None if terms.end_timestamp is None else max(0, terms.end_timestamp - queued_at),
            reattempt_wait=terms.reattempt_wait or 0,
        )

    def _offset(self, submission: Submission, now: float) -> float:
        return (now - submission.accepted) * self._settings.speed

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), action))
        self._changed.notify_all()

    def _wake(self, submission: Submission, when: float) -> None:
        submission.wakes = when
        self._at(when, partial(self._dial, submission, when))

    def _run(self) -> None:
        while True:
            with self._changed:
                for _ in range(SLICE):
                    if self._stopping:
                        return
                    self._next()
            # Whoever waits to have a submission accepted takes the lock here; it is not a fair one.
            time.sleep(0)

    def _next(self) -> None:
        """Do what is due, or wait until something is."""
        now = time.monotonic()
        if self._senders.waiting > BACKLOG:
            self._changed.wait(PAUSE)
        elif not self._agenda:
            self._changed.wait()
        elif (due := self._agenda[0][0]) > now:
            # A window may open in years; a wait longer than the clock's type overflows.
            self._changed.wait(min(due - now, 3600.0))
        else:
            heapq.heappop(self._agenda)[2]()

    def _check(self, submission: Submission, result_url: str, tried: int, wire: Wire) -> None:
        """As a sister product does: GET it before dialing, and drop the request unless it answers 200."""
        answer = wire.get(result_url)
        if answer.status is None and self._stopping:
            return
        with self._changed:
            if answer.status == 200:
                if self._store is not None:
                    self._store.checked(submission.number)
                self._wake(submission, submission.accepted)
                return
            if answer.status is None and tried < self._settings.retry:
                self._try_again(tried, partial(self._check, submission, result_url, tried + 1))
                return
            if self._store is not None:
                self._store.forget(submission.number)
        self._ledger.request_dropped(submission, "check")
        log.warning("submission %d dropped: GET result_url: %s", submission.number, answer.status or answer.error)

    def _dial(self, submission: Submission, when: float) -> None:
        if submission.wakes != when:
            return  # something woke it earlier, and it has an entry of its own since
        now = time.monotonic()
        for call in itertools.islice(submission.timeline.advance(self._offset(submission, now)), SLICE):
            self._ended(submission, call)
        next_at = submission.timeline.next_at()
        if next_at is None:
            submission.wakes = None
        else:
            self._wake(submission, submission.accepted + next_at / self._settings.speed)

    def _ended(self, submission: Submission, call: Call) -> None:
        settings = self._settings
        draws = _draws(settings.seed, submission.number, call, "mishaps")
        mishaps = faults.draw_mishaps(draws, settings.rates, settings.shapes)
        call.status = mishaps.status or call.status
        if call.row in submission.told:
            self._ledger.told_before(submission, call)
            self._tell(submission, call)
            return
        if submission.terms.result_url is None or mishaps.drop:
            self._ledger.dropped(submission, call, "drop" if submission.terms.result_url else "no_result_url")
            self._tell(submission, call)
            return
        posts = ("step", "result") if mishaps.step else ("result",)
        again = mishaps.duplicate_after
        self._ledger.ended(submission, call, mishaps.names, len(posts) + (again is not None))
        if mishaps.reorder:
            posts = posts[::-1]
        due = mishaps.delay
        self._hold(submission, call, due, partial(self._deliver, submission, call, mishaps, posts, 0))
        if again is not None:
            duplicate = partial(self._deliver, submission, call, mishaps, ("duplicate",), 0)
            self._hold(submission, call, due + again, duplicate)

    def _hold(self, submission: Submission, call: Call, seconds: int, job: Callable[[Wire], None]) -> None:
        """Hand the job to the senders so many simulated seconds after the call ended."""
        if seconds == 0:
            self._senders.hand(job)
        else:
            offset = (call.ended or 0) + seconds
            self._at(submission.accepted + offset / self._settings.speed, partial(self._senders.hand, job))

    def _deliver(
        self,
        submission: Submission,
        call: Call,
        mishaps: Mishaps,
        posts: Sequence[str],
        tried: int,
        wire: Wire,
    ) -> None:
        for what in posts:
            body, content_type = self._body(submission, call, mishaps, step=what == "step")
            url = submission.terms.result_url or ""
            answer = wire.post(url, body, content_type, slow=mishaps.slow_sender)
            again = answer.status != 200 and tried < self._settings.retry and not self._stopping
            delivery = Delivery(what, answer.status, time.time(), mishaps.names, answer.error)
            was_last = self._ledger.posted(submission, call, delivery, again=again)
            # A stop that cut it off leaves it to the next process.
            if was_last and (answer.status == 200 or not self._stopping):
                self._tell(submission, call)
            if again:
                with self._changed:
                    self._try_again(tried, partial(self._deliver, submission, call, mishaps, (what,), tried + 1))

    def _try_again(self, tried: int, job: Callable[[Wire], None]) -> None:
        self._at(time.monotonic() + min(2.0**tried, 30.0), partial(self._senders.hand, job))

    def _tell(self, submission: Submission, call: Call) -> None:
        """Nothing is left to deliver about this call."""
        with self._changed:
            submission.left -= 1
            if self._store is None:
                return
            if submission.left == 0:
                self._store.forget(submission.number)
            elif call.row not in submission.told:
                self._store.told(submission.number, call.row)

    def _body(self, submission: Submission, call: Call, mishaps: Mishaps, *, step: bool) -> tuple[bytes, str]:
        details = self._details(submission, call.before_it_ended() if step else call)
        if mishaps.extra_fields:
            details = bodies.with_extra_fields(details, submission.call_id(call))
        if mishaps.inconsistency is not None:
            details = bodies.with_inconsistency(details, mishaps.inconsistency)
        body, content_type = bodies.encode(details, mishaps.shape)
        if mishaps.keep is not None and not step:
            body = body[: max(1, int(len(body) * mishaps.keep))]
        return body, content_type if mishaps.content_type is None else mishaps.content_type

    def _details(self, submission: Submission, call: Call) -> dict[str, object]:
        spelling = bodies.draw_spelling(_draws(self._settings.seed, submission.number, call, "spelling"))
        return bodies.call_details(call, submission.terms, submission.queued_at, spelling)


def _draws(seed: int, number: int, call: Call, purpose: str) -> random.Random:
    """The draws of one call for one purpose: submission, row and number name it, not its URL."""
    return seeded(seed, number, call.row, bodies.dialed_digits(call.destination), purpose)
