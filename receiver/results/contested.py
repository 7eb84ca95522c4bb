"""Decides calls that already have a result, when further callbacks name them.

The steps: load what is stored, decide without I/O, write the changes. `set_aside` and `result` contain everything that
a decision needs to know about earlier callbacks. So no body is read twice, and the cost of a group does not depend on
earlier callbacks. Rows of release 1.0.0 lack this, so their bodies are read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from receiver.changes.events import Events
from receiver.database.pool import Connection
from receiver.results.bodies import read_bodies
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate, Verdict, decide
from receiver.results.not_applied import Earlier, NotApplied, delete_set_aside, list_earlier, not_applied_to
from receiver.results.reading.call_details import DETAILS, CallDetails, stored_details
from receiver.results.result_rows import NO_TIME, CallKey, replace_results
from receiver.results.stored import get_stored

READ_AGAIN_BYTES = 1 << 20
"""The most bytes of bodies that a group reads again for rows of release 1.0.0. Further rows are not compared."""

_DETAILS = ", ".join(DETAILS).replace("last_event_at", f"nullif(last_event_at, {NO_TIME})")


class _Contest(NamedTuple):
    """The data for a decision about one call: its result and, by callback id, all candidates, and the callbacks that
    were not applied before."""

    call: CallKey
    result: Candidate
    candidates: dict[int, Candidate]
    earlier: dict[int, Earlier]


def decide_again(
    conn: Connection, candidates_of: Mapping[CallKey, Sequence[Candidate]], deltas: Deltas, events: Events
) -> list[NotApplied]:
    """Decide calls again, among their new and earlier callbacks. Returns the rows of `set_aside` to write."""
    not_applied: list[NotApplied] = []
    changed: dict[CallKey, Verdict] = {}
    for contest in _load(conn, candidates_of):
        verdict = decide(list(contest.candidates.values()))
        different = _different_rows(contest, verdict)
        _count(contest, verdict.winner, different, deltas, events)
        not_applied += different
        if verdict.winner.callback_id != contest.result.callback_id:
            changed[contest.call] = verdict
    replace_results(conn, changed)
    delete_set_aside(conn, [(batch_id, verdict.winner.callback_id) for (batch_id, _), verdict in changed.items()])
    return not_applied


def _load(conn: Connection, candidates_of: Mapping[CallKey, Sequence[Candidate]]) -> list[_Contest]:
    """Lock the results of these calls, and read what is known about earlier callbacks."""
    applied = _lock_applied(conn, candidates_of)
    keys_of = {call: [each.details.result_key for each in candidates_of[call]] for call, _ in applied}
    earlier: defaultdict[CallKey, dict[int, Earlier]] = defaultdict(dict)
    for each in list_earlier(conn, keys_of):
        earlier[each.batch_id, each.row][each.callback_id] = each
    known_of = _known_candidates(conn, [each for by_id in earlier.values() for each in by_id.values()])
    contests = []
    for call, result in applied:
        candidates = {each.callback_id: each for each in (*candidates_of[call], result)}
        candidates |= {callback_id: known_of[callback_id] for callback_id in earlier[call] if callback_id in known_of}
        contests.append(_Contest(call, result, candidates, earlier[call]))
    return contests


def _different_rows(contest: _Contest, verdict: Verdict) -> list[NotApplied]:
    """The rows of callbacks that were not applied, if they differ from the stored ones."""
    different = []
    for callback_id, (state, reason) in verdict.not_applied.items():
        before = contest.earlier.get(callback_id)
        if before is None or (before.state, before.reason) != (state, reason) or before.known is None:
            different.append(not_applied_to(contest.call, contest.candidates[callback_id], state, reason))
    return different


def _count(
    contest: _Contest, winner: Candidate, different: Sequence[NotApplied], deltas: Deltas, events: Events
) -> None:
    """Count a decision in the counters of its batch. Another winner is an event if it is a result."""
    (batch_id, row), result, _, earlier = contest
    deltas.add_state(batch_id, "applied", result.polled, -1)
    deltas.add_state(batch_id, "applied", winner.polled)
    if winner.callback_id in earlier:
        deltas.add_state(batch_id, earlier[winner.callback_id].state, winner.polled, -1)
    for each in different:
        before = earlier.get(each.callback_id)
        if before is not None:
            deltas.add_state(batch_id, before.state, before.polled, -1)
        deltas.add_state(batch_id, each.state, each.polled)
    if winner.callback_id != result.callback_id:
        deltas.add_result(batch_id, result, -1)
        deltas.add_result(batch_id, winner)
        if winner.outcome is not None:
            events.add("call.result", batch_id, row)


def _lock_applied(conn: Connection, calls: Iterable[CallKey]) -> list[tuple[CallKey, Candidate]]:
    """Lock the results of these calls."""
    rows_of = defaultdict[int, list[int]](list)
    for batch_id, row in calls:
        rows_of[batch_id].append(row)
    applied = []
    for batch_id, rows in sorted(rows_of.items()):
        for row, is_complete, callback_id, received_at, polled, *stored in conn.execute(
            f"select row, last_event_at is not null, callback_id, received_at, polled, {_DETAILS}"
            " from result where batch_id = %s and row = any(%s) order by row for update",
            (batch_id, rows),
            prepare=True,
        ):
            result = Candidate(callback_id, received_at, polled, stored_details(stored))
            applied.append(((batch_id, row), result if is_complete else _completed(conn, (batch_id, row), result)))
    return applied


def _completed(conn: Connection, call: CallKey, result: Candidate) -> Candidate:
    """A result that release 1.0.0 wrote, with the time of its last event: its body is read, and the time stored."""
    details = result.details
    last_event_at = details.ended_at or details.started_at or details.queued_at  # if the body was erased
    for _, read, _ in read_bodies(get_stored(conn, [(call[0], result.callback_id)])):
        if isinstance(read, CallDetails):
            last_event_at = read.last_event_at
    conn.execute(
        f"update result set last_event_at = coalesce(%s, {NO_TIME}) where batch_id = %s and row = %s",
        (last_event_at, *call),
    )
    return result._replace(details=details._replace(last_event_at=last_event_at))


def _known_candidates(conn: Connection, earlier: Sequence[Earlier]) -> dict[int, Candidate]:
    """What is known about earlier callbacks. For rows of release 1.0.0, bodies are read, up to READ_AGAIN_BYTES."""
    known = {each.callback_id: each.known for each in earlier if each.known is not None}
    unknown = [(each.batch_id, each.callback_id) for each in earlier if each.known is None]
    for stored, read, _ in read_bodies(get_stored(conn, unknown), READ_AGAIN_BYTES) if unknown else ():
        if isinstance(read, CallDetails):
            known[stored.callback_id] = Candidate(stored.callback_id, stored.received_at, stored.polled, read)
    return known
