"""A batch with all batches that follow from it, and what its rows came to in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.queueing.follow_ups import CALL_STATE
from receiver.summary.batches import Batch, BatchFilter, get_batch, list_batches

MOST_BATCHES = 1_000


@dataclass(frozen=True, slots=True)
class Lineage:
    """`batches`: the first one and those that follow from it, in the order of their ids; of a purged one only its id.

    `latest`: the balance of the first batch, each row with what it came to in the end. A row is completed if any call
    of its chain is, else it counts by its last call that was not withdrawn as answered. None: that batch is purged.
    """

    batches: tuple[Batch | int, ...]
    latest: dict[str, int] | None


def get_lineage(conn: Connection, batch_id: int) -> Lineage:
    """The lineage of a batch. Read it at one moment, so that it balances. Raises NotFound."""
    row = conn.execute(
        "select coalesce(first_batch_id, batch_id) from batch where batch_id = %s", (batch_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    first = row[0]
    known = {each.id: each for each in list_batches(conn, BatchFilter(lineage=first), MOST_BATCHES)}
    purged = {first, *(each.follows for each in known.values() if each.follows is not None)} - known.keys()
    batches = tuple(known.get(each, each) for each in sorted({*known, *purged}))
    return Lineage(batches, None if first in purged else _count_latest(conn, get_batch(conn, first)))


def _count_latest(conn: Connection, first: Batch) -> dict[str, int]:
    """Only rows that were followed up are read: each leaves one counter and enters another."""
    counts = Counter(first.counts)
    for before, after, rows in conn.execute(_CHANGES, {"batch_id": first.id}, prepare=False):
        for kind, number in ((before, -rows), (after, rows)):
            counts.update({kind: number} if kind in _NOT_FINAL else {kind: number, "final": number})
    return {name: counts[name] for name in first.counts}


_NOT_FINAL = ("refused", "withdrawn", "pending", "overdue")

_CHANGES = f"""
with recursive chain as (
    select row as first_row, 0 as step, batch_id, row from follow_up where batch_id = %(batch_id)s
    union all
    select chain.first_row, chain.step + 1, f.next_batch_id, f.next_row
    from chain join follow_up f using (batch_id, row)
), called as (
    select c.first_row, c.step, coalesce(r.outcome, {CALL_STATE}) as kind, w.reason = 'answered' as is_answered
    from chain c join call using (batch_id, row) join submission s using (batch_id, submission_no)
        left join result r using (batch_id, row)
        left join outstanding o on o.batch_id = c.batch_id and o.refused and o.row = c.row
        left join withdrawn w on w.batch_id = c.batch_id and w.row = c.row
), latest as (
    select distinct on (first_row) first_row, kind from called where is_answered is not true
    order by first_row, kind = 'completed' desc, step desc
)
select b.kind, l.kind, count(*) from called b join latest l using (first_row) where b.step = 0 group by 1, 2
"""
