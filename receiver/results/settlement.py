"""Settles stored callbacks: they become results of calls, hundreds in one transaction.

The steps: read the bodies (`receiver.results.bodies`); find the calls by (submission, number); decide
(`receiver.results.decision`); write results, callbacks that were not applied, and counters. The usual callback, the
first for its call, costs one row in `result`. Only calls that already have a result are decided again
(`receiver.results.contested`). If two workers settle callbacks of one call, the second waits at the key of the result,
and then sees the first one's result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from receiver.changes.audit import SYSTEM
from receiver.changes.events import Events
from receiver.database.arrays import bigints, columns, integers
from receiver.database.pool import Connection
from receiver.model import CallbackState
from receiver.phone_numbers.destination import candidates
from receiver.queueing.follow_ups import list_unreleased
from receiver.queueing.suppressions import suppress_results
from receiver.release.answered import withdraw_answered
from receiver.release.states import accept_proven
from receiver.results.bodies import Read
from receiver.results.contested import decide_again
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate, Verdict, decide
from receiver.results.not_applied import NotApplied, not_applied_to, upsert_set_aside
from receiver.results.reading.call_details import CallDetails
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.result_rows import CallKey, insert_results
from receiver.results.stored import Stored

UNKNOWN_BATCH = "unknown_batch"
NUMBER_NOT_IN_SUBMISSION = "number_not_in_submission"
SETTLING_FAILED = "settling_failed"


def settle_read(
    conn: Connection, group: Sequence[Read], events: Events, suppress_statuses: Collection[str] = ()
) -> None:
    """Settle callbacks that are not settled yet, and whose bodies were read. The caller writes the events, and commits.

    `suppress_statuses`: in lower case; a result with one of them suppresses the call's number.
    """
    deltas = Deltas()
    not_applied: list[NotApplied] = []
    readable: list[tuple[Stored, CallDetails]] = []
    for callback, read, _ in group:
        if isinstance(read, UnreadableBody):
            not_applied.append(_without_call(callback, "unreadable", read.code))
        else:
            readable.append((callback, read))
    rows = find_rows(conn, [(callback, details.phone_number) for callback, details in readable])
    named: defaultdict[CallKey, list[Candidate]] = defaultdict(list)
    submission_of: dict[CallKey, int] = {}
    for callback, details in readable:
        row = rows.get(callback.callback_id)
        if row is None:
            reason = UNKNOWN_BATCH if callback.default_region is None else NUMBER_NOT_IN_SUBMISSION
            not_applied.append(_without_call(callback, "unmatched", reason))
            continue
        call = callback.batch_id, row
        named[call].append(Candidate(callback.callback_id, callback.received_at, callback.polled, details))
        submission_of[call] = callback.submission_no
        if details.outcome is not None:
            deltas.add_result_time(callback.batch_id, callback.received_at)
    follow_ups = _list_follow_ups(conn, named)
    proven = {(batch_id, submission_no) for (batch_id, _), submission_no in submission_of.items()}
    for batch_id, calls in accept_proven(conn, proven, events, follow_ups).items():
        deltas.add(batch_id, "withdrawn", -calls)
    verdicts = {call: decide(named[call]) for call in sorted(named)}
    inserted = insert_results(conn, verdicts)
    for call in inserted:
        winner, others = verdicts[call]
        deltas.add_state(call[0], "applied", winner.polled)
        deltas.add_result(call[0], winner)
        if winner.outcome is not None:
            events.add("call.result", *call)
        not_applied += [
            not_applied_to(call, each, *others[each.callback_id]) for each in named[call] if each.callback_id in others
        ]
    for each in not_applied:
        deltas.add_state(each.batch_id, each.state, each.polled)
        if each.state == "unreadable":
            events.add("callback.unreadable", each.batch_id, each.callback_id)
    if contested := {call: named[call] for call in verdicts if call not in inserted}:
        not_applied += decide_again(conn, contested, deltas, events)
    _close_calls(conn, verdicts, submission_of, deltas)
    upsert_set_aside(conn, not_applied)
    for batch_id, follow_up_rows in follow_ups.items():
        # None if the follow-up was released or purged meanwhile.
        if withdrawn := withdraw_answered(conn, batch_id, follow_up_rows, events):
            deltas.add(batch_id, "withdrawn", withdrawn)
    deltas.write(conn, events)
    if suppress_statuses:
        _suppress(conn, named, suppress_statuses)


def _list_follow_ups(conn: Connection, named: Mapping[CallKey, Sequence[Candidate]]) -> Mapping[int, Sequence[int]]:
    """The unreleased follow-ups, by batch, of calls that can become completed now."""
    answered = [call for call, found in named.items() if any(each.outcome == "completed" for each in found)]
    unreleased: defaultdict[int, list[int]] = defaultdict(list)
    for batch_id, row in list_unreleased(conn, answered) if answered else ():
        unreleased[batch_id].append(row)
    return unreleased


def _suppress(conn: Connection, named: Mapping[CallKey, Sequence[Candidate]], statuses: Collection[str]) -> None:
    """Suppress the numbers of calls whose result, one of these callbacks, has one of the statuses.

    A simulated result says nothing about its number, which can be a real one.
    """
    said = {
        (*call, each.callback_id): each.details.provider_status
        for call, found in named.items()
        for each in found
        if each.outcome is not None and each.details.provider_status.lower() in statuses
    }
    if not said:
        return
    results = conn.execute(
        "select r.batch_id, r.row, r.callback_id, c.phone_number"
        " from unnest(%b::bigint[], %b::integer[], %b::bigint[]) as g (batch_id, row, callback_id)"
        " join result r using (batch_id, row, callback_id) join call c using (batch_id, row)"
        " join batch b using (batch_id) where c.phone_number > 0 and b.simulated is not true",
        columns(said, bigints, integers, bigints),
    ).fetchall()
    if results:
        by_number = {number: (said[batch_id, row, id_], batch_id) for batch_id, row, id_, number in results}
        suppress_results(conn, by_number, SYSTEM)


def _without_call(callback: Stored, state: CallbackState, reason: str) -> NotApplied:
    return NotApplied(callback.batch_id, callback.callback_id, state, reason, callback.polled)


def set_aside_unsettled(conn: Connection, stored: Sequence[Stored]) -> None:
    """Mark callbacks on which `settle_read` failed as unreadable. The fault is ours, so they can be replayed later."""
    deltas, events = Deltas(), Events()
    for callback in stored:
        deltas.add_state(callback.batch_id, "unreadable", callback.polled)
        events.add("callback.unreadable", callback.batch_id, callback.callback_id)
    upsert_set_aside(conn, [_without_call(callback, "unreadable", SETTLING_FAILED) for callback in stored])
    deltas.write(conn, events)
    events.write(conn)


def find_rows(conn: Connection, named: Iterable[tuple[Stored, str]]) -> dict[int, int]:
    """Find the calls of callbacks: callback id to row, for those whose number is in their submission.

    A number can be read in several ways (with or without a leading 1 or a country code). The most likely reading is
    tried for all callbacks, then the others for those that were not found.
    """
    rows: dict[int, int] = {}
    unknown = [
        (callback, candidates(text, callback.default_region))
        for callback, text in named
        if callback.default_region is not None
    ]
    attempt = 0
    while unknown := [(c, numbers) for c, numbers in unknown if c.callback_id not in rows and len(numbers) > attempt]:
        wanted = [(c.callback_id, c.batch_id, c.submission_no, numbers[attempt]) for c, numbers in unknown]
        found = conn.execute(
            "select g.callback_id, call.row from unnest(%b::bigint[], %b::bigint[], %b::integer[], %b::bigint[])"
            " as g (callback_id, batch_id, submission_no, phone_number)"
            " join call using (batch_id, submission_no, phone_number)",
            columns(wanted, bigints, bigints, integers, bigints),
            prepare=True,
        )
        rows.update(found.fetchall())
        attempt += 1
    return rows


def _close_calls(
    conn: Connection, verdicts: Mapping[CallKey, Verdict], submission_of: Mapping[CallKey, int], deltas: Deltas
) -> None:
    """Final calls are no longer outstanding, overdue, refused or withdrawn."""
    closed = [(*call, submission_of[call]) for call, (winner, _) in verdicts.items() if winner.outcome is not None]
    if closed:
        given = columns(closed, bigints, integers, integers)
        for batch_id, counter, calls in conn.execute(_CLOSE, given, prepare=True):
            deltas.add(batch_id, counter, -calls)


_CLOSE = """
with closed as materialized (
    select * from unnest(%b::bigint[], %b::integer[], %b::integer[]) as g (batch_id, row, submission_no)
), gone as (
    delete from outstanding o using closed g
    where o.batch_id = g.batch_id and o.row = g.row and o.refused in (false, true)
    returning o.batch_id, o.refused, g.submission_no
), back as (
    delete from withdrawn w using closed g where w.batch_id = g.batch_id and w.row = g.row returning w.batch_id
)
select batch_id, 'refused', count(*) from gone where refused group by batch_id
union all
select s.batch_id, 'overdue', count(*) from gone join submission s using (batch_id, submission_no)
where not refused and s.overdue_at is not null group by s.batch_id
union all
select batch_id, 'withdrawn', count(*) from back group by batch_id
"""
