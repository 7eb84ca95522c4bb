"""Deciding calls that have a result already, when further callbacks name them.

Load what is known, decide without I/O, and write what that changes. What the earlier callbacks said is stored, in
`set_aside` and in the result's own row. So no body is read a second time, and a group's cost does not depend on what
came before it. Only what release 1.0.0 stored without it is read once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from receiver.database.pool import Connection
from receiver.model import Outcome
from receiver.results.bodies import read_bodies, read_body_of
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate, Verdict, candidate, decide
from receiver.results.not_applied import Differing, NotApplied, delete_set_aside, list_differing, not_applied_to
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


class _Contest(NamedTuple):
    """All that is known of a call when further callbacks name it. `details` are of each candidate, by callback id."""

    result: _Applied
    candidates: dict[int, Candidate]
    details: dict[int, CallDetails]
    earlier: dict[int, Differing]
    """Callback id to what was not applied before."""


class _Change(NamedTuple):
    """What a decision changes. `not_applied`: the rows that differ from those that are stored."""

    contest: _Contest
    verdict: Verdict
    not_applied: list[NotApplied]


def decide_again(
    conn: Connection,
    candidates_of: Mapping[CallKey, Sequence[Candidate]],
    details: Mapping[int, CallDetails],
    deltas: Deltas,
) -> list[NotApplied]:
    """Decide calls among their new callbacks and all earlier ones. Returns the rows of `set_aside` to be written.

    `details` are those of the new callbacks.
    """
    changes = [_decide(contest) for contest in _load(conn, candidates_of, details)]
    for change in changes:
        _count(change, deltas)
    _replace_results(conn, changes)
    return [each for change in changes for each in change.not_applied]


def _load(
    conn: Connection, candidates_of: Mapping[CallKey, Sequence[Candidate]], details: Mapping[int, CallDetails]
) -> list[_Contest]:
    """Lock the results of these calls, and read what earlier callbacks said."""
    applied = _complete(conn, _lock_applied(conn, list(candidates_of)))
    keys_of = {result.call: [each.result_key for each in candidates_of[result.call]] for result in applied}
    earlier: defaultdict[CallKey, dict[int, Differing]] = defaultdict(dict)
    for each in list_differing(conn, keys_of):
        earlier[each.batch_id, each.row][each.callback_id] = each
    known_of = _know(conn, [each for by_id in earlier.values() for each in by_id.values()])
    contests = []
    for result in applied:
        new = candidates_of[result.call]
        said = {each.callback_id: details[each.callback_id] for each in new}
        said[result.callback_id] = stored_details(result)
        candidates = {each.callback_id: each for each in (*new, result.candidate)}
        contest = _Contest(result, candidates, said, earlier[result.call])
        for callback_id in contest.earlier:
            if callback_id in known_of:
                contest.candidates[callback_id], contest.details[callback_id] = known_of[callback_id]
        contests.append(contest)
    return contests


def _decide(contest: _Contest) -> _Change:
    """Decide one call, and find which rows that changes. No I/O."""
    verdict = decide(list(contest.candidates.values()))
    not_applied = []
    for callback_id, (state, reason) in verdict.not_applied.items():
        before = contest.earlier.get(callback_id)
        if before is not None and (before.state, before.reason) == (state, reason) and before.known is not None:
            continue
        not_applied.append(
            not_applied_to(
                contest.result.call, contest.candidates[callback_id], contest.details[callback_id], state, reason
            )
        )
    return _Change(contest, verdict, not_applied)


def _count(change: _Change, deltas: Deltas) -> None:
    """Add what the change does to the counters of its batch."""
    (result, _, details, earlier), winner = change.contest, change.verdict.winner
    deltas.add_state(result.batch_id, "applied", result.polled, -1)
    deltas.add_state(result.batch_id, "applied", winner.polled)
    if winner.callback_id in earlier:
        deltas.add_state(result.batch_id, earlier[winner.callback_id].state, winner.polled, -1)
    for each in change.not_applied:
        before = earlier.get(each.callback_id)
        if before is not None:
            deltas.add_state(result.batch_id, before.state, before.polled, -1)
        deltas.add_state(result.batch_id, each.state, each.polled)
    if winner.callback_id != result.callback_id:
        _count_result_before(deltas, result)
        count_result(deltas, result.batch_id, winner, details[winner.callback_id])


def _replace_results(conn: Connection, changes: Sequence[_Change]) -> None:
    """Write the results of calls that have another winner than before."""
    verdicts: dict[CallKey, Verdict] = {}
    details: dict[int, CallDetails] = {}
    for (result, _, said, _), verdict, _ in changes:
        winner_id = verdict.winner.callback_id
        if winner_id != result.callback_id:
            verdicts[result.call], details[winner_id] = verdict, said[winner_id]
    replace_results(conn, verdicts, details)
    delete_set_aside(conn, [(batch_id, v.winner.callback_id) for (batch_id, _), v in verdicts.items()])


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
