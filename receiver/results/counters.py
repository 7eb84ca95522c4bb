"""The counters of a batch: what a settlement adds to them.

Changes are collected while a group is settled, and written at the end of its transaction. So a busy batch is locked
only for a short time before the commit, and workers that settle the same large batch rarely wait for each other
(`receiver.changes.counters`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import psycopg

from receiver.changes.counters import COUNTED_STATES, PART_COLUMNS, RESULT_COLUMNS, SLOTS, add_parts, added
from receiver.changes.events import REMAINING, Events
from receiver.database.locks import OLD_WORKERS, lock_counters
from receiver.database.pool import Connection
from receiver.model import OUTCOMES, CallbackState
from receiver.results.decision import Candidate

BUSY_RESULTS = 100
"""The counters of a batch are spread if a group has at least this many of its results."""

SPREAD_ABOVE = 16_000
"""Parts of a batch's counters are written only while more of its calls remain. So groups that share the lock cannot
reach its end together without any of them noticing it: each has at most 500 of its calls (`GROUP_CALLBACKS`), and at
most `SLOTS` have written their part and are not committed yet."""

QUARTER_HOUR = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_BATCH_COLUMNS = (
    "rows",
    "skipped",
    "refused",
    "withdrawn",
    "overdue",
    *OUTCOMES,
    "polled",
    *COUNTED_STATES,
    "attempts",
    "duration_seconds",
)
_NOT_REMAINING = ("skipped", "refused", "withdrawn", *OUTCOMES)


class Deltas:
    """What will be added to the counters of each batch, and to those of each of its quarter hours."""

    def __init__(self) -> None:
        self._batches: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._quarters: defaultdict[tuple[int, datetime], Counter[str]] = defaultdict(Counter)
        self._received: defaultdict[int, list[datetime]] = defaultdict(list)

    def add(self, batch_id: int, counter: str, number: int = 1) -> None:
        """Add `number` to one column of batch_count."""
        self._batches[batch_id][counter] += number

    def add_state(self, batch_id: int, state: CallbackState, polled: bool, number: int = 1) -> None:
        """Count a callback's state. A result that was fetched by polling is not a callback, and is not counted."""
        if not polled:
            self._batches[batch_id][state] += number

    def add_result(self, batch_id: int, result: Candidate, sign: int = 1) -> None:
        """Count a call's final result (sign 1), or undo that (-1). A status that is not final counts nothing."""
        details = result.details
        if details.outcome is None:
            return
        counter = self._quarters[batch_id, result.received_at - (result.received_at - _EPOCH) % QUARTER_HOUR]
        counter[details.outcome] += sign
        counter["attempts"] += sign * (details.attempts or 0)
        counter["duration_seconds"] += sign * (details.duration_seconds or 0)
        if result.polled:
            self._batches[batch_id]["polled"] += sign

    def add_result_time(self, batch_id: int, received_at: datetime) -> None:
        """Record the time at which a callback or a fetched body with a final status was received."""
        self._received[batch_id].append(received_at)

    def write(self, conn: Connection, events: Events) -> None:
        """Add everything to the tables, once. Locks the batches' counters until the commit. A batch may end by it."""
        spread = self._find_spread(conn)
        for (batch_id, _), counter in self._quarters.items():
            if batch_id != spread:
                self._batches[batch_id].update(counter)
        batch_ids = sorted((self._batches.keys() | self._received.keys()) - {spread})
        if not batch_ids and spread is None:
            return
        lock_counters(conn, batch_ids, share=spread)
        if batch_ids:
            add_parts(conn, batch_ids)
            self._update(conn, batch_ids, events)
        if spread is not None:
            self._add_part(conn, spread)

    def _find_spread(self, conn: Connection) -> int | None:
        """The batch whose counters are spread: it is busy and far from its end, and no worker of 1.0.0 or 1.1.0 is
        alive."""
        busiest = max(self._batches, key=lambda batch_id: self._batches[batch_id]["applied"], default=None)
        if busiest is None or self._batches[busiest]["applied"] < BUSY_RESULTS:
            return None
        # Twice: in the meantime, others may settle more of it.
        return busiest if self._is_far(conn, busiest, 2 * SPREAD_ABOVE) else None

    def _is_far(self, conn: Connection, batch_id: int, above: int) -> bool:
        return conn.execute(_IS_FAR, (batch_id, above), prepare=True).fetchone() is not None

    def _update(self, conn: Connection, batch_ids: list[int], events: Events) -> None:
        given = self._given(batch_ids)
        found = conn.execute(_UPDATE_BATCHES, given).fetchall()
        if len(found) < len(batch_ids):  # a purged batch has no counters, but its late callbacks are counted
            missing = sorted(set(batch_ids).difference(batch_id for batch_id, _ in found))
            conn.execute(
                "insert into batch_count (batch_id) select * from unnest(%s::bigint[]) on conflict do nothing",
                (missing,),
            )
            found += conn.execute(_UPDATE_BATCHES, self._given(missing)).fetchall()
        for batch_id, remaining in found:
            counter = self._batches[batch_id]
            change = counter["rows"] - sum(counter[name] for name in _NOT_REMAINING)
            events.add_remaining(batch_id, change, remaining)
        own = set(batch_ids)
        quarters = sorted(key for key, counter in self._quarters.items() if key[0] in own and any(counter.values()))
        if quarters:
            conn.execute(
                _UPDATE_QUARTERS,
                {
                    "batch_id": [batch_id for batch_id, _ in quarters],
                    "at": [at for _, at in quarters],
                    **_columns(RESULT_COLUMNS, [self._quarters[key] for key in quarters]),
                },
            )

    def _given(self, batch_ids: list[int]) -> dict[str, object]:
        received = [self._received.get(batch_id, ()) for batch_id in batch_ids]
        return {
            "batch_id": batch_ids,
            "first": [min(moments, default=None) for moments in received],
            "last": [max(moments, default=None) for moments in received],
            **_columns(_BATCH_COLUMNS, [self._batches[batch_id] for batch_id in batch_ids]),
        }

    def _add_part(self, conn: Connection, batch_id: int) -> None:
        """Add a batch's changes to one of its parts."""
        quarters = sorted(at for of_batch, at in self._quarters if of_batch == batch_id)
        received = self._received.get(batch_id, ())
        conn.execute(
            _ADD_PART,
            {
                "batch_id": batch_id,
                "slot": random.randrange(SLOTS),  # noqa: S311 any one
                "at": [None, *quarters],
                "first": min(received, default=None),
                "last": max(received, default=None),
                **_columns(PART_COLUMNS, [self._batches[batch_id], *(self._quarters[batch_id, at] for at in quarters)]),
            },
            prepare=True,
        )
        # Only now: who uses the same slot was waited for, and is counted.
        if not self._is_far(conn, batch_id, SPREAD_ABOVE):
            raise psycopg.errors.SerializationFailure("other workers have settled most of this batch meanwhile")


