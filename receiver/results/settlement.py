"""Settling: stored callbacks become their calls' results, hundreds at a time, in one transaction.

Read the bodies, find the calls by (submission, number), decide (`receiver.results.standing`), write results,
what was set aside, and counters. The common callback, the first for its call, costs one row in
`result`; only calls that have a result already are read again and decided anew. Two workers that
hold callbacks of one call meet at that row's key: the second waits, and then sees the first one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import args_row, class_row

from receiver.database.arrays import bigints, booleans, integers, smallints
from receiver.database.pool import Connection
from receiver.model import CallbackState, Outcome
from receiver.queueing.batches import accept_proven
from receiver.queueing.destination import candidates
from receiver.results.call_details import CallDetails, UnreadableBody, read_call_details
from receiver.results.counters import Deltas
from receiver.results.packing import unpack
from receiver.results.set_aside import Aside, delete_set_aside, list_differing, list_repeated, upsert_set_aside
from receiver.results.standing import Candidate, Verdict, candidate, decide

UNKNOWN_BATCH = "unknown_batch"
NUMBER_NOT_IN_SUBMISSION = "number_not_in_submission"
SETTLING_FAILED = "settling_failed"

CallKey = tuple[int, int]
"""(batch_id, row)"""


class Stored(NamedTuple):
    """A callback as it lies in the journal; `default_region` is its batch's, None where that was purged."""

    batch_id: int
    callback_id: int
    submission_no: int
    received_at: datetime
    polled: bool
    content_type: str
    content_encoding: str
    packing: int
    packed_body: bytes
    default_region: str | None

    @property
    def body(self) -> bytes:
        """Byte for byte as it was received."""
        return unpack(self.packing, self.packed_body)


_STORED = """c.batch_id, c.callback_id, c.submission_no, c.received_at, c.polled, c.content_type,
    c.content_encoding, c.packing, c.body as packed_body, b.default_region"""

_CLAIM = f"""
with claimed as (
    delete from waiting where ctid = any(array(
        select ctid from waiting where callback_id >= %(floor)s order by callback_id limit %(limit)s
        for update skip locked))
    returning batch_id, callback_id
)
select {_STORED} from claimed join callback c using (batch_id, callback_id) left join batch b using (batch_id)
"""


def claim_waiting(conn: Connection, limit: int, floor: int = 0) -> list[Stored]:
    """Take up to `limit` waiting callbacks off the queue, the oldest first, until the transaction ends.

    `floor` is a callback id below which nothing is looked for: it saves walking over entries that are gone
    but not yet vacuumed.
    """
    with conn.cursor(row_factory=args_row(Stored), binary=True) as cursor:
        return cursor.execute(_CLAIM, {"limit": limit, "floor": floor}, prepare=True).fetchall()


def get_stored(conn: Connection, batch_id: int, callback_ids: Sequence[int]) -> list[Stored]:
    """Callbacks of one batch from the journal."""
    with conn.cursor(row_factory=args_row(Stored), binary=True) as cursor:
        return cursor.execute(
            f"select {_STORED} from callback c left join batch b using (batch_id)"
            " where c.batch_id = %s and c.callback_id = any(%s)",
            (batch_id, list(callback_ids)),
        ).fetchall()


def settle(conn: Connection, stored: Sequence[Stored]) -> None:
    """Settle callbacks that are settled nowhere yet. The caller commits."""
    deltas = Deltas()
    aside: list[Aside] = []
    details: dict[int, CallDetails] = {}
    for callback in stored:
        read = _read(callback)
        if isinstance(read, UnreadableBody):
            aside.append((callback.batch_id, callback.callback_id, "unreadable", read.code, None, callback.polled))
        else:
            details[callback.callback_id] = read

    readable = [callback for callback in stored if callback.callback_id in details]
    rows = find_rows(conn, [(callback, details[callback.callback_id].phone_number) for callback in readable])
    accept_proven(conn, {(c.batch_id, c.submission_no) for c in readable if c.callback_id in rows})
    candidates_of: defaultdict[CallKey, list[Candidate]] = defaultdict(list)
    for callback in readable:
        row = rows.get(callback.callback_id)
        if row is None:
            reason = UNKNOWN_BATCH if callback.default_region is None else NUMBER_NOT_IN_SUBMISSION
            aside.append((callback.batch_id, callback.callback_id, "unmatched", reason, None, callback.polled))
            continue
        candidates_of[callback.batch_id, row].append(_candidate(callback, details[callback.callback_id]))
        if details[callback.callback_id].outcome is not None:
            deltas.saw_result(callback.batch_id, callback.received_at)
    for batch_id, _, state, _, _, polled in aside:
        deltas.add_state(batch_id, state, polled)

    verdicts = {call: decide(candidates_of[call]) for call in sorted(candidates_of)}
    inserted = _insert_results(conn, verdicts, details)
    for call in inserted:
        polled_ids = {each.callback_id for each in candidates_of[call] if each.polled}
        _count_verdict(deltas, call, verdicts[call], details, aside, polled_ids)
    contested = {call: candidates_of[call] for call in verdicts if call not in inserted}
    if contested:
        aside += _decide_again(conn, contested, details, deltas)
    _close_calls(conn, verdicts, deltas)
    upsert_set_aside(conn, aside)
    deltas.write(conn)


