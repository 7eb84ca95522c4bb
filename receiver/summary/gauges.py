"""The whole service in a few numbers, for monitoring: read from counters, one row a batch, never from calls."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.model import OUTCOMES, SUBMISSION_STATES
from receiver.release.presence import WORKER_LOCK
from receiver.results.counters import COUNTED_STATES
from receiver.summary.batches import balance
from receiver.summary.delivery_loss import Loss
from receiver.summary.health import WORKER_SECONDS

WAITING_COUNTED = 100_000
"""As far as waiting callbacks are counted: how many more there are makes no difference to anybody."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Calls, callbacks and submissions by state; ages in seconds, None where there is nothing to be old."""

    calls: dict[str, int]
    callbacks: dict[str, int]
    submissions: dict[str, int]
    loss: Loss
    oldest_waiting_seconds: float | None
    oldest_pending_submission_seconds: float | None
    """How long the submission that is due longest has waited to be sent."""
    workers: int
    worker_seen_seconds: float | None


_COUNTERS = ("rows", "skipped", "refused", "withdrawn", "overdue", *OUTCOMES, *COUNTED_STATES, "polled")

_SUMS = f"""
select coalesce(b.due_at < now() and b.state <> 'queueing', false) as past_due,
    {", ".join(f"sum(c.{name})::bigint as {name}" for name in _COUNTERS)}
from batch_count c left join batch b using (batch_id) group by past_due
"""

# Partial indexes answer for all but the accepted, and these are what is left.
_SUBMISSIONS = """
select state, count(*) from submission where state in ('pending', 'sending') group by state
union all select state, count(*) from submission where state in ('unknown', 'refused') group by state
union all select state, count(*) from submission where state = 'withdrawn' group by state
union all select 'all', count(*) from submission
"""

_AGES = f"""
select (select count(*) from
        (select from waiting where callback_id >= {LOW_WATER_MARK} limit {WAITING_COUNTED}) as counted),
    (select extract(epoch from now() - received_at)::float from waiting where callback_id >= {LOW_WATER_MARK}
        order by callback_id limit 1),
    (select extract(epoch from now() - min(next_try_at))::float from submission
        where state = 'pending' and next_try_at < now()),
    (select extract(epoch from now() - max(seen_at))::float from worker)
"""


# One that has ended was seen a moment ago, too; but it no longer holds its lock (Postgres manual: 53.13, pg_locks).
_WORKERS = f"""
select count(*) from worker w join pg_locks l on l.objid::bigint = w.worker_id
where w.seen_at > now() - make_interval(secs => {WORKER_SECONDS}) and l.granted and l.locktype = 'advisory'
    and l.classid::bigint = {WORKER_LOCK} and l.objsubid = 2
    and l.database = (select oid from pg_database where datname = current_database())
"""


def count_workers(conn: Connection) -> int:
    """How many workers live and were seen within WORKER_SECONDS."""
    row = conn.execute(_WORKERS).fetchone()
    return 0 if row is None else int(row[0])


def get_gauges(conn: Connection) -> Gauges:
    """All of it. Costs two microseconds a batch, and nothing a call: 0.2 s with a hundred thousand batches."""
    with conn.cursor(row_factory=dict_row) as cursor:
        halves = cursor.execute(_SUMS).fetchall()
    calls = balance(dict.fromkeys(_COUNTERS, 0))
    callbacks = dict.fromkeys(COUNTED_STATES, 0)
    loss = Loss(0, 0, 0)
    for half in halves:
        balanced = balance(half)
        calls = {name: count + balanced[name] for name, count in calls.items()}
        callbacks = {name: count + half[name] for name, count in callbacks.items()}
        if half["past_due"]:
            loss = Loss(balanced["overdue"] + balanced["final"], balanced["overdue"], half["polled"])
    del calls["rows"], calls["final"]  # sums of the others
    counted: dict[str, int] = dict(conn.execute(_SUBMISSIONS).fetchall())
    submissions: dict[str, int] = {state: counted.get(state, 0) for state in SUBMISSION_STATES}
    submissions["accepted"] = counted["all"] - sum(submissions.values())
    ages = conn.execute(_AGES).fetchone()
    assert ages is not None  # noqa: S101 one row of scalars
    waiting, oldest_waiting, oldest_pending, seen = ages
    return Gauges(
        calls=calls,
        callbacks={"waiting": waiting, **callbacks},
        submissions=submissions,
        loss=loss,
        oldest_waiting_seconds=oldest_waiting,
        oldest_pending_submission_seconds=oldest_pending,
        workers=count_workers(conn),
        worker_seen_seconds=seen,
    )
