"""How many results were never delivered: what the provider owes us once a batch is due. Read from counters only.

A result that had to be fetched was not delivered either. One that came after it was fetched is counted all
the same: by then its call was overdue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from receiver.database.pool import Connection
from receiver.model import OUTCOMES
from receiver.summary.batches import REMAINING


@dataclass(frozen=True, slots=True)
class Loss:
    """Of batches past their due time: calls that were to have a result, those without one, those with a fetched one."""

    due: int
    overdue: int
    polled: int

    @property
    def rate(self) -> float | None:
        """Results never delivered, over all that were due; None where none was."""
        return round((self.overdue + self.polled) / self.due, 6) if self.due else None


_SUMS = f"""coalesce(sum({REMAINING} + {" + ".join(f"c.{outcome}" for outcome in OUTCOMES)}), 0)::bigint,
    coalesce(sum({REMAINING}), 0)::bigint, coalesce(sum(c.polled), 0)::bigint
    from batch b join batch_count c using (batch_id) where b.due_at < now()"""


def loss_rate(
    conn: Connection,
    *,
    batch_id: int | None = None,
    application_id: int | None = None,
    deployment_id: int | None = None,
) -> Loss:
    """The loss over all batches that are due, or over those that are meant; all zero where none is due."""
    given = {"batch_id": batch_id, "application_id": application_id, "deployment_id": deployment_id}
    conditions = "".join(f" and b.{name} = %({name})s" for name, value in given.items() if value is not None)
    row = conn.execute(f"select {_SUMS}{conditions}", given).fetchone()
    return Loss(*row) if row is not None else Loss(0, 0, 0)


def list_losses(conn: Connection, batch_ids: Sequence[int]) -> dict[int, Loss]:
    """The loss of each of these batches that is due; the others are left out."""
    rows = conn.execute(f"select b.batch_id, {_SUMS} and b.batch_id = any(%s) group by b.batch_id", (list(batch_ids),))
    return {batch_id: Loss(*numbers) for batch_id, *numbers in rows}