def set_aside_unsettled(conn: Connection, stored: Sequence[Stored]) -> None:
    """File callbacks that `settle` failed on, by a fault of ours, as unreadable: kept, shown, and to be replayed."""
    deltas = Deltas()
    for callback in stored:
        deltas.add_state(callback.batch_id, "unreadable", callback.polled)
    upsert_set_aside(conn, [(c.batch_id, c.callback_id, "unreadable", SETTLING_FAILED, None, c.polled) for c in stored])
    deltas.write(conn)


def _read(callback: Stored) -> CallDetails | UnreadableBody:
    try:
        return read_call_details(callback.body, callback.content_type, callback.content_encoding)
    except UnreadableBody as unreadable:
        return unreadable


def _candidate(callback: Stored, details: CallDetails) -> Candidate:
    return candidate(callback.callback_id, callback.received_at, callback.polled, details)


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


_INSERT_RESULTS = """
insert into result (batch_id, row, callback_id, received_at, polled, outcome, provider_status, attempts, max_attempts,
    queued_at, started_at, ended_at, duration_seconds)
select * from unnest(%b::bigint[], %b::integer[], %b::bigint[], %b::timestamptz[], %b::boolean[], %b::text[],
    %b::text[], %b::smallint[], %b::smallint[], %b::timestamptz[], %b::timestamptz[], %b::timestamptz[], %b::integer[])
on conflict (batch_id, row) do {action}
returning batch_id, row
"""
_INSERT = _INSERT_RESULTS.format(action="nothing")
_REPLACE = _INSERT_RESULTS.format(
    action="""update set callback_id = excluded.callback_id, received_at = excluded.received_at,
    polled = excluded.polled, outcome = excluded.outcome, provider_status = excluded.provider_status,
    attempts = excluded.attempts, max_attempts = excluded.max_attempts, queued_at = excluded.queued_at,
    started_at = excluded.started_at, ended_at = excluded.ended_at, duration_seconds = excluded.duration_seconds"""
)


def _insert_results(
    conn: Connection,
    verdicts: Mapping[CallKey, Verdict],
    details_of: Mapping[int, CallDetails],
    statement: str = _INSERT,
) -> set[CallKey]:
    """Write what stands for calls in ascending order (so that two workers never wait for each other)."""
    if not verdicts:
        return set()
    standing = [verdict.stands for verdict in verdicts.values()]
    details = [details_of[each.callback_id] for each in standing]
    columns = (
        bigints([batch_id for batch_id, _ in verdicts]),
        integers([row for _, row in verdicts]),
        bigints([each.callback_id for each in standing]),
        [each.received_at for each in standing],
        booleans([each.polled for each in standing]),
        [each.outcome for each in details],
        [each.provider_status for each in details],
        smallints([each.attempts for each in details]),
        smallints([each.max_attempts for each in details]),
        [each.queued_at for each in details],
        [each.started_at for each in details],
        [each.ended_at for each in details],
        integers([each.duration_seconds for each in details]),
    )
    return set(conn.execute(statement, columns, prepare=True).fetchall())


def _count_verdict(
    deltas: Deltas,
    call: CallKey,
    verdict: Verdict,
    details_of: Mapping[int, CallDetails],
    aside: list[Aside],
    polled: Collection[int],
) -> None:
    batch_id, row = call
    deltas.add_state(batch_id, "applied", verdict.stands.polled)
    _count_result(deltas, batch_id, verdict.stands, details_of)
    for callback_id, (state, reason) in verdict.set_aside.items():
        deltas.add_state(batch_id, state, callback_id in polled)
        aside.append((batch_id, callback_id, state, reason, row, callback_id in polled))


def _count_result(deltas: Deltas, batch_id: int, stands: Candidate, details_of: Mapping[int, CallDetails]) -> None:
    details = details_of[stands.callback_id]
    deltas.add_result(
        batch_id, stands.received_at, details.outcome, details.attempts, details.duration_seconds, stands.polled
    )


