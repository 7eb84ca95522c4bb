"""The three equations of the balance hold at every moment, in every order of events."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from receiver.database.pool import Connection, connect
from receiver.intake.journal import Callback
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.sender import accept_proven_lately
from receiver.results.replay import find_settled, replay
from receiver.summary.verify import verify
from tests.changes.owed import Owed
from tests.factories import (
    ACCEPTED,
    NOON,
    REFUSED,
    UNKNOWN,
    call_fields,
    claim_waiting,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    settle,
    settle_all,
)
from tests.results.reading.samples import renderings

# In CI, the same examples each time. Elsewhere new ones; an example that fails is printed and stored.
FEW = settings(
    max_examples=20,
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

CALLS = 4
SUBMISSION_ROWS = 2
ANSWERS = {"accepted": ACCEPTED, "refused": REFUSED, "unknown": UNKNOWN}


@dataclass(frozen=True)
class Said:
    """A callback that will be received: the batch of its token, its number, and its details."""

    batch: int
    number: int
    status: str
    last_event: int
    minute: int

    def bodies(self) -> dict[str, bytes]:
        """The same details in every format."""
        if self.status == "unreadable":
            return {"nonsense": b"?"}
        return renderings(call_fields(phone_number(self.number), self.status, last_event=self.last_event))

    def callback(self, batch_ids: list[int], order: int, body: bytes | None = None) -> Callback:
        return make_callback(
            batch_ids[self.batch],
            body or next(iter(self.bodies().values())),
            submission_no=min(self.number, CALLS - 1) // SUBMISSION_ROWS + 1,
            received_at=NOON + timedelta(minutes=self.minute, seconds=order),
        )


# Few calls and few statuses, so that callbacks are for the same call. The last number belongs to no call.
said = st.builds(
    Said,
    batch=st.integers(0, 1),
    number=st.integers(0, CALLS),
    status=st.sampled_from(["completed", "completed", "failed", "canceled", "dialing", "unreadable"]),
    last_event=st.sampled_from([60, 90]),
    minute=st.sampled_from([1, 20]),
)
settlers = st.integers(0, 1)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.lists(said, min_size=1, max_size=4)),
        st.tuples(st.just("deliver"), st.lists(said, min_size=1, max_size=4)),
        st.tuples(st.just("begin to settle"), settlers, st.integers(1, 6)),
        st.tuples(st.just("end settling"), settlers, st.booleans()),
        st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from(sorted(ANSWERS))),
        st.tuples(st.just("replay"), st.sampled_from([None, "applied", "duplicate", "conflict"]), st.booleans()),
    ),
    min_size=5,
    max_size=25,
)


class World:
    """Two batches whose submissions are being sent, two settlers, and an observer."""

    def __init__(self, conns: list[Connection], with_endpoint: bool = False) -> None:
        for conn in conns:
            conn.rollback()  # the rest of an example that failed
        self.looker, self.writer, *self.settlers = conns
        self.looker.execute("delete from endpoint")
        numbers = [phone_number(index) for index in range(CALLS)]
        self.batch_ids = [
            make_batch(self.looker, numbers, submission_rows=SUBMISSION_ROWS, send=False) for _ in range(2)
        ]
        self.sent: list[Outgoing] = []
        worker_id = register_worker(self.looker, "test", 1)
        while (outgoing := claim_submission(self.looker, worker_id)) is not None:
            self.sent.append(outgoing)
        self.looker.commit()
        self.delivered = 0
        # Without an endpoint, two settlements can be under way at once: none of its counters are locked.
        self.owed = Owed(self.looker) if with_endpoint else None

    def do(self, name: str, *arguments: Any) -> None:
        """One step. If it would have to wait for another one, it is rolled back."""
        step = getattr(self, "_" + name.replace(" ", "_"))
        try:
            step(*arguments)
        except psycopg.errors.LockNotAvailable:
            note(f"{name} would have waited for a lock")
            for conn in (self.writer, *self.settlers):
                if conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                    conn.rollback()

    def _deliver(self, says: list[Said]) -> None:
        callbacks = []
        for each in says:
            self.delivered += 1
            callbacks.append(each.callback(self.batch_ids, self.delivered))
        journal(self.looker, *callbacks)

    def _begin_to_settle(self, settler: int, group: int) -> None:
        conn = self.settlers[settler]
        claimed = claim_waiting(conn, group)
        settle(conn, claimed)

    def _end_settling(self, settler: int, well: bool) -> None:
        if well:
            self.settlers[settler].commit()
        else:
            self.settlers[settler].rollback()

    def _answer(self, place: int, answer: str) -> None:
        record_answer(self.writer, self.sent[place], ANSWERS[answer])
        self.writer.commit()

    def _replay(self, state: str | None, in_earnest: bool) -> None:
        replay(self.writer, find_settled(self.writer, state=state))
        if in_earnest:
            self.writer.commit()
        else:
            self.writer.rollback()

    def check(self) -> None:
        if self.owed is not None:
            self.owed.check()
        for batch_id in self.batch_ids:
            read_batch(self.looker, batch_id)
            assert list(verify(self.looker, batch_id)) == []
            self.looker.commit()

    def finish(self) -> None:
        # A check after each transaction: two of them can change the same call, and then its event is owed twice.
        for conn in self.settlers:
            conn.commit()
            self.check()
        settle_all(self.looker)
        # As the worker's next check does, for a submission that became unknown while its result was settled.
        accept_proven_lately(self.looker)
        self.looker.commit()


@pytest.fixture
def connections(database_url: str) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        conns = [stack.enter_context(closing(connect(database_url, name="balance"))) for _ in range(4)]
        for conn in conns:
            conn.execute("set lock_timeout = '20ms'")
            conn.commit()
        yield conns


def kept(conn: Connection, batch_ids: list[int]) -> list[Any]:
    """Everything that settlement stores about the batches; callbacks are named by their time instead of their id."""
    found: list[Any] = []
    for batch_id in batch_ids:
        batch = read_batch(conn, batch_id)
        found.append((batch.counts, batch.callbacks, batch.attempts, batch.duration_seconds))
        found.append((batch.state, batch.first_result_at, batch.last_result_at))
        for query in (
            "select row, received_at, outcome, provider_status, attempts, ended_at, duration_seconds from result",
            "select c.received_at, state, reason, row from set_aside join callback c using (batch_id, callback_id)",
            "select row, refused from outstanding",
            # If results are deleted, zeros may stay.
            "select at, completed, failed, canceled, attempts, duration_seconds from (select *"
            " from result_count where completed + failed + canceled > 0) counted",
        ):
            rows = conn.execute(f"{query} where batch_id = %s", (batch_id,)).fetchall()
            found.append(sorted(rows, key=repr))
    conn.commit()
    return found


@pytest.mark.long
@FEW
@given(operations, st.booleans())
def test_balance_holds_at_every_moment_and_each_event_is_owed(
    connections: list[Connection], steps: list[tuple[Any, ...]], with_endpoint: bool
) -> None:
    world = World(connections, with_endpoint)
    for step in steps:
        world.do(*step)
        world.check()
    world.finish()
    world.check()
    before = kept(world.looker, world.batch_ids)
    assert replay(world.looker, find_settled(world.looker)) == []
    world.looker.commit()
    assert kept(world.looker, world.batch_ids) == before
    assert [d for d in differences(world.looker) if d["batch_id"] in world.batch_ids] == []


@pytest.mark.long
@FEW
@given(st.lists(said, min_size=2, max_size=14), st.data())
def test_final_state_depends_neither_on_the_order_nor_on_the_format(
    connections: list[Connection], says: list[Said], data: st.DataObject
) -> None:
    """The same details at the same times, but in other formats, and journaled and settled in another order and other
    groups.
    """
    places = range(len(says))
    outcomes = []
    for order in (list(places), data.draw(st.permutations(places))):
        world = World(connections)
        for outgoing in world.sent:
            record_answer(world.looker, outgoing, UNKNOWN)
        group = data.draw(st.integers(1, 5))
        for place in order:
            body = data.draw(st.sampled_from(list(says[place].bodies().values())))
            journal(world.looker, says[place].callback(world.batch_ids, place, body))
            if data.draw(st.booleans()):
                settle_all(world.looker, group)
        settle_all(world.looker, group)
        world.check()
        outcomes.append(kept(world.looker, world.batch_ids))
    assert outcomes[0] == outcomes[1]
