"""Numbers that were queued recently, so that a list that is queued twice is noticed before people are called twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from receiver.database.arrays import bigints
from receiver.database.pool import Connection


@dataclass(frozen=True, slots=True)
class RecentBatch:
    """A batch with calls that were released recently, or wait for release."""

    id: int
    name: str
    created_at: datetime


FindRecent = Callable[[Sequence[int]], Mapping[int, Sequence[RecentBatch]]]
"""Says which of these numbers were queued recently, and in which batches."""


class RecentCalls:
    """Finds calls that wait for release, or were released within some hours. Other batches are never searched.

    `simulated`: simulated batches count, too. `first_batch_id`: a lineage whose calls do not count.
    """

    def __init__(self, hours: int, *, simulated: bool, first_batch_id: int | None = None) -> None:
        self._given = {"hours": hours, "simulated": simulated, "first_batch_id": first_batch_id}
        self._batches: dict[int, RecentBatch] | None = None

    def find(self, conn: Connection, phone_numbers: Sequence[int]) -> Mapping[int, Sequence[RecentBatch]]:
        """Those of the numbers that have such calls, with their batches, the oldest first."""
        if self._batches is None:
            listed = conn.execute(_BATCHES, self._given)
            self._batches = {batch_id: RecentBatch(batch_id, *shown) for batch_id, *shown in listed}
        if not self._batches or not phone_numbers:
            return {}
        found: dict[int, list[RecentBatch]] = {}
        numbers, batches = bigints(phone_numbers), bigints(self._batches)
        for number, batch_id in conn.execute(_CALLS, {"numbers": numbers, "batches": batches, **self._given}):
            found.setdefault(number, []).append(self._batches[batch_id])
        return found


_BATCHES = """
select b.batch_id, b.name, b.created_at from batch b
where (%(simulated)s or not coalesce(b.simulated, false))
    and coalesce(b.first_batch_id, b.batch_id) is distinct from %(first_batch_id)s
    and (b.state = 'queueing' or exists (select from submission s where s.batch_id = b.batch_id
        and s.released_at > now() - make_interval(hours => %(hours)s)))
"""

# A number may have been called often. Its batches are in the index, so only the calls in recent ones are read.
_CALLS = """
with seen as materialized (
    select distinct phone_number, batch_id from call where phone_number = any(%(numbers)b)
), in_recent as materialized (select * from seen where batch_id = any(%(batches)b))
select distinct phone_number, batch_id
from in_recent join call c using (phone_number, batch_id) join submission s using (batch_id, submission_no)
where (s.state = 'pending' or s.state not in ('refused', 'withdrawn')
        and s.released_at > now() - make_interval(hours => %(hours)s))
    and not exists (select from withdrawn w where w.batch_id = c.batch_id and w.row = c.row)
order by batch_id
"""
