"""Replay: settle stored callbacks again, as if they had just been received.

It is needed when a new format of bodies can be read, or when a callback was settled wrongly. First the effects of the
callbacks are undone, and those of all other callbacks for the same calls, because they are decided together. Then all
of them are settled, in the same transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from receiver.changes.audit import record_change
from receiver.changes.counters import own_counters
from receiver.changes.events import Events
from receiver.database.arrays import columns
from receiver.database.locks import lock_batches, own_results
from receiver.database.pool import GAVE_WAY, Connection, DatabaseUnavailable
from receiver.intake.journal import ERASED_BODY
from receiver.model import CallbackState
from receiver.results.bodies import read_bodies
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate
from receiver.results.reading.call_details import DETAILS, read_call_details, stored_details
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.settlement import find_rows, settle_read
from receiver.results.stored import find_waiting, get_stored

REPLAY_CALLBACKS = 1000
"""How many callbacks are settled again in one transaction."""

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Replayed:
    """One transaction of `replay_all`: the callbacks that it settled again, and what changed."""

    callback_ids: list[int]
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one callback by a replay, or by a dry run. `row`: the call that the callback names.

    If state, reason and row stay the same, the callback is applied with another result.
    """

    callback_id: int
    batch_id: int
    state_before: CallbackState
    state_after: CallbackState
    reason_after: str | None
    row_before: int | None
    row_after: int | None

    @property
    def difference(self) -> str:
        """A description of the change if the state stays the same; otherwise empty."""
        if self.state_before != self.state_after:
            return ""
        if self.row_before != self.row_after:
            return "for another call"
        return "for another reason" if self.reason_after else "with another result"


def replay_all(
    conn: Connection,
    *,
    by: str,
    ids: Sequence[int] | None = None,
    state: str | None = None,
    dry_run: bool = False,
    suppress_statuses: Collection[str] = (),
) -> Iterator[Replayed]:
    """Settle callbacks again, by id or state, for the API, the dashboard and the command.

    `by`: for the audit trail, which gets an entry for each transaction. `suppress_statuses`: as for `settle_read`.
    Commits each transaction, or rolls it back if `dry_run`, and yields what it did. A replay that was interrupted can
    be started again. Raises DatabaseUnavailable if other processes blocked every attempt.
    """
    after = 0
    while keys := find_settled(conn, ids=ids, state=state, after=after):
        changes = _replay_with_retries(conn, keys, by, dry_run, suppress_statuses)
        after = keys[-1][1]
        yield Replayed([callback_id for _, callback_id in keys], changes)
    conn.rollback()


def _replay_with_retries(
    conn: Connection, keys: Sequence[tuple[int, int]], by: str, dry_run: bool, suppress_statuses: Collection[str]
) -> list[Change]:
    for _ in range(_TRIES):
        try:
            changes = replay(conn, keys, suppress_statuses)
            if dry_run:
                conn.rollback()
            else:
                record_change(conn, by, "replay", details={"callbacks": len(keys), "changed": len(changes)})
                conn.commit()
            return changes
        except GAVE_WAY:
            conn.rollback()  # nothing was written
    raise DatabaseUnavailable("Other processes kept changing the same calls. Start the replay again in a moment.")


def find_settled(
    conn: Connection, *, ids: Sequence[int] | None = None, state: str | None = None, after: int = 0
) -> list[tuple[int, int]]:
    """(batch_id, callback_id) of the next settled callbacks to replay, by id or state, in the order of ids.

    Erased callbacks are left out: they would become unreadable, and the results of their calls would be lost.
    """
    may_wait = state is None or state == "applied"
    if not may_wait:
        query = (
            "select batch_id, callback_id from set_aside s where state = %(state)s and callback_id > %(after)s"
            " and not polled and not exists (select from callback c where c.batch_id = s.batch_id"
            "  and c.callback_id = s.callback_id and c.body = %(erased)s)"
        )
    else:
        query = (
            "select batch_id, callback_id from callback c where callback_id > %(after)s and not polled"
            " and body <> %(erased)s"
        )
        if state == "applied":
            query += (
                " and not exists (select from set_aside s"
                " where s.batch_id = c.batch_id and s.callback_id = c.callback_id)"
            )
    if ids is not None:
        query += " and callback_id = any(%(ids)s)"
    query += " order by callback_id limit %(limit)s"
    values = {"state": state, "ids": list(ids or ()), "limit": REPLAY_CALLBACKS, "erased": ERASED_BODY}
    while found := conn.execute(query, {**values, "after": after}).fetchall():
        waiting = find_waiting(conn, [callback_id for _, callback_id in found]) if may_wait else set()
        if settled := [key for key in found if key[1] not in waiting]:
            return settled
        after = found[-1][1]
    return []


