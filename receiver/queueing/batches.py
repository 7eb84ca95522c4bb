"""Batches in the database: written whole or not at all, and their state derived from their submissions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice

from receiver.database.pool import Connection
from receiver.errors import Fault
from receiver.queueing.contacts import ContactReader
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.submissions import Plan, PlannedCall, SkippedRow

COPY_ROWS = 20_000
"""Rows that are copied at once; what is skipped among them waits in memory for that long."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What queueing a CSV would come to."""

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
    """The time by the database's clock, which is the same for all machines and is what `due_at` is compared with."""
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
    # Counters are there already where callbacks came before the batch: after a database was restored from a
    # backup, say, for a batch of this id that was queued since and is lost.
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
    """(batch id, digest of the request) of an earlier request with this key."""
    row: tuple[int, bytes] | None = conn.execute(
        "select batch_id, digest from idempotency where key_id = %s and idempotency_key = %s",
        (key_id, idempotency_key),
    ).fetchone()
    return row


def insert_idempotent(conn: Connection, key_id: int, idempotency_key: str, digest: bytes, batch_id: int) -> bool:
    """Remember the request; False where another one with this key was first, and this one must be rolled back."""
    return (
        conn.execute(
            "insert into idempotency (key_id, idempotency_key, digest, batch_id) values (%s, %s, %s, %s)"
            " on conflict do nothing",
            (key_id, idempotency_key, digest, batch_id),
        ).rowcount
        == 1
    )
