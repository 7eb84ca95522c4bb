"""The balance at every moment, whatever people, workers, clocks and callbacks do to a batch, in any order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from receiver.database.pool import Connection, connect
from receiver.model import CALL_STATES, OUTCOMES
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import (
    FOLLOWED_OUTCOMES,
    INCLUDABLE,
    FollowUp,
    NothingToFollowUp,
    follow_up_parameters,
)
from receiver.queueing.suppressions import digest_of, get_key
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.control import cancel_batch, change_batch, pause_batch, resume_batch
from receiver.release.deployment_cancel import request_cancel
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.resolution import NotInDoubt, resolve_submission
from receiver.release.sender import Taken, accept_proven_lately, release_untold
from receiver.results.overdue import mark_overdue
from receiver.results.replay import find_settled, replay
from receiver.summary.batches import get_batch
from receiver.summary.calls import CallFilter, get_call, list_calls
from receiver.summary.lineage import get_lineage
from receiver.summary.verify import verify
from tests.changes.owed import Owed
from tests.factories import (
    ACCEPTED,
    NOON,
    REFUSED,
    UNKNOWN,
    call_fields,
    claim_waiting,
    journal,
    make_batch,
    make_callback,
    phone_number,
    settle,
    settle_all,
)
from tests.queueing.queueing import NOT_SENT
from tests.results.reading.samples import renderings

FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

CALLS, SUBMISSION_ROWS = 6, 2
MOST_BATCHES = 6
ANSWERS = {"accepted": ACCEPTED, "refused": REFUSED, "unknown": UNKNOWN, "not sent": NOT_SENT}

batches, submissions, numbers = st.integers(0, 5), st.integers(1, 3), st.integers(0, CALLS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.booleans()),
        st.tuples(st.just("claim"), st.booleans()),
        st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from(sorted(ANSWERS))),
        st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from(sorted(ANSWERS))),
        st.tuples(st.just("lose"), st.integers(0, 5)),
        st.tuples(st.just("resolve"), batches, submissions, st.booleans()),
        st.tuples(st.just("pause"), batches),
        st.tuples(st.just("resume"), batches),
        st.tuples(st.just("change"), batches),
        st.tuples(st.just("cancel"), batches),
        st.tuples(st.just("cancel deployment")),
        st.tuples(st.just("suppress"), numbers, st.booleans()),
        st.tuples(st.just("follow up"), batches, st.booleans()),
        st.tuples(st.just("follow up"), batches, st.booleans()),
        st.tuples(st.just("end window"), batches),
        st.tuples(st.just("be due")),
        st.tuples(
            st.just("deliver"), batches, numbers, st.sampled_from(["completed", "failed", "dialing"]), st.booleans()
        ),
        st.tuples(
            st.just("deliver"), batches, numbers, st.sampled_from(["completed", "failed", "dialing"]), st.booleans()
        ),
        st.tuples(st.just("reach nobody"), batches),
        st.tuples(st.just("reach everybody"), batches),
        st.tuples(st.just("begin to settle")),
        st.tuples(st.just("end settling"), st.booleans()),
        st.tuples(st.just("replay"), st.booleans()),
    ),
    min_size=6,
    max_size=30,
)


class World:
    """Three batches, one with a pace, and one that reached nobody and has a follow-up; at most MOST_BATCHES. And
    everything that can happen to them. One settlement can be under way."""

    def __init__(self, conns: list[Connection], with_endpoint: bool) -> None:
        for conn in conns:
            conn.rollback()
        self.looker, self.writer, self.settler = conns
        self.looker.execute("delete from endpoint")
        self.looker.execute("delete from suppression")
        self.looker.execute("update submission set state = 'refused' where state in ('pending', 'sending')")
        self.looker.execute("update batch set state = 'refused' where state = 'queueing'")
        self.looker.execute("delete from deployment_cancel")
        self.looker.commit()
        called = [phone_number(index) for index in range(CALLS)]
        self.order = 0
        self.batch_ids = [make_batch(self.looker, called, submission_rows=SUBMISSION_ROWS)]
        self._reach_nobody(0)
        settle_all(self.looker)
        self.batch_ids += [
            make_batch(self.looker, called, submission_rows=SUBMISSION_ROWS, send=False),
            make_batch(self.looker, called, submission_rows=SUBMISSION_ROWS, send=False, calls_per_minute=40),
        ]
        self.first_ids = tuple(self.batch_ids)
        self._follow_up(0, everything=False)
        self.worker_id = register_worker(self.looker, "test", 1)
        self.looker.commit()
        self.sent: list[Outgoing] = []
        # Without an endpoint, more can happen while a settlement is under way: none of its counters are locked.
        self.owed = Owed(self.looker) if with_endpoint else None

    def do(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self, "_" + name.replace(" ", "_"))(*arguments)
            self.writer.commit()
        except (psycopg.errors.LockNotAvailable, NotInDoubt, NothingToFollowUp) as error:
            note(f"{name}: {type(error).__name__}")
            self.writer.rollback()
            if self.settler.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                self.settler.rollback()

    def _claim(self, kept: bool) -> None:
        self.writer.execute("update submission set next_try_at = now() where state = 'pending'")
        self.writer.execute("update batch set next_release_at = null where next_release_at is not null")
        outgoing = claim_submission(self.writer, self.worker_id)
        if outgoing is not None:
            self._check_claimed(outgoing)
        if outgoing is not None and kept:
            self.sent.append(outgoing)
        elif outgoing is not None:
            self.writer.rollback()  # the worker is killed before its commit

    def _check_claimed(self, outgoing: Outgoing) -> None:
        """Nobody who was reached by an earlier call is called again."""
        sent = self.writer.execute(
            "select row from call c where batch_id = %s and submission_no = %s"
            " and not exists (select from withdrawn w where w.batch_id = c.batch_id and w.row = c.row)",
            (outgoing.batch_id, outgoing.submission_no),
        ).fetchall()
        assert sent
        for (row,) in sent:
            call = get_call(self.writer, outgoing.batch_id, row)
            while call.follows is not None:
                call = get_call(self.writer, **call.follows)
                assert call.outcome != "completed"

    def _follow_up(self, batch: int, everything: bool) -> None:
        if len(self.batch_ids) == MOST_BATCHES:
            return
        chosen = {"outcomes": FOLLOWED_OUTCOMES, "include": INCLUDABLE} if everything else {}
        wanted = FollowUp(self._id(batch), **chosen)
        parameters = follow_up_parameters(self.writer, wanted.batch_id, {"end_timestamp": None})
        accepted = accept(self.writer, wanted, parameters, Limits(SUBMISSION_ROWS, 3600))
        self.writer.commit()
        self.batch_ids.append(accepted.batch_id)

    def _id(self, batch: int) -> int:
        return self.batch_ids[batch % len(self.batch_ids)]

    def _answer(self, place: int, answer: str) -> None:
        if place < len(self.sent):
            record_answer(self.writer, self.sent[place], ANSWERS[answer])

    def _lose(self, place: int) -> None:
        if place < len(self.sent):
            sent = self.sent[place]
            release_untold(self.writer, self.worker_id, [Taken(sent.batch_id, sent.submission_no, sent.tries)])

    def _resolve(self, batch: int, submission_no: int, queued: bool) -> None:
        resolve_submission(self.writer, self._id(batch), submission_no, queued=queued, note="asked", by="Ana")

    def _pause(self, batch: int) -> None:
        pause_batch(self.writer, self._id(batch), by="Ana")

    def _resume(self, batch: int) -> None:
        resume_batch(self.writer, self._id(batch), by="Ana")

    def _change(self, batch: int) -> None:
        change_batch(self.writer, self._id(batch), {"name": "other", "labels": {"a": "b"}}, by="Ana")

    def _cancel(self, batch: int) -> None:
        before = get_batch(self.writer, self._id(batch)).counts
        canceled = cancel_batch(self.writer, self._id(batch), by="Ana", note="stop")
        after = get_batch(self.writer, self._id(batch))
        assert after.counts["withdrawn"] == before["withdrawn"] + canceled.withdrawn
        assert after.counts["pending"] + after.counts["overdue"] == canceled.at_provider
        assert not any(each.state == "pending" for each in after.submissions)
        assert cancel_batch(self.writer, self._id(batch), by="Ana").withdrawn == 0

    def _cancel_deployment(self) -> None:
        _, affected = request_cancel(self.writer, 7, 3, by="Ana", note="stop")
        self.writer.execute("update deployment_cancel set state = 'accepted'")
        for each in affected:
            counts = get_batch(self.writer, each.id).counts
            assert counts["pending"] + counts["overdue"] == each.calls_pending

    def _suppress(self, number: int, erased: bool) -> None:
        digest = digest_of(get_key(self.writer), phone_number(number))
        self.writer.execute(
            "insert into suppression (phone_number, digest, created_by) values (%s, %s, 'Ana') on conflict do nothing",
            (None if erased else phone_number(number), digest),
        )

    def _end_window(self, batch: int) -> None:
        self.writer.execute(
            "update batch set start_at = now() - interval '2 seconds', end_at = now() - interval '1 second'"
            " where batch_id = %s",
            (self._id(batch),),
        )
        self.writer.commit()
        claim_submission(self.writer, self.worker_id)

    def _be_due(self) -> None:
        self.writer.execute(
            "update submission set due_at = now() - interval '1 second'"
            " where due_at is not null and batch_id = any(%s)",
            (self.batch_ids,),
        )
        mark_overdue(self.writer)

    def _reach_nobody(self, batch: int) -> None:
        for number in range(CALLS):
            self._deliver(batch, number, "failed", later=False)

    def _reach_everybody(self, batch: int) -> None:
        for number in range(CALLS):
            self._deliver(batch, number, "completed", later=True)

    def _deliver(self, batch: int, number: int, status: str, later: bool) -> None:
        """`later`: it was over later than what was delivered before, and wins."""
        self.order += 1
        last_event = 60 + self.order * later
        body = next(iter(renderings(call_fields(phone_number(number), status, last_event=last_event)).values()))
        received_at = NOON + timedelta(seconds=self.order)
        batch_id = self._id(batch)
        for (submission_no,) in self.looker.execute(
            "select submission_no from call where batch_id = %s and phone_number = %s",
            (batch_id, phone_number(number)),
        ).fetchall():
            journal(self.looker, make_callback(batch_id, body, submission_no=submission_no, received_at=received_at))

    def _begin_to_settle(self) -> None:
        claimed = claim_waiting(self.settler, CALLS)
        settle(self.settler, claimed)

    def _end_settling(self, well: bool) -> None:
        if well:
            self.settler.commit()
        else:
            self.settler.rollback()

    def _replay(self, in_earnest: bool) -> None:
        replay(self.writer, find_settled(self.writer))
        if not in_earnest:
            self.writer.rollback()

    def check(self) -> None:
        if self.owed is not None:
            self.owed.check()
        for batch_id in self.batch_ids:
            batch = get_batch(self.looker, batch_id)
            counts = batch.counts
            parts = ("skipped", "refused", "withdrawn", "pending", "overdue", "final")
            assert counts["rows"] == sum(counts[part] for part in parts)
            calls = list_calls(self.looker, batch_id, CallFilter(), 100).calls
            listed = Counter(call.state for call in calls)
            assert {state: listed[state] for state in CALL_STATES} == {state: counts[state] for state in CALL_STATES}
            for call in calls:
                assert (call.withdrawn_reason is not None) == (call.state == "withdrawn")
            self.looker.commit()
            assert list(verify(self.looker, batch_id)) == []
            self.looker.commit()

        for batch_id in self.first_ids:
            expected = Counter({"rows": CALLS} | dict.fromkeys(("skipped", "final", *CALL_STATES, *OUTCOMES), 0))
            for row in range(1, CALLS + 1):
                state, outcome = self._latest(batch_id, row)
                expected.update(filter(None, (state, outcome)))
            assert get_lineage(self.looker, batch_id).latest == expected
            self.looker.commit()

    def _latest(self, batch_id: int, row: int) -> tuple[str, str | None]:
        """What a row of a first batch came to, found call by call."""
        chain = [get_call(self.looker, batch_id, row)]
        while (key := chain[-1].followed_by) is not None:
            chain.append(get_call(self.looker, **key))
        completed = [call for call in chain if call.outcome == "completed"]
        counted = [call for call in chain if call.withdrawn_reason != "answered"]
        latest = (completed or counted)[-1]
        return latest.state, latest.outcome

    def finish(self) -> None:
        # A check after each transaction: two of them can change the same call, and then its event is owed twice.
        self.settler.commit()
        self.check()
        settle_all(self.looker)
        accept_proven_lately(self.looker)
        self.looker.commit()
        for batch_id in self.batch_ids:
            counts = get_batch(self.looker, batch_id).counts
            for state in CALL_STATES:
                assert len(list_calls(self.looker, batch_id, CallFilter(state=state), 100).calls) == counts[state]
            self.looker.commit()


@pytest.fixture
def connections(database_url: str) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        conns = [stack.enter_context(closing(connect(database_url, name="balance"))) for _ in range(3)]
        for conn in conns:
            conn.execute("set lock_timeout = '20ms'")
            conn.commit()
        yield conns


@pytest.mark.long
@FEW
@given(steps, st.booleans())
@example(
    [("reach everybody", 0), ("begin to settle",), ("claim", True), ("end settling", True), *[("claim", True)] * 8],
    False,
)
@example(
    [("follow up", 3, True), ("cancel", 3), ("follow up", 3, True), ("reach everybody", 3), ("replay", True)], True
)
def test_balance_holds_whatever_is_done_to_a_batch_and_each_event_is_owed(
    connections: list[Connection], todo: list[tuple[Any, ...]], with_endpoint: bool
) -> None:
    world = World(connections, with_endpoint)
    for step in todo:
        world.do(*step)
        world.check()
    world.finish()
    world.check()