def _columns(names: tuple[str, ...], counters: list[Counter[str]]) -> Mapping[str, list[int]]:
    return {name: [counter[name] for counter in counters] for name in names}


def _unnested(names: tuple[str, ...]) -> str:
    return ", ".join(f"%({name})s::bigint[]" for name in names)


_IS_FAR = f"select from batch_total c where batch_id = %s and {REMAINING} > %s and not exists ({OLD_WORKERS})"

_ADD_PART = f"""
insert into batch_count_part as c (batch_id, slot, at, first_result_at, last_result_at, {", ".join(PART_COLUMNS)})
select %(batch_id)s, %(slot)s, coalesce(d.at, '-infinity'), %(first)s, %(last)s,
    {", ".join(f"d.{name}" for name in PART_COLUMNS)}
from unnest(%(at)s::timestamptz[], {_unnested(PART_COLUMNS)}) as d (at, {", ".join(PART_COLUMNS)})
order by d.at nulls first
on conflict (batch_id, slot, at) do update set
    {", ".join(f"{name} = c.{name} + excluded.{name}" for name in PART_COLUMNS)},
    first_result_at = least(c.first_result_at, excluded.first_result_at),
    last_result_at = greatest(c.last_result_at, excluded.last_result_at)
"""

# These statements contain only names that are constants of this module. All values are parameters.
_UPDATE_BATCHES = f"""
update batch_count c set {added(_BATCH_COLUMNS, "d")},
    first_result_at = least(c.first_result_at, d.first), last_result_at = greatest(c.last_result_at, d.last)
from unnest(%(batch_id)s::bigint[], %(first)s::timestamptz[], %(last)s::timestamptz[], {_unnested(_BATCH_COLUMNS)})
    as d (batch_id, first, last, {", ".join(_BATCH_COLUMNS)})
where c.batch_id = d.batch_id
returning c.batch_id, {REMAINING}
"""

_UPDATE_QUARTERS = f"""
with d as (
    select * from unnest(%(batch_id)s::bigint[], %(at)s::timestamptz[], {_unnested(RESULT_COLUMNS)})
        as d (batch_id, at, {", ".join(RESULT_COLUMNS)})
), changed as (
    update result_count c set {added(RESULT_COLUMNS, "d")} from d
    where c.batch_id = d.batch_id and c.at = d.at
    returning c.batch_id, c.at
)
insert into result_count (batch_id, at, {", ".join(RESULT_COLUMNS)})
select d.* from d where not exists (select from changed where changed.batch_id = d.batch_id and changed.at = d.at)
"""
