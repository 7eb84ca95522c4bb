"""The events that a transaction causes: results that were settled or changed, batches that ended, and so on.

They are collected in `Events` while the transaction works, and written with it: an entry for the feed, and an owed
event for each endpoint that wants it (`owed_event`). Only `Events.write` writes them. So no event can be lost, and a
transaction that is rolled back causes none. `receiver.relay` delivers them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from receiver.changes.counters import SLOTS
from receiver.database.arrays import bigints, columns, integers, smallints
from receiver.database.pool import Connection
from receiver.model import EVENT_TYPES, OUTCOMES, EventType

REMAINING = "c.rows - c.skipped - c.refused - c.withdrawn - " + " - ".join(f"c.{outcome}" for outcome in OUTCOMES)
"""SQL: calls of a batch that are pending or overdue, from its counters `c`. A batch ends when they become 0."""


class Events:
    """What a transaction causes. Collect, then `write` once, before the commit (`receiver.database.locks`)."""

    def __init__(self) -> None:
        self._subjects: defaultdict[EventType, list[tuple[int, int | None]]] = defaultdict(list)
        self._remaining: dict[int, tuple[int, int]] = {}

    def add(self, event: EventType, batch_id: int, subject: int | None = None) -> None:
        """Something happened to a batch. `subject`: the row, the number of the submission, or the callback's id."""
        self._subjects[event].append((batch_id, subject))

    def replace(self, event: EventType, subjects: Iterable[tuple[int, int | None]]) -> None:
        """Of these events, only these, (batch_id, subject), happened. For what is undone and done again."""
        self._subjects[event] = list(subjects)

    def add_remaining(self, batch_id: int, change: int, after: int) -> None:
        """A batch's remaining calls changed, and how many that are now. It ended if they were more than 0 before the
        transaction, and are 0 after it."""
        before, _ = self._remaining.get(batch_id, (after - change, 0))
        self._remaining[batch_id] = before, after

    def write(self, conn: Connection) -> None:
        """Write everything. Locks the counters of the endpoints until the commit."""
        for batch_id, (before, after) in self._remaining.items():
            if before > 0 and after == 0:
                self.add("batch.ended", batch_id)
        if not any(self._subjects.values()):
            return
        results = self._subjects["call.result"]
        (has_filters,) = conn.execute(_CHANGED, columns(results, bigints, integers), prepare=True).fetchall()[0]
        if has_filters is None:
            return
        owed = [(EVENT_TYPES.index(event) + 1, *each) for event, its in self._subjects.items() for each in its]
        types, batch_ids, subjects = zip(*owed, strict=True)
        batches = conn.execute(_BATCHES, (list(set(batch_ids)),), prepare=True).fetchall() if has_filters else []
        of_batches = ("ids", "applications", "deployments", "labels")
        values = {
            **{"names": list(EVENT_TYPES), "e": smallints(types), "b": bigints(batch_ids), "s": bigints(subjects)},
            **{name: [batch[place] for batch in batches] for place, name in enumerate(of_batches)},
        }
        conn.execute(_OWE, values, prepare=True)


# At most 250 calls in an entry of the feed: Postgres stores a larger row in pieces, which are slower to read. The
# statement returns whether an endpoint wants only the events of some batches; null: there is no endpoint.
_CHANGED = """
with changed as (
    insert into changed_results (batch_id, rows)
    select batch_id, array_agg(row order by row)
    from unnest(%b::bigint[], %b::integer[]) with ordinality as g (batch_id, row, number)
    group by batch_id, (number - 1) / 250
)
select bool_or(num_nonnulls(application_id, deployment_id, label_name) > 0) from endpoint
"""

_BATCHES = "select batch_id, application_id, deployment_id, labels::text from batch where batch_id = any(%s)"

# One statement for all events, so that the counters are locked in order. An endpoint can be deleted meanwhile. What is
# then owed to it is never read, and goes with its slot.
_OWE = f"""
with owed as (
    insert into owed_event (endpoint_id, event, batch_id, subject)
    select e.endpoint_id, g.event, g.batch_id, g.subject
    from (select (%(names)s::text[])[type] as event, batch_id, subject
        from unnest(%(e)b::smallint[], %(b)b::bigint[], %(s)b::bigint[]) as u (type, batch_id, subject)) g
    join endpoint e on g.event = any(e.events)
    left join unnest(%(ids)s::bigint[], %(applications)s::bigint[], %(deployments)s::bigint[], %(labels)s::jsonb[])
        as b (batch_id, application_id, deployment_id, labels) on b.batch_id = g.batch_id
    where (e.application_id is null or e.application_id = b.application_id)
        and (e.deployment_id is null or e.deployment_id = b.deployment_id)
        and (e.label_name is null or b.labels ->> e.label_name = e.label_value)
    returning endpoint_id, slot
)
insert into endpoint_count as c (endpoint_id, slot, part, owed)
select endpoint_id, slot, pg_backend_pid() %% {SLOTS}, count(*) from owed group by 1, 2 order by 1, 2
on conflict (endpoint_id, slot, part) do update set owed = c.owed + excluded.owed
"""
