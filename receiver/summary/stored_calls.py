"""Calls with given keys, of many batches, as JSON. Postgres writes all but the cells and the events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from receiver.database.arrays import bigints, integers
from receiver.database.pool import Connection
from receiver.summary.call_json import OwnMembers, events_of_body
from receiver.summary.calls import PAGE_BYTES
from receiver.summary.export import CALL_PARTS
from receiver.summary.lineage import CALL_BY_KEY


class StoredCall(NamedTuple):
    """The parts of a call's JSON, and the body from which its events are read."""

    own: OwnMembers
    line: str
    start: str
    middle: str
    end: str
    packing: int | None
    content_type: str | None
    content_encoding: str | None
    body: bytes | None

    def json(self) -> str:
        """As `call_json` writes it. Reading a hostile body takes 20 ms."""
        events = events_of_body(self.packing, self.content_type, self.content_encoding, self.body)
        return f"{self.start}{self.own.write(self.line)}{self.middle}{events}{self.end}}}"


def list_stored_calls(conn: Connection, keys: Sequence[tuple[int, int]]) -> list[StoredCall | None]:
    """The calls with these keys, (batch_id, row), in this order. None: there is no such call.

    The list ends after the call that reaches `PAGE_BYTES`.
    """
    batch_ids, rows = zip(*keys, strict=True)
    values = {"batch_ids": bigints(batch_ids), "rows": integers(rows), "most": PAGE_BYTES}
    with conn.cursor(binary=True) as cursor:
        found = cursor.execute(_CALLS, values, prepare=True).fetchall()
        columns = cursor.execute(_COLUMNS, (bigints({batch_id for batch_id, *_ in found}),), prepare=True).fetchall()
    own = {batch_id: OwnMembers(names) for batch_id, names in columns}
    is_cut = bool(found) and found[-1][-1] >= PAGE_BYTES
    calls: list[StoredCall | None] = [None] * (found[-1][1] if is_cut else len(keys))
    for batch_id, number, _, *parts, _ in found:
        if batch_id in own:  # else its batch was purged meanwhile
            calls[number - 1] = StoredCall(own[batch_id], *parts)
    return calls


_CALLS = f"""
with picked as materialized (
    select * from unnest(%(batch_ids)b::bigint[], %(rows)b::integer[]) with ordinality as g (batch_id, row, number)
), detailed as (
    select c.batch_id, number, octet_length(c.line) + octet_length(array_to_string(b.columns, ''))
        + coalesce(octet_length(j.body), 0) as bytes, {CALL_PARTS}, j.body
    from picked join call c using (batch_id, row) join batch b using (batch_id)
        cross join lateral (select c.batch_id, c.row, c.submission_no) k
        {CALL_BY_KEY}
        left join callback j on j.batch_id = k.batch_id and j.callback_id = r.callback_id
        left join lateral (select * from follow_up f where f.batch_id = k.batch_id and f.row = k.row limit 1) f on true
        left join lateral (select batch_id, row as earlier_row from follow_up e
            where e.next_batch_id = k.batch_id and e.next_row = k.row limit 1) e on true
)
select * from (select *, sum(bytes) over (order by number) as total from detailed) each
where total - bytes < %(most)s order by number
"""

_COLUMNS = "select batch_id, columns from batch where batch_id = any(%b)"
