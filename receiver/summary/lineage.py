"""A batch with all batches that follow from it, and what its rows came to in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.queueing.follow_ups import CALL_STATE
from receiver.summary.batches import Batch, BatchFilter, list_batches

MOST_BATCHES = 1_000

MOST_ROWS = 500_000
"""Of follow-ups with more rows than this (about 20 s), `latest` is not counted."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """`batches`: the first one and those that follow from it, in the order of their ids; of a purged one only its id.

    `latest`: the balance of the first batch, each row with what it came to in the end. A row is completed if any call
    of its chain is, else it counts by its last call that was not withdrawn as answered. None: that batch is purged,
    or there were too many rows to count.
    """

    batches: tuple[Batch | int, ...]
    latest: dict[str, int] | None


def get_lineage(conn: Connection, batch_id: int, most_rows: int = MOST_ROWS) -> Lineage:
    """The lineage of a batch. Read it at one moment, so that it balances. Raises NotFound.

    `most_rows`: `latest` is counted only if the follow-ups have no more rows than this.
    """
    row = conn.execute(
        "select coalesce(first_batch_id, batch_id) from batch where batch_id = %s", (batch_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    first = row[0]
    known = {each.id: each for each in list_batches(conn, BatchFilter(lineage=first), MOST_BATCHES)}
    named = {first, *(each.follows for each in known.values() if each.follows is not None)}
    followed = conn.execute(
        "select distinct next_batch_id from follow_up where batch_id = any(%s)", (list(known),)
    ).fetchall()
    purged = {*named, *(each for (each,) in followed)} - known.keys()
    batches = tuple(known.get(each, each) for each in sorted({*known, *purged}))
    rows = sum(each.counts["rows"] for each in known.values() if each.id != first)
    is_counted = first in known and rows <= most_rows
    return Lineage(batches, _count_latest(conn, known[first]) if is_counted else None)


def _count_latest(conn: Connection, first: Batch) -> dict[str, int]:
    """Only rows that were followed up are read: each leaves one counter and enters another."""
    counts = Counter(first.counts)
    for before, after, rows in conn.execute(_CHANGES, {"batch_id": first.id}, prepare=False):
        for kind, number in ((before, -rows), (after, rows)):
            counts.update({kind: number} if kind in _NOT_FINAL else {kind: number, "final": number})
    return {name: counts[name] for name in first.counts}


_NOT_FINAL = ("refused", "withdrawn", "pending", "overdue")

CALL_BY_KEY = """join submission s on s.batch_id = k.batch_id and s.submission_no = k.submission_no
    left join lateral (select * from result r where r.batch_id = k.batch_id and r.row = k.row limit 1) r on true
    left join lateral (select row from outstanding o
        where o.batch_id = k.batch_id and o.refused and o.row = k.row limit 1) o on true
    left join lateral (select row, reason from withdrawn w
        where w.batch_id = k.batch_id and w.row = k.row limit 1) w on true"""
"""SQL: the submission, result and state of call `k`. With the limits, no plan reads a whole table."""

CHAINS = f"""
with recursive chain as (
    select row as first_row, 0 as step, batch_id, row, submission_no from {{first}}
    union all
    select k.first_row, k.step + 1, n.batch_id, n.row, n.submission_no
    from chain k cross join lateral (select c.* from follow_up f
        join call c on c.batch_id = f.next_batch_id and c.row = f.next_row
        where f.batch_id = k.batch_id and f.row = k.row limit 1) n
), called as (
    select k.*, coalesce(r.outcome, {CALL_STATE}) as kind, coalesce(w.reason, '') = 'answered' as is_answered
    from chain k {CALL_BY_KEY}
), latest as (
    select distinct on (first_row) * from called order by first_row, kind = 'completed' desc, is_answered, step desc
)
"""
"""SQL: `called` has each call of the chains that begin with the calls of `first`; `latest` has the one of each chain
that its row came to."""

_CHANGES = f"""
{CHAINS.format(first="call join follow_up using (batch_id, row) where batch_id = %(batch_id)s")}
select b.kind, l.kind, count(*) from called b join latest l using (first_row) where b.step = 0 group by 1, 2
"""
