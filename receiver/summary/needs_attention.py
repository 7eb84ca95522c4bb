"""Counts of everything that needs attention, and the totals of many batches. Read from counters only."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row

from receiver.changes.events import REMAINING
from receiver.database.pool import Connection
from receiver.model import OUTCOMES
from receiver.results.acknowledgement import NEED_ATTENTION
from receiver.summary.batches import BatchFilter, sum_balances, where_of


@dataclass(frozen=True, slots=True)
class Attention:
    """How many objects of each kind need attention: those that were not acknowledged. `totals` is the balance of the
    chosen batches."""

    totals: dict[str, int]
    overdue_calls: int
    overdue_batches: int
    unknown_submissions: int
    unknown_calls: int
    refused_submissions: int
    refused_calls: int
    unreadable: int
    unmatched: int
    conflict: int
    waiting_batches: int
    """Batches with something to send that were made for the other kind of provider, real or simulated."""
    waiting_calls: int
    simulated_batches: int
    simulated: dict[str, int]
    """The part of `totals` that belongs to simulated batches."""

    @property
    def is_needed(self) -> bool:
        return any(
            (
                self.overdue_calls,
                self.unknown_submissions,
                self.refused_submissions,
                self.unreadable,
                self.unmatched,
                self.conflict,
                self.waiting_batches,
            )
        )


_COUNTERS = ("rows", "skipped", "refused", "withdrawn", "overdue", *OUTCOMES, *NEED_ATTENTION)


def get_attention(conn: Connection, wanted: BatchFilter, *, simulated: bool | None = False) -> Attention:
    """What needs attention among these batches.

    `simulated`: the provider that submissions are sent to is a simulator; None: unknown. If no condition is given,
    callbacks for purged batches count as unmatched, too.
    """
    where, values = where_of(wanted)
    sums = ", ".join(f"coalesce(sum(c.{name}), 0)::bigint as {name}" for name in _COUNTERS)
    with conn.cursor(row_factory=dict_row) as cursor:
        parts = cursor.execute(
            f"select coalesce(b.simulated, false) as simulated, {sums}, count(*) as batches,"
            f" sum(greatest(least(c.overdue, {REMAINING}) - c.acknowledged_overdue, 0))::bigint as overdue_calls,"
            f" count(*) filter (where c.overdue > c.acknowledged_overdue and {REMAINING} > 0) as overdue_batches"
            f" from batch_total c left join batch b using (batch_id) where {where} group by 1",
            values,
        ).fetchall()
        in_doubt = cursor.execute(
            "select s.state, count(*) as submissions, sum(s.calls)::bigint as calls"
            " from submission s join batch b using (batch_id)"
            f" where s.state in ('unknown', 'refused') and s.acknowledged_at is null and {where} group by s.state",
            values,
        ).fetchall()
        seen = cursor.execute(
            "select s.state, count(*) as callbacks from acknowledged a"
            " join set_aside s using (batch_id, callback_id, state) join batch_total c using (batch_id)"
            " left join batch b using (batch_id)"
            f" where {where} group by s.state",
            values,
        ).fetchall()
        waiting = cursor.execute(
            "select count(distinct s.batch_id) as batches, coalesce(sum(s.calls), 0)::bigint as calls"
            " from submission s join batch b using (batch_id)"
            f" where s.state = 'pending' and b.simulated <> %s and {where}",
            [simulated, *values],
        ).fetchall()[0]
    totals = sum_balances(parts)
    simulated_parts = [part for part in parts if part["simulated"]]
    unseen = {state: sum(part[state] for part in parts) for state in NEED_ATTENTION}
    for row in seen:
        unseen[row["state"]] -= row["callbacks"]
    doubts = {row["state"]: (row["submissions"], row["calls"]) for row in in_doubt}
    return Attention(
        totals,
        sum(part["overdue_calls"] for part in parts),
        sum(part["overdue_batches"] for part in parts),
        *doubts.get("unknown", (0, 0)),
        *doubts.get("refused", (0, 0)),
        unseen["unreadable"],
        unseen["unmatched"],
        unseen["conflict"],
        waiting["batches"],
        waiting["calls"],
        sum(part["batches"] for part in simulated_parts),
        sum_balances(simulated_parts),
    )
