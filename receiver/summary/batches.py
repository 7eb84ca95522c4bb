"""Batches with their balance, read from counters: the same cost for ten calls and for ten million."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CALLBACK_STATES, OUTCOMES, BatchState, SubmissionState


@dataclass(frozen=True, slots=True)
class Loss:
    """Results that the provider never delivered, among batches that are due: a result that had to be fetched by polling
    was not delivered. A result that is delivered after it was fetched still counts: its call was overdue by then.

    `due`: calls that should have a result. `overdue`: calls without one. `polled`: calls whose result was fetched.
    """

    due: int
    overdue: int
    polled: int

    @property
    def rate(self) -> float | None:
        """The share of results that were never delivered; None if there is no call."""
        return round((self.overdue + self.polled) / self.due, 6) if self.due else None


class Submission(NamedTuple):
    id: int
    """Its number in the batch, from 1."""
    state: SubmissionState
    calls: int
    calls_queued: int | None
    """The provider's number; it can differ from `calls`."""
    provider_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch with its balance: the equations of the balance hold for `counts` and `callbacks`."""

    id: int
    name: str
    application_id: int
    deployment_id: int
    state: BatchState
    simulated: bool
    """Whether it was made for a simulator: nobody is called."""
    parameters: dict[str, Any]
    created_at: datetime
    queued_at: datetime | None
    due_at: datetime
    submissions_json: str
    """`submissions` as the API writes them. Postgres writes this JSON: a batch of a million calls has a hundred
    submissions, and clients that wait for results read it every few seconds."""
    counts: dict[str, int]
    callbacks: dict[str, int]
    attempts: int
    duration_seconds: int
    progress: float
    """final / (rows - skipped - refused); 1.0 if there is no call."""
    first_result_at: datetime | None
    last_result_at: datetime | None
    loss_rate: float | None
    """See `Loss`; None before the batch is due."""

    @property
    def submissions(self) -> tuple[Submission, ...]:
        return tuple(Submission(**members) for members in json.loads(self.submissions_json))


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """The conditions of a list of batches; None: no condition."""

    state: str | None = None
    application_id: int | None = None
    deployment_id: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    name: str | None = None
    """Any part of the name; case is ignored."""
    running: bool | None = None
    """Whether calls are still being queued or made."""
    overdue: bool | None = None
    """Whether calls are overdue."""
    submission_state: SubmissionState | None = None
    """The state of at least one of its submissions."""
    not_sent_by: bool | None = None
    """Batches with something to send that were not made for this kind of provider (True: simulated)."""


REMAINING = "c.rows - c.skipped - c.refused - " + " - ".join(f"c.{outcome}" for outcome in OUTCOMES)
"""SQL: calls of a batch that have no final result, from its counters."""

PAST_DUE = "b.due_at < now()"
"""SQL: the calls of batch `b` that have no result are overdue."""

_SELECT = f"""
select b.batch_id, b.name, b.application_id, b.deployment_id, b.state,
    coalesce(b.simulated, false) as simulated, b.start_at, b.end_at,
    b.max_attempts, b.reattempt_wait_seconds, b.is_pci, b.created_at, b.queued_at, b.due_at,
    {PAST_DUE} as past_due,
    c.rows, c.skipped, c.refused, c.completed, c.failed, c.canceled, c.rejected, c.other,
    c.applied, c.duplicate, c.conflict, c.unmatched, c.unreadable,
    c.attempts, c.duration_seconds, c.polled, c.first_result_at, c.last_result_at,
    (select count(*) from waiting w where w.batch_id = b.batch_id and w.callback_id >= {LOW_WATER_MARK})
        as waiting{{submissions}}
from batch b join batch_count c using (batch_id)
"""

# In the same statement: a second statement would double the cost.
_SUBMISSIONS = """,
    (select json_agg(each)::text from (
        select submission_no as id, state, calls, calls_queued, provider_status, error
        from submission s where s.batch_id = b.batch_id order by submission_no
    ) as each) as submissions_json
"""


def get_batch(conn: Connection, batch_id: int, *, with_submissions: bool = True) -> Batch:
    """One batch; without its submissions the cost does not depend on their number. Raises NotFound."""
    found = _read(conn, "where b.batch_id = %s", (batch_id,), with_submissions)
    if not found:
        raise NotFound(f"Batch {batch_id} does not exist.")
    return found[0]


def get_default_region(conn: Connection, batch_id: int) -> str:
    """The country of numbers without a country code in the batch's CSV. Raises NotFound."""
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
        f"(b.state = 'queueing' or (not {PAST_DUE} and {REMAINING} > 0)) = %s": wanted.running,
        f"({PAST_DUE} and {REMAINING} > 0) = %s": wanted.overdue,
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
    counts = balance(row)
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


def balance(counters: dict[str, Any]) -> dict[str, int]:
    """The balance of a row of counters. Calls that are not skipped, refused or final are overdue if `past_due` is true
    in the row, else pending."""
    final = sum(counters[outcome] for outcome in OUTCOMES)
    remaining = counters["rows"] - counters["skipped"] - counters["refused"] - final
    return {
        "rows": counters["rows"],
        "skipped": counters["skipped"],
        "refused": counters["refused"],
        "pending": 0 if counters["past_due"] else remaining,
        "overdue": remaining if counters["past_due"] else 0,
        "final": final,
        **{outcome: counters[outcome] for outcome in OUTCOMES},
    }


def sum_balances(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The balance of several rows of counters together, as that of no row is all zeros."""
    nothing = dict.fromkeys(("rows", "skipped", "refused", *OUTCOMES, "past_due"), 0)
    balances = [balance(row) for row in (nothing, *rows)]
    return {name: sum(each[name] for each in balances) for name in balances[0]}


def list_decided(conn: Connection, batch_ids: Collection[int]) -> set[int]:
    """Those of these batches that are not `queueing`, or no longer exist: clients need not wait for them."""
    queueing = conn.execute(
        "select batch_id from batch where batch_id = any(%s) and state = 'queueing'", (list(batch_ids),), prepare=True
    ).fetchall()
    return set(batch_ids) - {batch_id for (batch_id,) in queueing}
