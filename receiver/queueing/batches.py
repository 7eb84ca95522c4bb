"""Batches in the database: written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from receiver.database.pool import Connection
from receiver.errors import Fault, InvalidInput
from receiver.queueing.header import PhoneColumn
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.submissions import Plan, PlannedCall, SkippedRow
from receiver.schedule import earliest, estimate_due_at, next_opening

PARAMETER_COLUMNS = (
    "application_id, deployment_id, name, max_attempts, is_pci, default_region, calls_per_minute, calling_days,"
    " time_zone, time_zone_column, on_invalid"
)
"""SQL: the columns of a batch that have the names of its parameters."""


class ExternalIdUsed(InvalidInput):
    """Another batch has this external id."""

    code = "external_id_used"

    def __init__(self, batch_id: int) -> None:
        fault = Fault("external_id", self.code, f"Batch {batch_id} has this external_id.")
        super().__init__("Each batch needs an external_id of its own.", [fault], batch_id=batch_id)


@dataclass(frozen=True, slots=True)
class ZoneRows:
    """How many calls have this zone, or these, joined by commas; and when something of them can be released first."""

    time_zone: str
    rows: int
    opens_at: datetime | None


RECENT_LISTED = 100
"""How many recent batches a preview lists, those with the most rows first."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The result that queueing a CSV would have."""

    rows: int
    valid: int
    invalid: int
    duplicates: int
    suppressed: int
    recent: dict[str, Any]
    """How many `rows` have a number that was queued recently; and `batches` with it, each with how many rows of ours:
    `id`, `name`, `created_at`, `rows`."""
    submissions: int
    zones: tuple[ZoneRows, ...]
    due_at: datetime
    sample: tuple[dict[str, Any], ...]
    """The first rows as read: `row`, `line`, `destination`, `variables`."""
    warnings: tuple[Fault, ...]
    errors: tuple[Fault, ...]
    errors_total: int
    columns: tuple[PhoneColumn, ...] = ()
    """For the dashboards: the columns of the file that look like phone numbers."""
    places: tuple[tuple[str, int], ...] = ()
    """For the dashboards, without calling hours: the zones of the first rows' numbers, as in `zones`, and the rows."""


def get_now(conn: Connection) -> datetime:
    """The time of the database's clock. All machines use this clock, and `due_at` is compared with it."""
    now: datetime = conn.execute("select clock_timestamp()").fetchall()[0][0]
    return now


def preview_batch(plan: Plan, grace: timedelta) -> Preview:
    """Read the complete CSV and return the result that queueing would have. Raises InvalidInput if it is not a CSV."""
    for _ in plan:
        pass
    parameters, now, calls_of = plan.parameters, plan.now, plan.calls_of
    return Preview(
        rows=plan.rows,
        valid=plan.rows - plan.invalid - plan.suppressed,
        invalid=plan.invalid,
        duplicates=plan.duplicates,
        suppressed=plan.suppressed,
        recent={
            "rows": plan.recent,
            "batches": [
                {"id": each.id, "name": each.name, "created_at": each.created_at, "rows": rows}
                for each, rows in plan.recent_batches.most_common(RECENT_LISTED)
            ],
        },
        submissions=len(plan.submissions),
        zones=list_zones(parameters, calls_of, now),
        due_at=estimate_due_at(parameters.gates, calls_of, parameters.retries, now, grace),
        sample=tuple(
            {
                "row": each.row,
                "line": each.line_no,
                "destination": each.destination,
                "variables": dict(zip(plan.contacts.columns, each.cells, strict=False)),
            }
            for each in plan.sample
        ),
        warnings=plan.contacts.warnings + warn_of_spelling(plan) + warn_of_retries(parameters, calls_of, now),
        errors=tuple(plan.faults),
        errors_total=plan.faults_total,
    )


def list_zones(
    parameters: BatchParameters, calls_of: Mapping[tuple[str, ...], int], now: datetime
) -> tuple[ZoneRows, ...]:
    """The zones of a batch with calling hours, those with the most calls first."""
    found = []
    for zones, calls in calls_of.items():
        if zones:
            span = earliest(parameters.gates, zones, now)
            found.append(ZoneRows(",".join(zones), calls, None if span is None else span.opens))
    return tuple(sorted(found, key=lambda each: (-each.rows, each.time_zone)))


def warn_of_spelling(plan: Plan) -> tuple[Fault, ...]:
    """What to know if numbers are valid, but the provider may not accept how they are written."""
    first = plan.first_unusual
    if first is None:
        return ()
    message = (
        f"Numbers with characters that the provider may not accept: {plan.unusual:,}, the first in row {first.row}."
        " The provider may leave them out. Use only digits, +, spaces, dots, hyphens and round brackets."
    )
    return (Fault(first.row, "unusual_characters", message, first.line_no),)


