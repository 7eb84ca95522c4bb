"""The balance of each batch, read from its counters: the same cost for ten calls and for ten million."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CALLBACK_STATES, OUTCOMES, BatchState, SubmissionState
from receiver.summary.delivery_loss import Loss


class Submission(NamedTuple):
    id: int
    """Its number in the batch, from 1."""
    state: SubmissionState
    calls: int
    calls_queued: int | None
    """What the provider said; it can differ from `calls`."""
    provider_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch with its balance. `counts` and `callbacks` obey the equations of the balance."""

    id: int
    name: str
    application_id: int
    deployment_id: int
    state: BatchState
    simulated: bool
    """Whether it is for a simulator: nobody is called."""
    parameters: dict[str, Any]
    created_at: datetime
    queued_at: datetime | None
    due_at: datetime
    submissions_json: str
    """`submissions` as the API writes them. A batch of a million calls has a hundred, and whoever waits for its results
    asks every few seconds: Postgres writes them, instead of Python reading, converting and writing them again."""
    counts: dict[str, int]
    callbacks: dict[str, int]
    attempts: int
    duration_seconds: int
    progress: float
    """final / (rows - skipped - refused); 1.0 where there was nobody to call."""
    first_result_at: datetime | None
    last_result_at: datetime | None
    loss_rate: float | None
    """Share of its results that were never delivered; None before it is due, and where there was nobody to call."""

    @property
    def submissions(self) -> tuple[Submission, ...]:
        return tuple(Submission(**members) for members in json.loads(self.submissions_json))


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """What a list of batches is narrowed to; None leaves a condition out."""

    state: str | None = None
    application_id: int | None = None
    deployment_id: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    name: str | None = None
    """Any part of the name, case aside."""
    running: bool | None = None
    """Whether calls are still being queued or made."""
    overdue: bool | None = None
    """Whether calls are overdue."""
    submission_state: SubmissionState | None = None
    """The state of at least one of its submissions."""
    not_sent_by: bool | None = None
    """Batches with something to send that this kind of provider, simulated or not, does not get: the other kind's."""


REMAINING = "c.rows - c.skipped - c.refused - " + " - ".join(f"c.{outcome}" for outcome in OUTCOMES)
"""SQL: calls of a batch that have no final result, from its counters."""


_SELECT = f"""
select b.batch_id, b.name, b.application_id, b.deployment_id, b.state,
    coalesce(b.simulated, false) as simulated, b.start_at, b.end_at,
    b.max_attempts, b.reattempt_wait_seconds, b.is_pci, b.created_at, b.queued_at, b.due_at,
    b.due_at < now() as past_due,
    c.rows, c.skipped, c.refused, c.completed, c.failed, c.canceled, c.rejected, c.other,
    c.applied, c.duplicate, c.conflict, c.unmatched, c.unreadable,
    c.attempts, c.duration_seconds, c.polled, c.first_result_at, c.last_result_at,
    (select count(*) from waiting w where w.batch_id = b.batch_id and w.callback_id >= {LOW_WATER_MARK})
        as waiting{{submissions}}
from batch b join batch_count c using (batch_id)
"""

# In the same statement: another one would cost as much again.
_SUBMISSIONS = """,
    (select json_agg(each)::text from (
        select submission_no as id, state, calls, calls_queued, provider_status, error
        from submission s where s.batch_id = b.batch_id order by submission_no
    ) as each) as submissions_json
"""


def get_batch(conn: Connection, batch_id: int, *, with_submissions: bool = True) -> Batch:
    """One batch; without its submissions it costs the same however many those are. Raises NotFound."""
    found = _read(conn, "where b.batch_id = %s", (batch_id,), with_submissions)
    if not found:
        raise NotFound(f"Batch {batch_id} does not exist.")
    return found[0]


def get_default_region(conn: Connection, batch_id: int) -> str:
    """The country of a number that the batch's CSV wrote without one. Raises NotFound."""
    row = conn.execute("select default_region from batch where batch_id = %s", (batch_id,)).fetchone()
    if row is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    region: str = row[0]
    return region


