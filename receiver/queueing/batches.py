"""Batches in the database: written whole or not at all, and their state derived from their submissions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice

from receiver.database.locks import lock_batches
from receiver.database.pool import Connection
from receiver.errors import Fault
from receiver.queueing.contacts import ContactReader
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.submissions import Plan, PlannedCall, SkippedRow

COPY_ROWS = 20_000
"""Rows that are copied at once; what is skipped among them waits in memory for that long."""


BATCH_STATE = """case when bool_or(submission.state in ('pending', 'sending')) then 'queueing'
    when bool_and(submission.state = 'accepted') then 'queued'
    when bool_and(submission.state = 'refused') then 'refused'
    when bool_and(submission.state = 'unknown') then 'unknown'
    else 'partial' end"""
"""SQL: a batch's state, from all of its rows in `submission`."""

NOBODY_LEFT = "Nothing was sent, because all phone numbers in it were erased."
"""The error of a submission that is refused because it has no call left."""

PROVEN = """exists (select from call join result using (batch_id, row)
    where call.batch_id = s.batch_id and call.submission_no = s.submission_no)"""
"""SQL: a callback named one of the calls of submission `s`, so the provider has them."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The result that queueing a CSV would have."""

    rows: int
    valid: int
    invalid: int
    duplicates: int
    submissions: int
    due_at: datetime
    warnings: tuple[Fault, ...]
    errors: tuple[Fault, ...]
    errors_total: int


