"""The writers whose statements are interleaved: what workers, web processes and commands do to a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from random import Random
from uuid import uuid4

from receiver.changes.feed import give_positions
from receiver.database.pool import Connection
from receiver.errors import NotFound, ReceiverError
from receiver.intake.journal import Group, write_group
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import (
    FOLLOWED_OUTCOMES,
    INCLUDABLE,
    FollowUp,
    NothingToFollowUp,
    follow_up_parameters,
)
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.suppressions import suppress, unsuppress
from receiver.relay.bodies import make_bodies
from receiver.relay.deliveries import retry_deliveries
from receiver.relay.delivery import _lock as lock_delivery
from receiver.relay.queue import Outcome, get_target, list_due, record_outcomes
from receiver.relay.sending import Attempt
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.control import cancel_batch, change_batch, pause_batch, resume_batch
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.resolution import NotInDoubt, resolve_batch, resolve_submission
from receiver.release.sender import abandon_submissions, accept_proven_lately, csv_blocks
from receiver.results.erasure import NotErasable, erase
from receiver.results.overdue import mark_overdue
from receiver.results.replay import replay_all
from receiver.results.retention import purge
from receiver.results.settler import Settler
from tests.factories import ACCEPTED, REFUSED, UNKNOWN, make_callback, phone_number
from tests.interleavings.scheduler import Writer
from tests.interleavings.world import CALLS, ERASED, MENTIONED, RECEIVED_AT, SUBMISSION_ROWS, World, late_callbacks
from tests.queueing.queueing import NOT_SENT

ANSWERS = (ACCEPTED, ACCEPTED, REFUSED, UNKNOWN, NOT_SENT)
LIMITS = Limits(SUBMISSION_ROWS, 3600, False)


@dataclass(frozen=True)
class Part:
    """What a writer works on. `random`: its own, so that its choices depend on the seed and not on the order."""

    world: World
    writer: Writer
    random: Random

    @property
    def conn(self) -> Connection:
        return self.writer.conns[0]

    def batch(self) -> int:
        return self.random.choice((self.world.old, self.world.new, self.world.new, self.world.follow_up))


def settler(part: Part) -> None:
    each = Settler(part.writer.pool, suppress_statuses=part.random.choice(((), ("failed",))))  # type: ignore[arg-type]
    while each.settle_group():
        pass


def release(part: Part) -> None:
    conn, world = part.conn, part.world
    worker_id = register_worker(conn, "test", 1)
    conn.commit()
    for _ in range(3):
        canceled = set(world.canceled)
        outgoing = claim_submission(conn, worker_id)
        conn.commit()
        if outgoing is not None:
            _send(part, outgoing, canceled)
    conn.execute("select pg_advisory_unlock_all()")


def _send(part: Part, outgoing: Outgoing, canceled: set[int]) -> None:
    conn, world, answer = part.conn, part.world, part.random.choice(ANSWERS)
    body = b"".join(csv_blocks(conn, outgoing))
    conn.commit()
    assert len(body) == outgoing.csv_bytes
    calls = [(outgoing.batch_id, int(line.split(b",")[0])) for line in body.splitlines()[1:]]
    if answer is not NOT_SENT:
        world.sent.update(calls)
    if outgoing.batch_id in canceled:
        world.late += calls
    record_answer(conn, outgoing, answer)
    conn.commit()


def answer(part: Part) -> None:
    """The provider has it, so it does not refuse it."""
    record_answer(part.conn, part.world.outgoing[0], part.random.choice((ACCEPTED, UNKNOWN)))


def abandon(part: Part) -> None:
    worker_id = register_worker(part.conn, "test", 1)
    abandon_submissions(part.conn, worker_id)
    part.conn.commit()
    accept_proven_lately(part.conn)
    part.conn.commit()
    part.conn.execute("select pg_advisory_unlock_all()")


def resolve(part: Part) -> None:
    """Of submission 2, which was sent, callbacks are stored. So it can never be resolved as not queued."""
    number, queued = part.random.choice(((2, True), (2, False), (4, False), (4, False), (None, True)))
    if number is None:
        resolve_batch(part.conn, part.world.new, queued=queued, note="asked", by="Ana")
    else:
        resolve_submission(part.conn, part.world.new, number, queued=queued, note="asked", by="Ana")


def replay(part: Part) -> None:
    state = part.random.choice((None, None, "applied", "unmatched"))
    for _ in replay_all(part.conn, by="Ana", state=state, dry_run=part.random.random() < 0.2):
        pass


def erase_called(part: Part) -> None:
    _erase(part, part.random.choice((*ERASED, ERASED[1])))


def _erase(part: Part, index: int) -> None:
    number = phone_number(index)
    for _ in erase(part.conn, number, by="Ana"):
        part.conn.commit()
    part.conn.commit()
    part.world.erased.add(number)


def purge_old(part: Part) -> None:
    for _ in purge(part.conn, timedelta(days=8), by="Ana"):
        part.conn.commit()


def cancel(part: Part) -> None:
    batch_id = part.batch()
    cancel_batch(part.conn, batch_id, by="Ana")
    part.conn.commit()
    part.world.canceled.add(batch_id)


def pause(part: Part) -> None:
    batch_id = part.batch()
    pause_batch(part.conn, batch_id, by="Ana")
    part.conn.commit()
    resume_batch(part.conn, batch_id, by="Ana")


def change(part: Part) -> None:
    change_batch(part.conn, part.batch(), {"name": "other", "labels": {"a": "b"}}, by="Ana")


def suppress_number(part: Part) -> None:
    number = phone_number(part.random.randrange(CALLS))
    if number in map(phone_number, ERASED):
        number = phone_number(0)
    suppress(part.conn, number, by="Ana")
    part.conn.commit()
    if part.random.random() < 0.3:
        unsuppress(part.conn, number, by="Ana")


def follow_up(part: Part) -> None:
    batch_id = part.batch()
    chosen = {"outcomes": FOLLOWED_OUTCOMES, "include": INCLUDABLE} if part.random.random() < 0.7 else {}
    parameters = follow_up_parameters(part.conn, batch_id, {})
    accept(part.conn, FollowUp(batch_id, **chosen), parameters, LIMITS)


def queue(part: Part) -> None:
    """The same list as before, without the numbers that were called lately."""
    csv = "destination\n" + "".join(f"{phone_number(index)}\n" for index in (0, 2, 3, 4))
    given = BatchParameters(7, 3, on_recent="skip", on_invalid="skip")
    accept(part.conn, BytesIO(csv.encode()), given, LIMITS)


def overdue(part: Part) -> None:
    mark_overdue(part.conn)


def deliver(part: Part) -> None:
    """The turns of a worker that serves the endpoint, without the requests."""
    conn, endpoint = part.conn, part.world.endpoint
    if not lock_delivery(conn, endpoint):
        return
    for _ in range(2):
        if get_target(conn, endpoint) is None:
            break
        due = list_due(conn, endpoint, 16, ())
        bodies = make_bodies(conn, due)
        record_outcomes(conn, endpoint, [Outcome(owed, None) for owed in due if owed.id not in bodies])
        conn.commit()
        outcomes = [
            Outcome(owed, Attempt(datetime.now(UTC), 200, 0, part.random.choice((None, None, "no"))))
            for owed in due
            if bodies.get(owed.id)
        ]
        record_outcomes(conn, endpoint, outcomes)
        conn.commit()
    conn.execute("select pg_advisory_unlock_all()")


def retry(part: Part) -> None:
    retry_deliveries(part.conn, part.world.endpoint, by="Ana", since=RECEIVED_AT)


def receive(part: Part) -> None:
    for number, body in enumerate(late_callbacks(part.world, part.random.randrange(9))):
        batch_id = part.random.choice((part.world.old, part.world.new))
        submission_no = {0: 1, 1: 2, 2: 4}[number]
        if batch_id == part.world.new and submission_no == 4:
            continue  # the provider does not have it
        callback = make_callback(batch_id, body, submission_no=submission_no, received_at=RECEIVED_AT)
        write_group(part.conn, Group(uuid4(), 1, (callback,)))
        part.conn.commit()


def feed(part: Part) -> None:
    for _ in range(2):
        give_positions(part.conn)
        part.conn.commit()


WRITERS: dict[str, tuple[Callable[[Part], None], tuple[type[ReceiverError], ...]]] = {
    "settler": (settler, ()),
    "second settler": (settler, ()),
    "release": (release, ()),
    "second release": (release, ()),
    "answer": (answer, ()),
    "abandon": (abandon, ()),
    "resolve": (resolve, (NotInDoubt,)),
    "replay": (replay, ()),
    "erase": (erase_called, (NotErasable,)),
    "erase texts": (lambda part: _erase(part, MENTIONED[0]), (NotErasable,)),
    "erase other texts": (lambda part: _erase(part, MENTIONED[1]), (NotErasable,)),
    "purge": (purge_old, ()),
    "cancel": (cancel, (NotFound,)),
    "pause": (pause, (NotFound,)),
    "change": (change, (NotFound,)),
    "suppress": (suppress_number, (NotFound,)),
    "follow-up": (follow_up, (NotFound, NothingToFollowUp)),
    "second follow-up": (follow_up, (NotFound, NothingToFollowUp)),
    "queue": (queue, (ReceiverError,)),
    "overdue": (overdue, ()),
    "deliver": (deliver, ()),
    "retry": (retry, ()),
    "receive": (receive, ()),
    "feed": (feed, ()),
}
"""By name: what it does, and the answers that a person may get."""