def replay(conn: Connection, keys: Sequence[tuple[int, int]], suppress_statuses: Collection[str] = ()) -> list[Change]:
    """Settle these callbacks, (batch_id, callback_id), again. The caller commits, or rolls back for a dry run.

    Returns what changed for each callback, also for the other callbacks of the same calls.
    """
    own_results(conn, {batch_id for batch_id, _ in keys})
    by_batch: defaultdict[int, set[int]] = defaultdict(set)
    for batch_id, callback_id in _replayable(conn, keys):
        by_batch[batch_id].add(callback_id)
    lock_batches(conn, by_batch)
    own_counters(conn, by_batch)
    changes: list[Change] = []
    calls: set[tuple[int, int]] = set()
    events = Events()
    for batch_id, callback_ids in sorted(by_batch.items()):
        together = _decided_together(conn, batch_id, callback_ids)
        before = _read_settled(conn, batch_id, together)
        _undo(conn, batch_id, before, events)
        stored = get_stored(conn, [(batch_id, callback_id) for callback_id in before])
        settle_read(conn, read_bodies(stored), events, suppress_statuses)
        after = _read_settled(conn, batch_id, list(before))
        changed = [(each, old, new) for each, old in sorted(before.items()) if old != (new := after[each])]
        if any(old.row is not None for _, old, _ in changed):
            _recount_times(conn, batch_id)
        changes += [
            Change(callback_id, batch_id, old.state, new.state, new.reason, old.row, new.row)
            for callback_id, old, new in changed
        ]
        calls |= {(batch_id, row) for _, *both in changed for each in both if (row := each.row_of_result) is not None}
    events.replace("call.result", sorted(calls))
    events.replace("callback.unreadable", [
        (each.batch_id, each.callback_id) for each in changes if each.state_before != each.state_after == "unreadable"
    ])  # fmt: skip
    events.write(conn)
    return changes


