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
            )
        )


_COUNTERS = ("rows", "skipped", "refused", *OUTCOMES, "unreadable", "unmatched", "conflict")


def get_attention(conn: Connection, wanted: BatchesOf) -> Attention:
    """What needs a person among these batches.

    Where nothing narrows them, callbacks that came for a purged batch count as unmatched, too.
    """
    where, values = _where(wanted)
    sums = ", ".join(f"coalesce(sum(c.{name}), 0)::bigint as {name}" for name in _COUNTERS)
    with conn.cursor(row_factory=dict_row) as cursor:
        halves = cursor.execute(
            f"select coalesce(b.due_at < now(), false) as past_due, {sums}, count(*) filter (where {REMAINING} > 0)"
            f" as open_batches from batch_count c left join batch b using (batch_id) where {where} group by past_due",
            values,
        ).fetchall()
        in_doubt = cursor.execute(
            "select s.state, count(*) as submissions, sum(s.calls)::bigint as calls"
            " from submission s join batch b using (batch_id)"
            f" where s.state in ('unknown', 'refused') and {where} group by s.state",
            values,
        ).fetchall()
    totals = balance(dict.fromkeys(_COUNTERS, 0), past_due=False)
    summed = dict.fromkeys((*_COUNTERS, "overdue_batches"), 0)
    for half in halves:
        totals = {name: count + totals[name] for name, count in balance(half, half["past_due"]).items()}
        half["overdue_batches"] = half["open_batches"] if half["past_due"] else 0
        summed = {name: count + half[name] for name, count in summed.items()}
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
