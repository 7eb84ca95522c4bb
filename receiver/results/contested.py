"""Deciding calls that have a result already, when further callbacks name them.

What a decision needs of the earlier callbacks is stored, in `set_aside` and in the result's own row, so that no body is
read a second time. There are two exceptions: what release 1.0.0 stored without it, and a callback that was set aside
and is applied after all, whose details nobody kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.model import Outcome
from receiver.results.bodies import read_bodies, read_body_of
from receiver.results.call_details import CallDetails, result_key_of
from receiver.results.counters import Deltas
from receiver.results.result_rows import NO_TIME, CallKey, count_result, replace_results
from receiver.results.set_aside import Aside, Differing, aside_of, delete_set_aside, list_differing
from receiver.results.standing import Candidate, Verdict, candidate, decide
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
    outcome: Outcome | None
    provider_status: str
    attempts: int | None
    duration_seconds: int | None
    polled: bool
    last_event_at: datetime | None
    known: bool
    fallback_at: datetime | None

    @property
    def call(self) -> CallKey:
        return self.batch_id, self.row

    def candidate(self, last_event_at: datetime | None) -> Candidate:
        key = result_key_of(self.provider_status, self.attempts, self.duration_seconds, last_event_at)
        return Candidate(self.callback_id, self.received_at, self.polled, key, self.outcome, last_event_at)


def decide_again(
    conn: Connection,
    candidates_of: Mapping[CallKey, Sequence[Candidate]],
    details: Mapping[int, CallDetails],
    deltas: Deltas,
) -> list[Aside]:
    """Decide calls among their new callbacks and all earlier ones. Returns what is to be set aside, or otherwise.

    `details` are those of the new callbacks.
    """
    applied = _lock_applied(conn, list(candidates_of))
    earlier: defaultdict[CallKey, dict[int, Differing]] = defaultdict(dict)
    keys_of = {result.call: [each.result_key for each in candidates_of[result.call]] for result in applied}
    for each in list_differing(conn, keys_of):
        earlier[each.batch_id, each.row][each.callback_id] = each
    stands = _candidates_of_applied(conn, applied)
    read_again = _read_again(conn, [each for by_id in earlier.values() for each in by_id.values()])

    aside: list[Aside] = []
    replaced: dict[CallKey, Verdict] = {}
    details_of = dict(details)
    for result in applied:
        call = result.call
        compared = {
            callback_id: known
            for callback_id, each in earlier[call].items()
            if (known := each.candidate or read_again.get(callback_id)) is not None
        }
        everything = {each.callback_id: each for each in (*candidates_of[call], stands[call], *compared.values())}
        verdict = _decide_readably(conn, result, everything, details_of)
        winner = verdict.stands
        deltas.add_state(result.batch_id, "applied", result.polled, -1)
        deltas.add_state(result.batch_id, "applied", winner.polled)
        if winner.callback_id in compared:
            deltas.add_state(result.batch_id, earlier[call][winner.callback_id].state, winner.polled, -1)
        for callback_id, (state, reason) in verdict.set_aside.items():
            before = earlier[call].get(callback_id)
            if before is not None:
                if (before.state, before.reason) == (state, reason) and before.result_key is not None:
                    continue
                deltas.add_state(result.batch_id, before.state, before.polled, -1)
            deltas.add_state(result.batch_id, state, everything[callback_id].polled)
            aside.append(aside_of(call, everything[callback_id], state, reason))
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
            "select batch_id, row, callback_id, received_at, outcome, provider_status, attempts, duration_seconds,"
            f" polled, nullif(last_event_at, {NO_TIME}) as last_event_at, last_event_at is not null as known,"
            " coalesce(ended_at, started_at, queued_at) as fallback_at from result"
            " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, row) using (batch_id, row)"
            " order by batch_id, row for update of result",
            ([batch_id for batch_id, _ in calls], [row for _, row in calls]),
        ).fetchall()


def _candidates_of_applied(conn: Connection, applied: Sequence[_Applied]) -> dict[CallKey, Candidate]:
    """The results that calls have. Where release 1.0.0 wrote one, its body is read again, and the time stored."""
    unknown = {(result.batch_id, result.callback_id): result for result in applied if not result.known}
    found = {result.call: result.candidate(result.last_event_at) for result in applied if result.known}
    for (batch_id, callback_id), result in unknown.items():
        last_event_at = result.fallback_at  # of an erased body
        for stored in get_stored(conn, [(batch_id, callback_id)]):
            if isinstance(read := read_body_of(stored), CallDetails):
                last_event_at = read.last_event_at
        found[result.call] = result.candidate(last_event_at)
        conn.execute(
            f"update result set last_event_at = coalesce(%s, {NO_TIME}) where batch_id = %s and row = %s",
            (last_event_at, *result.call),
        )
    return found


def _read_again(conn: Connection, earlier: Sequence[Differing]) -> dict[int, Candidate]:
    """Candidates for those that release 1.0.0 set aside, as far as their bodies may be read again, and can be."""
    keys = [(each.batch_id, each.callback_id) for each in earlier if each.result_key is None]
    if not keys:
        return {}
    return {
        stored.callback_id: candidate(stored.callback_id, stored.received_at, stored.polled, read)
        for stored, read, _ in read_bodies(get_stored(conn, keys), READ_AGAIN_BYTES)
        if isinstance(read, CallDetails)
    }


def _decide_readably(
    conn: Connection, result: _Applied, everything: dict[int, Candidate], details_of: dict[int, CallDetails]
) -> Verdict:
    """Decide, and read the details of a callback that wins although it was set aside: without them it cannot.

    It can win when a third one decides otherwise between two results, one of which has no time. An erased one cannot.
    """
    while True:
        verdict = decide(list(everything.values()))
        winner = verdict.stands.callback_id
        if winner == result.callback_id or winner in details_of:
            return verdict
        for stored in get_stored(conn, [(result.batch_id, winner)]):
            if isinstance(read := read_body_of(stored), CallDetails):
                details_of[winner] = read
        if winner not in details_of:
            del everything[winner]


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
