"""Deciding calls that have a result already, when further callbacks name them.

What the earlier callbacks said is stored, in `set_aside` and in the result's own row. So no body is read a second time,
and a group's cost does not depend on what came before it. Only what release 1.0.0 stored without it is read once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.model import Outcome
from receiver.results.bodies import read_bodies, read_body_of
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate, Verdict, candidate, decide
from receiver.results.not_applied import Aside, Differing, aside_of, delete_set_aside, list_differing
from receiver.results.reading.call_details import CallDetails, stored_details
from receiver.results.result_rows import NO_TIME, CallKey, count_result, replace_results
from receiver.results.stored import get_stored

READ_AGAIN_BYTES = 1 << 20
"""Most bytes of bodies set aside by release 1.0.0 that a group reads again. The others are compared another time."""


@dataclass(frozen=True, slots=True)
class _Applied:
    """The result that a call has. `known`: the time of its last event is stored."""

    batch_id: int
    row: int
    callback_id: int
    received_at: datetime
    polled: bool
    outcome: Outcome | None
    provider_status: str
    attempts: int | None
    max_attempts: int | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_seconds: int | None
    last_event_at: datetime | None
    known: bool

    @property
    def call(self) -> CallKey:
        return self.batch_id, self.row

    @property
    def candidate(self) -> Candidate:
        return candidate(self.callback_id, self.received_at, self.polled, stored_details(self))


def decide_again(
    conn: Connection,
    candidates_of: Mapping[CallKey, Sequence[Candidate]],
    details: Mapping[int, CallDetails],
    deltas: Deltas,
) -> list[Aside]:
    """Decide calls among their new callbacks and all earlier ones. Returns what is to be set aside, or otherwise.

    `details` are those of the new callbacks.
    """
    details_of = dict(details)
    applied = _complete(conn, _lock_applied(conn, list(candidates_of)))
    keys_of = {result.call: [each.result_key for each in candidates_of[result.call]] for result in applied}
    earlier: defaultdict[CallKey, dict[int, Differing]] = defaultdict(dict)
    for each in list_differing(conn, keys_of):
        earlier[each.batch_id, each.row][each.callback_id] = each
    known_of = _know(conn, [each for by_id in earlier.values() for each in by_id.values()])

    aside: list[Aside] = []
    replaced: dict[CallKey, Verdict] = {}
    for result in applied:
        call = result.call
        everything = {each.callback_id: each for each in (*candidates_of[call], result.candidate)}
        details_of[result.callback_id] = stored_details(result)
        for callback_id in earlier[call]:
            if callback_id in known_of:
                everything[callback_id], details_of[callback_id] = known_of[callback_id]
        verdict = decide(list(everything.values()))
        winner = verdict.stands
        deltas.add_state(result.batch_id, "applied", result.polled, -1)
        deltas.add_state(result.batch_id, "applied", winner.polled)
        if winner.callback_id in earlier[call]:
            deltas.add_state(result.batch_id, earlier[call][winner.callback_id].state, winner.polled, -1)
        for callback_id, (state, reason) in verdict.set_aside.items():
            before = earlier[call].get(callback_id)
            if before is not None:
                if (before.state, before.reason) == (state, reason) and before.known is not None:
                    continue
                deltas.add_state(result.batch_id, before.state, before.polled, -1)
            deltas.add_state(result.batch_id, state, everything[callback_id].polled)
            aside.append(aside_of(call, everything[callback_id], details_of[callback_id], state, reason))
        if winner.callback_id != result.callback_id:
            replaced[call] = verdict
            _count_result_before(deltas, result)
            count_result(deltas, result.batch_id, winner, details_of[winner.callback_id])
    replace_results(conn, replaced, details_of)
    delete_set_aside(conn, [(batch_id, v.stands.callback_id) for (batch_id, _), v in replaced.items()])
    return aside


def _lock_applied(conn: Connection, calls: Sequence[CallKey]) -> list[_Applied]:
    with conn.cursor(row_factory=class_row(_Applied)) as cursor:
        return cursor.execute(
            "select batch_id, row, callback_id, received_at, polled, outcome, provider_status, attempts, max_attempts,"
            f" queued_at, started_at, ended_at, duration_seconds, nullif(last_event_at, {NO_TIME}) as last_event_at,"
            " last_event_at is not null as known from result"
            " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, row) using (batch_id, row)"
            " order by batch_id, row for update of result",
            ([batch_id for batch_id, _ in calls], [row for _, row in calls]),
        ).fetchall()


def _complete(conn: Connection, applied: Sequence[_Applied]) -> list[_Applied]:
    """The results that calls have. Where release 1.0.0 wrote one, its body is read again, and the time stored."""
    return [result if result.known else _with_time(conn, result) for result in applied]


def _with_time(conn: Connection, result: _Applied) -> _Applied:
    last_event_at = result.ended_at or result.started_at or result.queued_at  # of an erased body
    for stored in get_stored(conn, [(result.batch_id, result.callback_id)]):
        if isinstance(read := read_body_of(stored), CallDetails):
            last_event_at = read.last_event_at
    conn.execute(
        f"update result set last_event_at = coalesce(%s, {NO_TIME}) where batch_id = %s and row = %s",
        (last_event_at, *result.call),
    )
    return replace(result, last_event_at=last_event_at)


def _know(conn: Connection, earlier: Sequence[Differing]) -> dict[int, tuple[Candidate, CallDetails]]:
    """What earlier callbacks said. What release 1.0.0 set aside is read, as far as it may be read again, and can be."""
    found = {each.callback_id: known for each in earlier if (known := each.known) is not None}
    unknown = [(each.batch_id, each.callback_id) for each in earlier if each.callback_id not in found]
    if unknown:
        for stored, read, _ in read_bodies(get_stored(conn, unknown), READ_AGAIN_BYTES):
            if isinstance(read, CallDetails):
                said = candidate(stored.callback_id, stored.received_at, stored.polled, read)
                found[stored.callback_id] = said, read
    return found


def _count_result_before(deltas: Deltas, result: _Applied) -> None:
    deltas.add_result(
        result.batch_id,
        result.received_at,
        result.outcome,
        result.attempts,
        result.duration_seconds,
        result.polled,
        -1,
    )