def get_now(conn: Connection) -> datetime:
    """The time of the database's clock. All machines use this clock, and `due_at` is compared with it."""
    row = conn.execute("select clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 a select without from returns one row
    now: datetime = row[0]
    return now


def plan_batch(contacts: ContactReader, parameters: BatchParameters, submission_rows: int) -> Plan:
    """The plan that `preview_batch` and `insert_batch` read through."""
    return Plan(contacts, submission_rows, parameters.on_invalid, parameters.on_duplicate)


def preview_batch(plan: Plan, due_at: datetime) -> Preview:
    """Read the whole CSV and say what would become of it. Raises InvalidInput for a file that is no CSV."""
    for _ in plan:
        pass
    return Preview(
        rows=plan.rows,
        valid=plan.rows - plan.invalid,
        invalid=plan.invalid,
        duplicates=plan.duplicates,
        submissions=len(plan.submissions),
        due_at=due_at,
        warnings=plan.contacts.warnings,
        errors=tuple(plan.faults),
        errors_total=plan.faults_total,
    )


def insert_batch(
    conn: Connection,
    plan: Plan,
    parameters: BatchParameters,
    now: datetime,
    due_at: datetime,
    *,
    simulated: bool | None = False,
) -> int:
    """Write a batch, its submissions, calls and counters; returns the batch id.

    `simulated`: it is for a simulator, and never sent to a real provider. None: its first worker decides.

    Raises InvalidInput naming rows; the caller then rolls back, and nothing was written.
    """
    row = conn.execute(
        "insert into batch (application_id, deployment_id, name, start_at, end_at, max_attempts,"
        " reattempt_wait_seconds, is_pci, default_region, columns, created_at, due_at, simulated)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning batch_id",
        (
            parameters.application_id,
            parameters.deployment_id,
            parameters.name,
            parameters.start_timestamp,
            parameters.end_timestamp,
            parameters.max_attempts,
            parameters.reattempt_wait,
            parameters.is_pci,
            parameters.default_region,
            list(plan.contacts.columns),
            now,
            due_at,
            simulated,
        ),
    ).fetchone()
    assert row is not None  # noqa: S101 an insert without conflict clause returns its row
    batch_id: int = row[0]
    skipped = _copy_rows(conn, batch_id, plan)
    plan.check()
    with conn.cursor().copy(
        "copy submission (batch_id, submission_no, calls, first_row, last_row, csv_bytes) from stdin"
    ) as copy:
        for draft in plan.submissions:
            copy.write_row(
                (batch_id, draft.submission_no, draft.calls, draft.first_row, draft.last_row, draft.csv_bytes)
            )
    conn.execute(
        "insert into outstanding (batch_id, row) select batch_id, row from call where batch_id = %s order by row",
        (batch_id,),
    )
    # The counters exist already if callbacks arrived before the batch. For example, after a backup was restored,
    # callbacks arrive for a lost batch with the same id.
    conn.execute(
        "insert into batch_count as c (batch_id, rows, skipped) values (%s, %s, %s) on conflict (batch_id)"
        " do update set rows = c.rows + excluded.rows, skipped = c.skipped + excluded.skipped",
        (batch_id, plan.rows, skipped),
    )
    return batch_id


def _copy_rows(conn: Connection, batch_id: int, plan: Plan) -> int:
    """Copy calls and skipped rows; returns how many were skipped. Stops writing, not reading, at a refusal."""
    rows = iter(plan)
    skipped_rows = 0
    for first in rows:
        skipped: list[SkippedRow] = []
        with conn.cursor().copy(
            "copy call (batch_id, phone_number, row, submission_no, line) from stdin (format binary)"
        ) as copy:
            copy.set_types(("int8", "int8", "int4", "int4", "text"))
            for planned in chain((first,), islice(rows, COPY_ROWS - 1)):
                if plan.refused:
                    continue
                if isinstance(planned, PlannedCall):
                    copy.write_row((batch_id, planned.phone_number, planned.row, planned.submission_no, planned.line))
                else:
                    skipped.append(planned)
        if skipped and not plan.refused:
            with conn.cursor().copy("copy skipped (batch_id, row, code, message, line) from stdin") as copy:
                for left_out in skipped:
                    copy.write_row((batch_id, left_out.row, left_out.code, left_out.message, left_out.line))
        skipped_rows += len(skipped)
    return skipped_rows


def find_idempotent(conn: Connection, key_id: int, idempotency_key: str) -> tuple[int, bytes] | None:
    """The batch id and the digest of an earlier request with this key."""
    row: tuple[int, bytes] | None = conn.execute(
        "select batch_id, digest from idempotency where key_id = %s and idempotency_key = %s",
        (key_id, idempotency_key),
    ).fetchone()
    return row


def insert_idempotent(conn: Connection, key_id: int, idempotency_key: str, digest: bytes, batch_id: int) -> bool:
    """Store the request. False: another request with this key was faster, and this one must be rolled back."""
    return (
        conn.execute(
            "insert into idempotency (key_id, idempotency_key, digest, batch_id) values (%s, %s, %s, %s)"
            " on conflict do nothing",
            (key_id, idempotency_key, digest, batch_id),
        ).rowcount
        == 1
    )


def refresh_state(conn: Connection, batch_ids: Iterable[int]) -> None:
    """Derive the states of batches, which are locked, from their submissions'."""
    conn.execute(
        f"""
        update batch b set state = s.state, queued_at = s.queued_at
        from (
            select batch_id,
                {BATCH_STATE} as state,
                case when not bool_or(state in ('pending', 'sending'))
                     then max(answered_at) filter (where state = 'accepted') end as queued_at
            from submission where batch_id = any(%s) group by batch_id
        ) s where b.batch_id = s.batch_id and (b.state, b.queued_at) is distinct from (s.state, s.queued_at)
        """,
        (sorted(set(batch_ids)),),
    )


def accept_proven(conn: Connection, keys: Collection[tuple[int, int]]) -> None:
    """Mark these submissions (batch_id, submission_no) accepted, because a callback contained one of their calls.

    This includes unknown ones, and pending ones that a person resolved as not queued. Locks the batches of all that
    are not accepted, so call it before anything is written about their calls (`receiver.database.locks`).
    """
    if not keys:
        return
    unaccepted = conn.execute(
        "select s.batch_id, s.submission_no from submission s"
        " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, submission_no) using (batch_id, submission_no)"
        " where s.state in ('pending', 'sending', 'unknown')",
        ([batch_id for batch_id, _ in keys], [submission_no for _, submission_no in keys]),
        prepare=True,
    ).fetchall()
    if not unaccepted:
        return
    batch_ids = [batch_id for batch_id, _ in unaccepted]
    lock_batches(conn, batch_ids)
    conn.execute(
        "update submission s set state = 'accepted', error = null, answered_at = coalesce(answered_at, now())"
        " from unnest(%s::bigint[], %s::integer[]) as g (batch_id, submission_no)"
        " where s.batch_id = g.batch_id and s.submission_no = g.submission_no"
        " and s.state in ('unknown', 'pending')",
        (batch_ids, [submission_no for _, submission_no in unaccepted]),
    )
    refresh_state(conn, batch_ids)


def refuse_calls(conn: Connection, batch_id: int, submission_no: int, *, erased_only: bool = False) -> None:
    """Count a submission's calls as refused, or those among them whose numbers were erased: none will be made."""
    refused = conn.execute(
        "update outstanding o set refused = true from submission s join call using (batch_id, submission_no)"
        " where s.batch_id = %(batch_id)s and s.submission_no = %(submission_no)s"
        " and call.row between s.first_row and s.last_row and (call.phone_number < 0 or not %(erased_only)s)"
        " and o.batch_id = call.batch_id and not o.refused and o.row = call.row",
        {"batch_id": batch_id, "submission_no": submission_no, "erased_only": erased_only},
    ).rowcount
    conn.execute("update batch_count set refused = refused + %s where batch_id = %s", (refused, batch_id))
