"""The database in which each schedule begins, and what must be true when a schedule has ended.

It is made once, and saved beside. Before each schedule the saved rows are put back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from receiver.database.pool import Connection
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp, follow_up_parameters
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.results.replay import replay_all
from tests.changes.owed import make_endpoint
from tests.factories import (
    NOON,
    UNKNOWN,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    settle_all,
)
from tests.results.traces import list_tables, traces_in_tables

CALLS, SUBMISSION_ROWS = 8, 2

ERASED = (1, 5)
"""The indexes of called numbers that are erased. Callbacks of the first wait, none of the second."""

MENTIONED = (20, 21)
"""The indexes of numbers that only a batch's name mentions."""


@dataclass
class World:
    """`old`: a batch old enough to be purged, with results. `new`: submission 1 is being sent, 2 was sent but is
    unknown, 3 is unreleased, 4 is unknown and was not sent. `follow_up`: follows `old`, unreleased.

    `sent`: how often the provider got a call, (batch_id, number). `steps`: of the schedule that runs.
    """

    old: int = 0
    new: int = 0
    follow_up: int = 0
    endpoint: int = 0
    outgoing: list[Outgoing] = field(default_factory=list)
    final: list[tuple[int, int]] = field(default_factory=list)
    """Calls, (batch_id, row), that had a final result before."""
    sent: Counter[tuple[int, int]] = field(default_factory=Counter)
    erased: set[int] = field(default_factory=set)
    canceled: set[int] = field(default_factory=set)
    """Batches whose cancellation was answered."""
    late: list[tuple[int, int]] = field(default_factory=list)
    """Calls that were claimed after the answer to a cancellation of their batch."""


def make_world(conn: Connection) -> World:
    numbers = [phone_number(index) for index in range(CALLS)]
    world = World(endpoint=make_endpoint(conn))
    both = " and ".join(str(phone_number(index)) for index in MENTIONED)
    world.old = make_batch(conn, numbers, submission_rows=SUBMISSION_ROWS, name=f"without {both}")
    at_provider = Counter((world.old, number) for number in numbers)
    for index, statuses in enumerate((("failed", "failed"), ("failed",), ("completed", "failed"), ("dialing",))):
        deliver(conn, world.old, *(_body(index, each) for each in statuses), submission_no=1 + index // 2)
    conn.execute(
        "update submission set due_at = now() - interval '9 days' where batch_id = %(id)s and submission_no <= 2;"
        " update batch set created_at = now() - interval '9 days', due_at = now() - interval '9 days'"
        " where batch_id = %(id)s".replace("%(id)s", str(world.old))
    )
    conn.commit()
    wanted = FollowUp(world.old)
    limits = Limits(SUBMISSION_ROWS, 3600, False)
    world.follow_up = accept(conn, wanted, follow_up_parameters(conn, world.old, {}), limits).batch_id
    conn.commit()
    deliver(conn, world.old, _body(5, "failed"), submission_no=3)  # it can be followed up
    conn.execute("update batch set paused_at = now() where batch_id = %s", (world.follow_up,))
    world.new = make_batch(conn, numbers, submission_rows=SUBMISSION_ROWS, send=False)
    worker_id = register_worker(conn, "test", 1)
    for number in (1, 2, 3, 4):
        if number == 3:
            conn.execute("update submission set next_try_at = next_try_at + interval '1 hour' where submission_no = 3")
            continue
        outgoing = claim_submission(conn, worker_id)
        assert outgoing is not None and outgoing.submission_no == number
        if number == 1:
            world.outgoing.append(outgoing)
        else:
            record_answer(conn, outgoing, UNKNOWN)
    conn.execute("update submission set next_try_at = now() - interval '1 minute' where state = 'pending'")
    conn.execute("update batch set paused_at = null")
    conn.execute("select pg_advisory_unlock_all()")  # the worker is dead
    world.final = conn.execute(_FINAL).fetchall()
    conn.commit()
    # The provider has submissions 1 and 2.
    at_provider += Counter((world.new, number) for number in numbers[:4])
    world.sent = at_provider
    waiting = [
        make_callback(world.old, _body(3, "completed"), submission_no=2),
        make_callback(world.old, _body(0, "completed", last_event=90), submission_no=1),
        make_callback(world.old, _body(6, "failed"), submission_no=4),
        make_callback(world.old, b"{", submission_no=1),
        make_callback(world.new, _body(0, "completed"), submission_no=1),
        make_callback(world.new, _body(2, "failed"), submission_no=2),
        make_callback(world.new, _body(2, "completed"), submission_no=2),
        make_callback(world.new, _body(1, "failed"), submission_no=1),
    ]
    journal(conn, *waiting)
    return world


def _body(index: int, status: str, *, last_event: int = 60) -> bytes:
    return result_body(phone_number(index), status, last_event=last_event)


def late_callbacks(world: World, received: int) -> list[bytes]:
    """Bodies that arrive while a schedule runs. None mentions a number that is erased."""
    return [_body(index, "completed", last_event=100 + received) for index in (0, 2, 6)]


class Saved:
    """The rows of all tables, kept in the schema `saved`."""

    def __init__(self, conn: Connection) -> None:
        conn.execute("create schema saved")
        tables = [table for table in list_tables(conn) if table != "schema_migration"]
        restore = ["set session_replication_role = replica"]
        restore += [f'delete from "{table}"' for table in tables]  # noqa: S608 names of ours
        for table in tables:
            if conn.execute(f'create table saved."{table}" as table "{table}"').rowcount:
                restore.append(f'insert into "{table}" overriding system value table saved."{table}"')
        restore += [
            f"select setval('{name}'::regclass, {last})"
            for name, last in conn.execute(
                "select format('%I', sequencename), last_value from pg_sequences"
                " where schemaname = 'public' and last_value is not null"
            )
        ]
        conn.commit()
        self._restore = "; ".join([*restore, "set session_replication_role = default"])

    def restore(self, conn: Connection) -> None:
        conn.execute(self._restore)
        conn.commit()


def list_faults(conn: Connection, world: World) -> list[str]:
    """What is not as it must be, after the writers have ended and what they left is settled."""
    settle_all(conn)
    faults = [f"verify: {each}" for each in differences(conn)]  # a wrong counter stays wrong
    # Each call has the result that its callbacks give when they are decided together.
    for replayed in replay_all(conn, by="test", dry_run=True):
        faults += [f"another replay would change {each}" for each in replayed.changes]
    faults += [f"sent twice: {call}" for call, times in world.sent.items() if times > 1]
    faults += [f"sent after the cancellation: {call}" for call in world.late]
    if world.erased:
        faults += [f"an erased number is in {place}" for place in traces_in_tables(conn, *map(str, world.erased))]
    kept = {(batch_id, row) for batch_id, row in conn.execute(_FINAL).fetchall()}
    batches = {batch_id for (batch_id,) in conn.execute("select batch_id from batch").fetchall()}
    faults += [f"lost its result: {call}" for call in world.final if call not in kept and call[0] in batches]
    faults += [f"no event for the result of {call}" for call in conn.execute(_UNTOLD).fetchall()]
    conn.commit()
    return faults


_FINAL = "select batch_id, row from result where outcome is not null"
_TOLD = "select batch_id, subject from {} where event = 'call.result'"
_UNTOLD = " except ".join([_FINAL, _TOLD.format("owed_event"), _TOLD.format("delivery")])

RECEIVED_AT = NOON + timedelta(hours=1)
