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
            listed = conn.execute(_BATCHES, self._given).fetchall()
            self._batches = {batch_id: RecentBatch(batch_id, *shown) for batch_id, *shown in listed}
            in_part = conn.execute(_IN_PART, {"batches": bigints(self._batches)} | self._given).fetchall()
            self._whole = sorted(self._batches.keys() - {batch_id for (batch_id,) in in_part})
        if not self._batches or not phone_numbers:
            return {}
        found: dict[int, list[RecentBatch]] = {}
        given = {"numbers": bigints(phone_numbers), "whole": bigints(self._whole), "batches": bigints(self._batches)}
        for number, batch_id in conn.execute(_CALLS, given | self._given):
            found.setdefault(number, []).append(self._batches[batch_id])
        return found


_IS_RECENT = """(s.state = 'pending' or s.state not in ('refused', 'withdrawn')
    and s.released_at > now() - make_interval(hours => %(hours)s))"""
"""SQL: whether the calls of submission `s` count, unless they are withdrawn."""

_OF_OTHERS = """(%(simulated)s or not coalesce(b.simulated, false))
    and coalesce(b.first_batch_id, b.batch_id) is distinct from %(first_batch_id)s"""

_BATCHES = f"""
select b.batch_id, b.name, b.created_at from batch b where {_OF_OTHERS} and b.state = 'queueing'
union
select b.batch_id, b.name, b.created_at from batch b where {_OF_OTHERS} and exists (select from submission s
    where s.batch_id = b.batch_id and s.released_at > now() - make_interval(hours => %(hours)s))
"""

_IN_PART = f"""
select b.batch_id from batch b where b.batch_id = any(%(batches)b)
    and exists (select from submission s where s.batch_id = b.batch_id and {_IS_RECENT} is not true)
union
select b.batch_id from batch b where b.batch_id = any(%(batches)b)
    and exists (select from withdrawn w where w.batch_id = b.batch_id)
"""
"""The batches of which not all calls count."""

# The index has the batches of a number, however often it was called. Only calls of batches in part are read.
_CALLS = f"""
with seen as materialized (
    select distinct phone_number, batch_id from call where phone_number = any(%(numbers)b)
), in_part as materialized (
    select * from seen where batch_id = any(%(batches)b) and batch_id <> all(%(whole)b)
)
select phone_number, batch_id from seen where batch_id = any(%(whole)b)
union
select phone_number, batch_id
from in_part join call c using (phone_number, batch_id) join submission s using (batch_id, submission_no)
where {_IS_RECENT}
    and not exists (select from withdrawn w where w.batch_id = c.batch_id and w.row = c.row)
order by batch_id
"""