@dataclass(frozen=True, slots=True)
class _Standing:
    batch_id: int
    row: int
    callback_id: int
    received_at: datetime
    outcome: Outcome | None
    attempts: int | None
    duration_seconds: int | None
    polled: bool


def _decide_again(
    conn: Connection,
    candidates_of: Mapping[CallKey, list[Candidate]],
    details: Mapping[int, CallDetails],
    deltas: Deltas,
) -> list[Aside]:
    """Decide calls that had a result, among all that their callbacks say. Returns what is set aside now.

    `details` are those of the new callbacks.
    """
    keys = ([batch_id for batch_id, _ in candidates_of], [row for _, row in candidates_of])
    with conn.cursor(row_factory=class_row(_Standing)) as cursor:
        standing = cursor.execute(
            "select batch_id, row, callback_id, received_at, outcome, attempts, duration_seconds, polled from result"
            " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, row) using (batch_id, row)"
            " order by batch_id, row for update of result",
            keys,
        ).fetchall()
    before: dict[CallKey, dict[int, CallbackState]] = {
        (result.batch_id, result.row): {result.callback_id: "applied"} for result in standing
    }
    for batch_id, row, callback_id, state in list_differing(conn, list(before)):
        before[batch_id, row][callback_id] = state
    journaled = _get_all(conn, [(batch_id, each) for (batch_id, _), states in before.items() for each in states])
    lost = [
        (result.batch_id, result.row)
        for result in standing
        if isinstance(_read(journaled[result.batch_id, result.callback_id]), UnreadableBody)
    ]
    repeated = list_repeated(conn, lost) if lost else []
    for batch_id, row, callback_id, state in repeated:
        before[batch_id, row][callback_id] = state
    journaled |= _get_all(conn, [(batch_id, callback_id) for batch_id, _, callback_id, _ in repeated])

    aside: list[Aside] = []
    replaced: dict[CallKey, Verdict] = {}
    details_of = dict(details)
    for result in standing:
        call = batch_id, row = result.batch_id, result.row
        everything = list(candidates_of[call])
        for callback_id in before[call]:
            read = _read(journaled[batch_id, callback_id])
            if isinstance(read, CallDetails):
                details_of[callback_id] = read
                everything.append(_candidate(journaled[batch_id, callback_id], read))
        verdict = decide(everything)
        after = dict(verdict.set_aside)
        polled = {each.callback_id for each in candidates_of[call] if each.polled}
        polled |= {callback_id for callback_id in before[call] if journaled[batch_id, callback_id].polled}
        for callback_id, state in before[call].items():
            deltas.add_state(batch_id, state, callback_id in polled, -1)
            if callback_id != verdict.stands.callback_id and callback_id not in after:
                after[callback_id] = ("unreadable", "unreadable_now")
        deltas.add_state(batch_id, "applied", verdict.stands.polled)
        for callback_id, (state, reason) in after.items():
            deltas.add_state(batch_id, state, callback_id in polled)
            aside.append((batch_id, callback_id, state, reason, row, callback_id in polled))
        if verdict.stands.callback_id != result.callback_id:
            replaced[call] = verdict
            deltas.add_result(
                batch_id,
                result.received_at,
                result.outcome,
                result.attempts,
                result.duration_seconds,
                result.polled,
                -1,
            )
            _count_result(deltas, batch_id, verdict.stands, details_of)
    _insert_results(conn, replaced, details_of, _REPLACE)
    delete_set_aside(conn, [(batch_id, v.stands.callback_id) for (batch_id, _), v in replaced.items()])
    return aside


def _get_all(conn: Connection, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Stored]:
    by_batch: defaultdict[int, list[int]] = defaultdict(list)
    for batch_id, callback_id in keys:
        by_batch[batch_id].append(callback_id)
    return {
        (batch_id, stored.callback_id): stored
        for batch_id, callback_ids in by_batch.items()
        for stored in get_stored(conn, batch_id, callback_ids)
    }


def _close_calls(conn: Connection, verdicts: Mapping[CallKey, Verdict], deltas: Deltas) -> None:
    """Calls that are final now are no longer outstanding, nor refused: the provider called after all."""
    closed = [call for call, verdict in verdicts.items() if verdict.stands.outcome is not None]
    if not closed:
        return
    for (batch_id,) in conn.execute(
        "with gone as (delete from outstanding o using unnest(%b::bigint[], %b::integer[]) as g (batch_id, row)"
        " where o.batch_id = g.batch_id and o.row = g.row and o.refused in (false, true)"
        " returning o.batch_id, o.refused) select batch_id from gone where refused",
        (bigints([batch_id for batch_id, _ in closed]), integers([row for _, row in closed])),
        prepare=True,
    ):
        deltas.add(batch_id, "refused", -1)
