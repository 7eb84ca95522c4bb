"""Settling: stored callbacks become their calls' results, hundreds at a time, in one transaction.

Read the bodies (`receiver.results.bodies`), find the calls by (submission, number), decide
(`receiver.results.decision`), write results, what was set aside, and counters. The common callback, the first for its
call, costs one row in `result`; only calls that have a result already are decided anew (`receiver.results.contested`).
Two workers that hold callbacks of one call meet at that row's key: the second waits, and then sees the first one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from receiver.database.arrays import bigints, integers
from receiver.database.pool import Connection
from receiver.phone_numbers.destination import candidates
from receiver.release.states import accept_proven
from receiver.results.bodies import Read, read_bodies
from receiver.results.contested import decide_again
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate, Verdict, candidate, decide
from receiver.results.not_applied import NotApplied, not_applied_to, upsert_set_aside
from receiver.results.reading.call_details import CallDetails, UnreadableBody
from receiver.results.result_rows import CallKey, count_result, insert_results
from receiver.results.stored import Stored

UNKNOWN_BATCH = "unknown_batch"
NUMBER_NOT_IN_SUBMISSION = "number_not_in_submission"
SETTLING_FAILED = "settling_failed"


def settle(conn: Connection, stored: Sequence[Stored]) -> None:
    """Settle callbacks that are settled nowhere yet. The caller commits."""
    settle_read(conn, read_bodies(stored))


def settle_read(conn: Connection, group: Sequence[Read]) -> None:
    """Settle callbacks whose bodies were read. The caller commits."""
    deltas = Deltas()
    not_applied: list[NotApplied] = []
    details: dict[int, CallDetails] = {}
    readable: list[Stored] = []
    for callback, read, _ in group:
        if isinstance(read, UnreadableBody):
            not_applied.append(
                NotApplied(callback.batch_id, callback.callback_id, "unreadable", read.code, None, callback.polled)
            )
        else:
            details[callback.callback_id] = read
            readable.append(callback)
    rows = find_rows(conn, [(callback, details[callback.callback_id].phone_number) for callback in readable])
    accept_proven(conn, {(c.batch_id, c.submission_no) for c in readable if c.callback_id in rows})
    named: defaultdict[CallKey, list[Stored]] = defaultdict(list)
    for callback in readable:
        row = rows.get(callback.callback_id)
        if row is None:
            reason = UNKNOWN_BATCH if callback.default_region is None else NUMBER_NOT_IN_SUBMISSION
            not_applied.append(
                NotApplied(callback.batch_id, callback.callback_id, "unmatched", reason, None, callback.polled)
            )
            continue
        named[callback.batch_id, row].append(callback)
        if details[callback.callback_id].outcome is not None:
            deltas.saw_result(callback.batch_id, callback.received_at)
    for unnamed in not_applied:
        deltas.add_state(unnamed.batch_id, unnamed.state, unnamed.polled)

    verdicts = {call: _decide(named[call], details) for call in sorted(named)}
    inserted = insert_results(conn, verdicts, details)
    for call in inserted:
        not_applied += _count_verdict(deltas, call, verdicts[call], named[call], details)
    contested = {call: _candidates(named[call], details) for call in verdicts if call not in inserted}
    if contested:
        not_applied += decide_again(conn, contested, details, deltas)
    _close_calls(conn, verdicts, {call: callbacks[0].submission_no for call, callbacks in named.items()}, deltas)
    upsert_set_aside(conn, not_applied)
    deltas.write(conn)


def _candidates(callbacks: Sequence[Stored], details: Mapping[int, CallDetails]) -> list[Candidate]:
    return [candidate(each.callback_id, each.received_at, each.polled, details[each.callback_id]) for each in callbacks]


def _decide(callbacks: Sequence[Stored], details: Mapping[int, CallDetails]) -> Verdict:
    """Decide among the new callbacks of a call. One that is alone, as nearly all are, spares the key to compare it."""
    if len(callbacks) > 1:
        return decide(_candidates(callbacks, details))
    (only,) = callbacks
    said = details[only.callback_id]
    return Verdict(
        Candidate(only.callback_id, only.received_at, only.polled, b"", said.outcome, said.last_event_at), {}
    )


def set_aside_unsettled(conn: Connection, stored: Sequence[Stored]) -> None:
    """File callbacks that `settle` failed on, by a fault of ours, as unreadable: kept, shown, and to be replayed."""
    deltas = Deltas()
    for callback in stored:
        deltas.add_state(callback.batch_id, "unreadable", callback.polled)
    upsert_set_aside(
        conn, [NotApplied(c.batch_id, c.callback_id, "unreadable", SETTLING_FAILED, None, c.polled) for c in stored]
    )
    deltas.write(conn)


def find_rows(conn: Connection, named: Iterable[tuple[Stored, str]]) -> dict[int, int]:
    """Callback id to the row of the call it names, for those whose number stands in their submission.

    A number may be read in several ways (a leading 1 on one side only, a country code or none): the likeliest
    is tried for all, then the others for those not found.
    """
    rows: dict[int, int] = {}
    open_ = [
        (callback, candidates(text, callback.default_region))
        for callback, text in named
        if callback.default_region is not None
    ]
    attempt = 0
    while open_ := [(c, numbers) for c, numbers in open_ if c.callback_id not in rows and len(numbers) > attempt]:
        found = conn.execute(
            "select g.callback_id, call.row from unnest(%b::bigint[], %b::bigint[], %b::integer[], %b::bigint[])"
            " as g (callback_id, batch_id, submission_no, phone_number)"
            " join call using (batch_id, submission_no, phone_number)",
            (
                bigints([callback.callback_id for callback, _ in open_]),
                bigints([callback.batch_id for callback, _ in open_]),
                integers([callback.submission_no for callback, _ in open_]),
                bigints([numbers[attempt] for _, numbers in open_]),
            ),
            prepare=True,
        )
        rows.update(found.fetchall())
        attempt += 1
    return rows


def _count_verdict(
    deltas: Deltas,
    call: CallKey,
    verdict: Verdict,
    callbacks: Sequence[Stored],
    details: Mapping[int, CallDetails],
) -> list[NotApplied]:
    """Count what a call that had no result got; returns what of it is set aside."""
    batch_id, _ = call
    deltas.add_state(batch_id, "applied", verdict.winner.polled)
    count_result(deltas, batch_id, verdict.winner, details[verdict.winner.callback_id])
    if not verdict.not_applied:
        return []
    not_applied = [
        not_applied_to(call, each, details[each.callback_id], *verdict.not_applied[each.callback_id])
        for each in _candidates(callbacks, details)
        if each.callback_id in verdict.not_applied
    ]
    for each in not_applied:
        deltas.add_state(batch_id, each.state, each.polled)
    return not_applied


def _close_calls(
    conn: Connection, verdicts: Mapping[CallKey, Verdict], submission_of: Mapping[CallKey, int], deltas: Deltas
) -> None:
    """Calls that are final now are nothing else any more: outstanding, overdue, refused or withdrawn."""
    closed = [call for call, verdict in verdicts.items() if verdict.winner.outcome is not None]
    if not closed:
        return
    for batch_id, counter, calls in conn.execute(
        _CLOSE,
        (
            bigints([batch_id for batch_id, _ in closed]),
            integers([row for _, row in closed]),
            integers([submission_of[call] for call in closed]),
        ),
        prepare=True,
    ):
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