def list_batches(
    conn: Connection, wanted: BatchFilter, limit: int, before: int | None = None, *, with_submissions: bool = True
) -> list[Batch]:
    """Batches, newest first, with ids below `before`."""
    conditions: dict[str, Any] = {
        "b.batch_id < %s": before,
        "b.state = %s": wanted.state,
        "b.application_id = %s": wanted.application_id,
        "b.deployment_id = %s": wanted.deployment_id,
        "b.created_at >= %s": wanted.created_from,
        "b.created_at < %s": wanted.created_to,
        "position(lower(%s) in lower(b.name)) > 0": wanted.name,
        f"(b.state = 'queueing' or (b.due_at >= now() and {REMAINING} > 0)) = %s": wanted.running,
        f"(b.due_at < now() and {REMAINING} > 0) = %s": wanted.overdue,
        "exists (select from submission s where s.batch_id = b.batch_id and s.state = %s)": wanted.submission_state,
        "b.simulated <> %s and exists (select from submission s"
        " where s.batch_id = b.batch_id and s.state = 'pending')": wanted.not_sent_by,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    where = "where " + " and ".join(given) if given else ""
    condition = f"{where} order by b.batch_id desc limit %s"
    return _read(conn, condition, (*given.values(), limit), with_submissions)


def _read(conn: Connection, condition: str, parameters: Sequence[Any], with_submissions: bool) -> list[Batch]:
    query = _SELECT.format(submissions=_SUBMISSIONS if with_submissions else "") + condition
    with conn.cursor(row_factory=dict_row) as cursor:
        return [_batch(row) for row in cursor.execute(query, parameters)]


def _batch(row: dict[str, Any]) -> Batch:
    callbacks: dict[str, int] = {state: row[state] for state in CALLBACK_STATES}
    counts = balance(row, row["past_due"])
    callable_rows = counts["rows"] - counts["skipped"] - counts["refused"]
    return Batch(
        id=row["batch_id"],
        name=row["name"],
        application_id=row["application_id"],
        deployment_id=row["deployment_id"],
        state=row["state"],
        simulated=row["simulated"],
        parameters={
            "start_timestamp": row["start_at"],
            "end_timestamp": row["end_at"],
            "max_attempts": row["max_attempts"],
            "reattempt_wait": row["reattempt_wait_seconds"],
            "is_pci": row["is_pci"],
        },
        created_at=row["created_at"],
        queued_at=row["queued_at"],
        due_at=row["due_at"],
        submissions_json=row.get("submissions_json") or "[]",
        counts=counts,
        callbacks={"received": sum(callbacks.values()), **callbacks},
        attempts=row["attempts"],
        duration_seconds=row["duration_seconds"],
        progress=round(counts["final"] / callable_rows, 4) if callable_rows else 1.0,
        first_result_at=row["first_result_at"],
        last_result_at=row["last_result_at"],
        loss_rate=Loss(callable_rows, counts["overdue"], row["polled"]).rate if row["past_due"] else None,
    )


def balance(counted: dict[str, Any], past_due: bool) -> dict[str, int]:
    """The counts of a batch from its counters: what is neither left out nor final is pending, or overdue."""
    final = sum(counted[outcome] for outcome in OUTCOMES)
    remaining = counted["rows"] - counted["skipped"] - counted["refused"] - final
    return {
        "rows": counted["rows"],
        "skipped": counted["skipped"],
        "refused": counted["refused"],
        "pending": 0 if past_due else remaining,
        "overdue": remaining if past_due else 0,
        "final": final,
        **{outcome: counted[outcome] for outcome in OUTCOMES},
    }


def list_decided(conn: Connection, batch_ids: Collection[int]) -> set[int]:
    """Those of these batches that are not `queueing`, or no longer there: nobody needs to wait for them."""
    queueing = conn.execute(
        "select batch_id from batch where batch_id = any(%s) and state = 'queueing'", (list(batch_ids),), prepare=True
    ).fetchall()
    return set(batch_ids) - {batch_id for (batch_id,) in queueing}
