"""Writing the table `result`: the callbacks that are applied to their calls."""

from __future__ import annotations

from collections.abc import Mapping

from receiver.database.arrays import bigints, booleans, integers, smallints
from receiver.database.pool import Connection
from receiver.results.counters import Deltas
from receiver.results.decision import Candidate, Verdict
from receiver.results.reading.call_details import CallDetails

CallKey = tuple[int, int]
"""(batch_id, row)"""

NO_TIME = "'0001-01-01 00:00:00+00'::timestamptz"
"""SQL: `last_event_at` of a result that has no such time. Null means that release 1.0.0 wrote the row."""

_INSERT_RESULTS = f"""
insert into result (batch_id, row, callback_id, received_at, polled, outcome, provider_status, attempts, max_attempts,
    queued_at, started_at, ended_at, duration_seconds, last_event_at)
select batch_id, row, callback_id, received_at, polled, outcome, provider_status, attempts, max_attempts,
    queued_at, started_at, ended_at, duration_seconds, coalesce(last_event_at, {NO_TIME})
from unnest(%b::bigint[], %b::integer[], %b::bigint[], %b::timestamptz[], %b::boolean[], %b::text[], %b::text[],
    %b::smallint[], %b::smallint[], %b::timestamptz[], %b::timestamptz[], %b::timestamptz[], %b::integer[],
    %b::timestamptz[]) as g (batch_id, row, callback_id, received_at, polled, outcome, provider_status, attempts,
    max_attempts, queued_at, started_at, ended_at, duration_seconds, last_event_at)
on conflict (batch_id, row) do {{action}}
returning batch_id, row
"""
_INSERT = _INSERT_RESULTS.format(action="nothing")
_REPLACE = _INSERT_RESULTS.format(
    action="""update set callback_id = excluded.callback_id, received_at = excluded.received_at,
    polled = excluded.polled, outcome = excluded.outcome, provider_status = excluded.provider_status,
    attempts = excluded.attempts, max_attempts = excluded.max_attempts, queued_at = excluded.queued_at,
    started_at = excluded.started_at, ended_at = excluded.ended_at, duration_seconds = excluded.duration_seconds,
    last_event_at = excluded.last_event_at"""
)


def insert_results(
    conn: Connection, verdicts: Mapping[CallKey, Verdict], details_of: Mapping[int, CallDetails]
) -> set[CallKey]:
    """Write the results of calls that have none yet, and return these calls.

    The calls come in ascending order, so that two workers never wait for each other.
    """
    return _write(conn, verdicts, details_of, _INSERT)


def replace_results(
    conn: Connection, verdicts: Mapping[CallKey, Verdict], details_of: Mapping[int, CallDetails]
) -> None:
    """Write other results for calls that have one, and whose rows are locked."""
    _write(conn, verdicts, details_of, _REPLACE)


def _write(
    conn: Connection, verdicts: Mapping[CallKey, Verdict], details_of: Mapping[int, CallDetails], statement: str
) -> set[CallKey]:
    if not verdicts:
        return set()
    winners = [verdict.winner for verdict in verdicts.values()]
    details = [details_of[each.callback_id] for each in winners]
    columns = (
        bigints([batch_id for batch_id, _ in verdicts]),
        integers([row for _, row in verdicts]),
        bigints([each.callback_id for each in winners]),
        [each.received_at for each in winners],
        booleans([each.polled for each in winners]),
        [each.outcome for each in details],
        [each.provider_status for each in details],
        smallints([each.attempts for each in details]),
        smallints([each.max_attempts for each in details]),
        [each.queued_at for each in details],
        [each.started_at for each in details],
        [each.ended_at for each in details],
        integers([each.duration_seconds for each in details]),
        [each.last_event_at for each in details],
    )
    return set(conn.execute(statement, columns, prepare=True).fetchall())


def count_result(deltas: Deltas, batch_id: int, stands: Candidate, details: CallDetails) -> None:
    deltas.add_result(
        batch_id, stands.received_at, details.outcome, details.attempts, details.duration_seconds, stands.polled
    )