def warn_of_retries(
    parameters: BatchParameters, calls_of: Mapping[tuple[str, ...], int], now: datetime
) -> tuple[Fault, ...]:
    """What to know if the hours are too short for all attempts: a request ends with its day's hours."""
    if parameters.hours is None:
        return ()
    spans = [span for zones in calls_of if (span := next_opening(parameters.hours, zones, now)) is not None]
    if all(span.closes - span.opens > parameters.retries for span in spans):
        return ()
    message = "The waits between attempts are longer than a day's calling hours, so not every attempt is made."
    return (Fault("reattempt_wait", "retries_do_not_fit", message),)


def insert_batch(
    conn: Connection, plan: Plan, grace: timedelta, *, simulated: bool | None = False, created_by: str | None = None
) -> int:
    """Write a batch, its submissions, calls and counters; returns the batch id.

    `simulated`: it is for a simulator, and never sent to a real provider. None: its first worker decides.

    Raises InvalidInput naming rows, or ExternalIdUsed; the caller then rolls back, and nothing was written.
    """
    parameters = plan.parameters
    opens, closes = parameters.calling_hours or (None, None)
    columns = {
        **{name: getattr(parameters, name) for name in PARAMETER_COLUMNS.split(", ")},
        "start_at": parameters.start_timestamp,
        "end_at": parameters.end_timestamp,
        "reattempt_wait_seconds": parameters.reattempt_wait,
        "opens_minute": opens,
        "closes_minute": closes,
        "labels": Jsonb(dict(parameters.labels)),
        "columns": list(plan.contacts.columns),
        "created_at": plan.now,
        "due_at": estimate_due_at(parameters.gates, {}, parameters.retries, plan.now, grace),
        "simulated": simulated,
        "created_by": created_by,
    }
    row = conn.execute(
        f"insert into batch ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))}) returning batch_id",
        list(columns.values()),
    ).fetchall()[0]
    batch_id: int = row[0]
    set_external_id(conn, batch_id, parameters.external_id)
    skipped = _copy_rows(conn, batch_id, plan)
    plan.check()
    _copy_submissions(conn, batch_id, plan, grace)
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
    """Copy calls and skipped rows, and return the number of skipped rows. After a refusal, it only reads."""
    skipped_rows = 0
    for block in plan.blocks():
        skipped: list[SkippedRow] = []
        with conn.cursor().copy(
            "copy call (batch_id, phone_number, row, submission_no, line) from stdin (format binary)"
        ) as copy:
            copy.set_types(("int8", "int8", "int4", "int4", "text"))
            for planned in block:
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


def _copy_submissions(conn: Connection, batch_id: int, plan: Plan, grace: timedelta) -> None:
    gates, now, calls_of = plan.parameters.gates, plan.now, plan.calls_of
    opens_at = {zones: span.opens for zones in calls_of if (span := earliest(gates, zones, now)) is not None}
    with conn.cursor().copy(
        "copy submission (batch_id, submission_no, calls, first_row, last_row, csv_bytes, time_zones, next_try_at)"
        " from stdin"
    ) as copy:
        for draft in plan.submissions:
            size = (draft.calls, draft.first_row, draft.last_row, draft.csv_bytes)
            zones = list(draft.zones) if draft.zones else None
            copy.write_row((batch_id, draft.submission_no, *size, zones, opens_at.get(draft.zones, now)))
    conn.execute(
        "update batch set due_at = %s, submissions = %s where batch_id = %s",
        (estimate_due_at(gates, calls_of, plan.parameters.retries, now, grace), len(plan.submissions), batch_id),
    )


def set_external_id(conn: Connection, batch_id: int, external_id: str | None) -> None:
    """Give a batch its external id, or take it away. Raises ExternalIdUsed."""
    conn.execute(
        "delete from external_id where batch_id = %s and external_id is distinct from %s", (batch_id, external_id)
    )
    if external_id is None:
        return
    row = conn.execute(
        "with added as (insert into external_id (external_id, batch_id) values (%(external_id)s, %(batch_id)s)"
        " on conflict (external_id) do update set external_id = excluded.external_id returning batch_id)"
        " select batch_id from added",
        {"external_id": external_id, "batch_id": batch_id},
    ).fetchall()[0]
    if row[0] != batch_id:
        raise ExternalIdUsed(row[0])


def check_external_id(conn: Connection, parameters: BatchParameters) -> None:
    """Raise ExternalIdUsed if a batch has this external id."""
    row = conn.execute("select batch_id from external_id where external_id = %s", (parameters.external_id,)).fetchone()
    if row is not None:
        raise ExternalIdUsed(row[0])


def find_idempotent(conn: Connection, key_id: int, idempotency_key: str) -> tuple[int, bytes] | None:
    """The batch id and the digest of an earlier request with this key."""
    row: tuple[int, bytes] | None = conn.execute(
        "select batch_id, digest from idempotency where key_id = %s and idempotency_key = %s", (key_id, idempotency_key)
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
