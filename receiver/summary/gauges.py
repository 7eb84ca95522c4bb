"""The state of the whole service, for monitoring. Read from counters, one row per batch, never from calls."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row

from receiver.changes.counters import COUNTED_STATES
from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.model import OUTCOMES, SUBMISSION_STATES
from receiver.release.presence import count_workers
from receiver.summary.batches import PAST_DUE, Loss, balance, sum_balances

WAITING_COUNTED = 100_000
"""Waiting callbacks are counted up to this number."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Calls, callbacks and submissions by state. Ages are in seconds, None if there is nothing of that kind."""

    calls: dict[str, int]
    callbacks: dict[str, int]
    submissions: dict[str, int]
    loss: Loss
    oldest_waiting_seconds: float | None
    oldest_pending_submission_seconds: float | None
    """How long the oldest submission whose gates are open has waited to be sent."""
    unreleased_calls: int
    """Of the pending ones, those that were not sent yet."""
    unfed: int
    """Changes of results that are not in the feed yet, counted up to `WAITING_COUNTED`."""
    oldest_unfed_seconds: float | None
    workers: int
    worker_seen_seconds: float | None


_COUNTERS = ("rows", "skipped", "refused", "withdrawn", "overdue", *OUTCOMES, *COUNTED_STATES, "polled")

_SUMS = f"""
select coalesce({PAST_DUE}, false) as past_due,
    {", ".join(f"sum(c.{name})::bigint as {name}" for name in _COUNTERS)}
from batch_total c left join batch b using (batch_id) group by past_due
"""

# Partial indexes count all states except `accepted`, which is the remainder.
_SUBMISSIONS = """
select 'sending', count(*) from submission where state = 'sending'
union all select state, count(*) from submission where state in ('unknown', 'refused') group by state
union all select 'withdrawn', count(*) from submission where state = 'withdrawn'
union all select 'all', coalesce(sum(submissions), 0)::bigint from batch
"""

_PENDING = "select count(*), coalesce(sum(calls - withdrawn_calls), 0)::bigint from submission where state = 'pending'"

_AGES = f"""
select (select count(*) from
        (select from waiting where callback_id >= {LOW_WATER_MARK} limit {WAITING_COUNTED}) as counted),
    (select extract(epoch from now() - received_at)::float from waiting where callback_id >= {LOW_WATER_MARK}
        order by callback_id limit 1),
    (select extract(epoch from now() - min(greatest(s.next_try_at, b.next_release_at)))::float
        from batch b join (select batch_id, min(next_try_at) as next_try_at from submission
            where state = 'pending' group by batch_id) s using (batch_id)
        where b.state = 'queueing' and b.paused_at is null
        and s.next_try_at < now() and (b.next_release_at is null or b.next_release_at < now())),
    (select count(*) from (select from changed_results limit {WAITING_COUNTED}) as counted),
    (select extract(epoch from now() - changed_at)::float from changed_results order by change_id limit 1),
    (select extract(epoch from now() - max(seen_at))::float from worker)
"""


def get_gauges(conn: Connection) -> Gauges:
    """Takes about a microsecond per batch, less for each pending or withdrawn submission, and nothing for others."""
    with conn.cursor(row_factory=dict_row) as cursor:
        halves = cursor.execute(_SUMS).fetchall()
    calls = sum_balances(halves)
    callbacks = {state: sum(half[state] for half in halves) for state in COUNTED_STATES}
    loss = Loss(0, 0, 0)
    for half in halves:
        if half["past_due"]:
            due = balance(half)
            loss = Loss(due["overdue"] + due["final"], due["overdue"], half["polled"])
    del calls["rows"], calls["final"]  # sums of the others
    pending = conn.execute(_PENDING).fetchall()[0]
    counted: dict[str, int] = dict(conn.execute(_SUBMISSIONS).fetchall()) | {"pending": pending[0]}
    submissions: dict[str, int] = {state: counted.get(state, 0) for state in SUBMISSION_STATES}
    submissions["accepted"] = counted["all"] - sum(submissions.values())
    ages = conn.execute(_AGES).fetchall()[0]
    waiting, oldest_waiting, oldest_pending, unfed, oldest_unfed, seen = ages
    return Gauges(
        calls=calls,
        callbacks={"waiting": waiting, **callbacks},
        submissions=submissions,
        loss=loss,
        oldest_waiting_seconds=oldest_waiting,
        oldest_pending_submission_seconds=oldest_pending,
        unreleased_calls=pending[1],
        unfed=unfed,
        oldest_unfed_seconds=oldest_unfed,
        workers=count_workers(conn),
        worker_seen_seconds=seen,
    )
