"""What needs a person, and what became of all calls, over many batches at once; read from counters only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from receiver.database.pool import Connection
from receiver.model import OUTCOMES
from receiver.summary.batches import REMAINING, balance


@dataclass(frozen=True, slots=True)
class BatchesOf:
    """Which batches; None leaves a condition out."""

    application_id: int | None = None
    deployment_id: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """How many of each there are. `totals` is the balance of these batches."""

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
    """The part of `totals` that is of simulated batches."""

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


_COUNTERS = ("rows", "skipped", "refused", "withdrawn", "overdue", *OUTCOMES, "unreadable", "unmatched", "conflict")


def get_attention(conn: Connection, wanted: BatchesOf, *, simulated: bool | None = False) -> Attention:
    """What needs a person among these batches.

    `simulated`: the provider that submissions are sent to is a simulator; None: it is not known.

    Where nothing narrows them, callbacks that came for a purged batch count as unmatched, too.
    """
    where, values = _where(wanted)
    sums = ", ".join(f"coalesce(sum(c.{name}), 0)::bigint as {name}" for name in _COUNTERS)
    with conn.cursor(row_factory=dict_row) as cursor:
        parts = cursor.execute(
            f"select coalesce(b.simulated, false) as simulated, {sums}, count(*) as batches,"
            f" count(*) filter (where c.overdue > 0 and {REMAINING} > 0) as overdue_batches"
            f" from batch_count c left join batch b using (batch_id) where {where} group by 1",
            values,
        ).fetchall()
        in_doubt = cursor.execute(
            "select s.state, count(*) as submissions, sum(s.calls)::bigint as calls"
            " from submission s join batch b using (batch_id)"
            f" where s.state in ('unknown', 'refused') and {where} group by s.state",
            values,
        ).fetchall()
        waiting = cursor.execute(
            "select count(distinct s.batch_id) as batches, coalesce(sum(s.calls), 0)::bigint as calls"
            " from submission s join batch b using (batch_id)"
            f" where s.state = 'pending' and b.simulated <> %s and {where}",
            [simulated, *values],
        ).fetchone()
    assert waiting is not None  # noqa: S101 an aggregate returns one row
    totals = balance(dict.fromkeys(_COUNTERS, 0))
    simulated_totals, simulated_batches = totals, 0
    summed = dict.fromkeys((*_COUNTERS, "overdue_batches"), 0)
    for part in parts:
        balanced = balance(part)
        totals = {name: count + totals[name] for name, count in balanced.items()}
        if part["simulated"]:
            simulated_totals = {name: count + simulated_totals[name] for name, count in balanced.items()}
            simulated_batches += part["batches"]
        summed = {name: count + part[name] for name, count in summed.items()}
    doubts = {row["state"]: (row["submissions"], row["calls"]) for row in in_doubt}
    return Attention(
        totals,
        totals["overdue"],
        summed["overdue_batches"],
        *doubts.get("unknown", (0, 0)),
        *doubts.get("refused", (0, 0)),
        summed["unreadable"],
        summed["unmatched"],
        summed["conflict"],
        waiting["batches"],
        waiting["calls"],
        simulated_batches,
        simulated_totals,
    )


def _where(wanted: BatchesOf) -> tuple[str, list[Any]]:
    conditions: dict[str, Any] = {
        "b.application_id = %s": wanted.application_id,
        "b.deployment_id = %s": wanted.deployment_id,
        "b.created_at >= %s": wanted.created_from,
        "b.created_at < %s": wanted.created_to,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return " and ".join(given) or "true", list(given.values())