def _replayable(conn: Connection, keys: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The callbacks that were not erased and are not being purged since they were found."""
    return conn.execute(
        "select batch_id, callback_id from callback"
        " join unnest(%s::bigint[], %s::bigint[]) as g (batch_id, callback_id) using (batch_id, callback_id)"
        " where body <> %s and batch_id not in (select batch_id from purge)",
        (*columns(keys, list, list), ERASED_BODY),
    ).fetchall()


class _Settled(NamedTuple):
    """How a callback was settled. `result`: the details in its call's result, if it is applied."""

    state: CallbackState
    reason: str | None
    row: int | None
    polled: bool
    result: tuple[object, ...] | None = None

    @property
    def row_of_result(self) -> int | None:
        """The call whose result this is. A status that is not final is none."""
        return self.row if self.result and self.result[0] is not None else None


def _decided_together(conn: Connection, batch_id: int, callback_ids: set[int]) -> list[int]:
    """These callbacks, and all others for the same calls: those for which they were settled, and those that they name
    when they are read now."""
    together: set[int] = set()
    more = callback_ids
    while more:
        together |= more
        more = _of_same_calls(conn, batch_id, sorted(more)) - together
    return sorted(together)


def _of_same_calls(conn: Connection, batch_id: int, callback_ids: list[int]) -> set[int]:
    named = []
    for stored in get_stored(conn, [(batch_id, callback_id) for callback_id in callback_ids]):
        with suppress(UnreadableBody):
            details = read_call_details(stored.body, stored.content_type, stored.content_encoding)
            named.append((stored, details.phone_number))
    found = conn.execute(
        "with calls as (select row from result where batch_id = %(batch_id)s and callback_id = any(%(ids)s)"
        " union select row from set_aside where batch_id = %(batch_id)s and callback_id = any(%(ids)s)"
        "   and row is not null union select unnest(%(rows)s::integer[]))"
        " select callback_id from calls join result using (row) where batch_id = %(batch_id)s"
        " union select callback_id from calls join set_aside using (row) where batch_id = %(batch_id)s",
        {"batch_id": batch_id, "ids": callback_ids, "rows": list(find_rows(conn, named).values())},
    )
    return {callback_id for (callback_id,) in found}


def _read_settled(conn: Connection, batch_id: int, callback_ids: list[int]) -> dict[int, _Settled]:
    states: dict[int, _Settled] = {}
    for callback_id, row, polled, *result in conn.execute(
        "select callback_id, row, polled, outcome, provider_status, attempts, max_attempts, queued_at, started_at,"
        " ended_at, duration_seconds from result where batch_id = %s and callback_id = any(%s)",
        (batch_id, callback_ids),
    ):
        states[callback_id] = _Settled("applied", None, row, polled, tuple(result))
    for callback_id, state, reason, row, polled in conn.execute(
        "select callback_id, state, reason, row, polled from set_aside where batch_id = %s and callback_id = any(%s)",
        (batch_id, callback_ids),
    ):
        states[callback_id] = _Settled(state, reason, row, polled)
    return states


def _undo(conn: Connection, batch_id: int, states: dict[int, _Settled], events: Events) -> None:
    """Undo the effects of these callbacks: results, rows of `set_aside`, and counts."""
    deltas = Deltas()
    for settled in states.values():
        deltas.add_state(batch_id, settled.state, settled.polled, -1)
    ids = list(states)
    conn.execute("delete from set_aside where batch_id = %s and callback_id = any(%s)", (batch_id, ids))
    reopened: list[int] = []
    for row, callback_id, received_at, polled, *stored in conn.execute(
        "delete from result where batch_id = %s and callback_id = any(%s)"
        f" returning row, callback_id, received_at, polled, {', '.join(DETAILS)}",
        (batch_id, ids),
    ):
        result = Candidate(callback_id, received_at, polled, stored_details(stored))
        deltas.add_result(batch_id, result, -1)
        if result.outcome is not None:
            reopened.append(row)
    counted = conn.execute(
        "with reopened as (select call.batch_id, call.row, s.state = 'refused' as refused, s.overdue_at from call"
        "  join submission s using (batch_id, submission_no) where call.batch_id = %s and call.row = any(%s)"
        " ), inserted as (insert into outstanding (batch_id, refused, row) select batch_id, refused, row from reopened)"
        " select count(*) filter (where refused), count(*) filter (where not refused and overdue_at is not null)"
        " from reopened",
        (batch_id, reopened),
    ).fetchall()[0]
    deltas.add(batch_id, "refused", counted[0])
    deltas.add(batch_id, "overdue", counted[1])
    deltas.write(conn, events)


def _recount_times(conn: Connection, batch_id: int) -> None:
    """Recompute when the first and the last callback with a final status were received, because some may no longer
    belong to a call.

    For a duplicate that release 1.0.0 settled, the status is unknown: it counts if its call has a result.
    """
    own_counters(conn, [batch_id])
    conn.execute(
        "update batch_count set (first_result_at, last_result_at) = (select min(c.received_at), max(c.received_at)"
        " from callback c join (select callback_id from result where batch_id = %(batch_id)s and outcome is not null"
        "  union all select s.callback_id from set_aside s join result r using (batch_id, row)"
        "  where s.batch_id = %(batch_id)s and s.reason <> 'step_superseded' and r.outcome is not null"
        "  and (s.outcome is not null or s.result_key is null)"
        " ) named using (callback_id) where c.batch_id = %(batch_id)s)"
        " where batch_id = %(batch_id)s",
        {"batch_id": batch_id},
    )
