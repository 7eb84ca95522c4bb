"""The counters of a batch: what a settlement adds to them, and the only code that changes them.

Changes are collected while a group is settled, and written at the end of its transaction. So the row of a busy batch is
locked only for a short time before the commit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from receiver.changes.events import REMAINING, Events
from receiver.database.pool import Connection
from receiver.model import OUTCOMES, CallbackState
from receiver.results.reading.call_details import CallDetails

COUNTED_STATES = ("applied", "duplicate", "conflict", "unmatched", "unreadable")
"""Callback states with a counter. Waiting callbacks are counted in the table `waiting`."""

QUARTER_HOUR = timedelta(minutes=15)

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
RESULT_COLUMNS = (*OUTCOMES, "attempts", "duration_seconds")

_NOT_REMAINING = ("skipped", "refused", "withdrawn", *OUTCOMES)


class Deltas:
    """What will be added to the counters of each batch, and to those of each of its quarter hours."""

    def __init__(self) -> None:
        self._batches: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._quarters: defaultdict[tuple[int, datetime], Counter[str]] = defaultdict(Counter)
        self._received: defaultdict[int, list[datetime]] = defaultdict(list)
        # The quarter hour of the latest result, and most likely of the next.
        self._from = self._to = datetime.min.replace(tzinfo=UTC)

    def add(self, batch_id: int, counter: str, number: int = 1) -> None:
        """Add `number` to one column of batch_count."""
        self._batches[batch_id][counter] += number

    def add_state(self, batch_id: int, state: CallbackState, polled: bool, number: int = 1) -> None:
        """Count a callback's state. A result that was fetched by polling is not a callback, and is not counted."""
        if not polled:
            self._batches[batch_id][state] += number

    def add_result(
        self, batch_id: int, received_at: datetime, polled: bool, details: CallDetails, sign: int = 1
    ) -> None:
        """Count a call's final result (sign 1), or undo that (-1). A status that is not final counts nothing."""
        if details.outcome is None:
            return
        if not self._from <= received_at < self._to:
            minute = received_at.minute - received_at.minute % 15
            self._from = received_at.replace(minute=minute, second=0, microsecond=0)
            self._to = self._from + QUARTER_HOUR
        counter = self._quarters[batch_id, self._from]
        counter[details.outcome] += sign
        counter["attempts"] += sign * (details.attempts or 0)
        counter["duration_seconds"] += sign * (details.duration_seconds or 0)
        if polled:
            self._batches[batch_id]["polled"] += sign

    def add_result_time(self, batch_id: int, received_at: datetime) -> None:
        """Record the time at which a callback or a fetched body with a final status was received."""
        self._received[batch_id].append(received_at)

    def write(self, conn: Connection, events: Events) -> None:
        """Add everything to the tables, once. Locks the batches' counters, in order, until the commit. A batch may end
        by it."""
        for (batch_id, _), counter in self._quarters.items():
            self._batches[batch_id].update(counter)
        batch_ids = sorted(self._batches.keys() | self._received.keys())
        if not batch_ids:
            return
        # A purged batch has no counters, but its late callbacks are counted.
        conn.execute(
            "insert into batch_count (batch_id) select * from unnest(%s::bigint[]) as b (batch_id)"
            " where not exists (select from batch_count c where c.batch_id = b.batch_id)"
            " on conflict do nothing",
            (batch_ids,),
        )
        conn.execute("select from batch_count where batch_id = any(%s) order by batch_id for update", (batch_ids,))
        received = [self._received.get(batch_id, ()) for batch_id in batch_ids]
        for batch_id, remaining in conn.execute(
            _UPDATE_BATCHES,
            {
                "batch_id": batch_ids,
                "first": [min(moments, default=None) for moments in received],
                "last": [max(moments, default=None) for moments in received],
                **_columns(_BATCH_COLUMNS, [self._batches[batch_id] for batch_id in batch_ids]),
            },
        ):
            counter = self._batches[batch_id]
            change = counter["rows"] - sum(counter[name] for name in _NOT_REMAINING)
            events.add_remaining(batch_id, change, remaining)
        # The lock on the batch also protects its quarter hours.
        quarters = sorted(key for key, counter in self._quarters.items() if any(counter.values()))
        if quarters:
            conn.execute(
                _UPDATE_QUARTERS,
                {
                    "batch_id": [batch_id for batch_id, _ in quarters],
                    "at": [at for _, at in quarters],
                    **_columns(RESULT_COLUMNS, [self._quarters[key] for key in quarters]),
                },
            )


def _columns(names: tuple[str, ...], counters: list[Counter[str]]) -> Mapping[str, list[int]]:
    return {name: [counter[name] for counter in counters] for name in names}


def _unnested(names: tuple[str, ...]) -> str:
    return ", ".join(f"%({name})s::bigint[]" for name in names)


def _added(names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} = c.{name} + d.{name}" for name in names)


# These statements contain only names that are constants of this module. All values are parameters.
_UPDATE_BATCHES = f"""
update batch_count c set {_added(_BATCH_COLUMNS)},
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
    update result_count c set {_added(RESULT_COLUMNS)} from d
    where c.batch_id = d.batch_id and c.at = d.at
    returning c.batch_id, c.at
)
insert into result_count (batch_id, at, {", ".join(RESULT_COLUMNS)})
select d.* from d where not exists (select from changed where changed.batch_id = d.batch_id and changed.at = d.at)
"""
