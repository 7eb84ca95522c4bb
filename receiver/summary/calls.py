"""Calls with what became of them: by batch, by number, and one by one.

The keys of a page are picked first, from the narrowest table that a filter allows, and only then
is everything about those calls read; so a page costs what a page holds, wherever it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CallState, Outcome, e164
from receiver.queueing.contacts import read_csv_line
from receiver.results.call_details import Event, UnreadableBody, read_call_details
from receiver.results.packing import unpack


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the CSV and what became of it."""

    batch_id: int
    row: int
    phone_number: str
    """E.164."""
    destination: str
    """The user's own spelling."""
    variables: dict[str, str]
    state: CallState
    outcome: Outcome | None
    provider_status: str | None
    attempts: int | None
    max_attempts: int | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_seconds: int | None
    events: tuple[Event, ...]
    result_received_at: datetime | None
    result_source: str | None


@dataclass(frozen=True, slots=True)
class CallFilter:
    """What a batch's calls are narrowed to; None leaves a condition out. `phone_numbers`: any of them."""

    state: CallState | None = None
    outcome: Outcome | None = None
    phone_numbers: Sequence[int] | None = None


_DETAILS = """
select c.batch_id, c.row, c.phone_number, c.line, b.columns, b.due_at < now() as past_due,
    r.outcome, r.provider_status, r.attempts, r.max_attempts, r.queued_at, r.started_at, r.ended_at,
    r.duration_seconds, r.received_at as result_received_at, r.polled,
    r.callback_id, j.content_type, j.content_encoding, j.packing, j.body,
    coalesce(o.refused, false) as refused
from picked p join call c using (batch_id, row) join batch b using (batch_id)
    left join result r using (batch_id, row)
    -- The limit keeps it one look into the index for each call: joined, all refused calls there are may be read.
    left join lateral (select o.refused from outstanding o
        where r.outcome is null and o.batch_id = c.batch_id and o.refused and o.row = c.row limit 1) o on true
    left join callback j on j.batch_id = r.batch_id and j.callback_id = r.callback_id
"""


def list_calls(conn: Connection, batch_id: int, wanted: CallFilter, limit: int, after_row: int = 0) -> list[Call]:
    """A batch's calls in the order of its rows, those after `after_row`. Raises NotFound."""
    batch = conn.execute("select due_at < now() from batch where batch_id = %s", (batch_id,)).fetchone()
    if batch is None:
        raise NotFound(f"There is no batch {batch_id}.")
    picked = _pick(wanted, past_due=batch[0])
    if picked is None:
        return []
    values = {
        "batch_id": batch_id,
        "after_row": after_row,
        "limit": limit,
        "outcome": wanted.outcome,
        "phone_numbers": list(wanted.phone_numbers or ()),
        "refused": wanted.state == "refused",
    }
    return _read(conn, f"with picked as materialized ({picked}) {_DETAILS} order by c.row", values)


def _pick(wanted: CallFilter, *, past_due: bool) -> str | None:
    """The query for a page's keys; None where nothing can match."""
    if wanted.outcome is not None and wanted.state not in (None, "final"):
        return None
    if wanted.state in ("pending", "overdue") and (wanted.state == "overdue") != past_due:
        return None
    conditions = ["k.batch_id = %(batch_id)s", "k.row > %(after_row)s"]
    if wanted.state in ("pending", "overdue", "refused"):
        table = "outstanding"
        conditions.append("k.refused = %(refused)s")
    elif wanted.state == "final" or wanted.outcome is not None:
        table = "result"
        conditions.append("k.outcome = %(outcome)s" if wanted.outcome is not None else "k.outcome is not null")
    else:
        table = "call"
    source = f"{table} k"
    if wanted.phone_numbers is not None:
        # Through the number's own index, however many calls there are.
        source = (
            "(select batch_id, row from call where phone_number = any(%(phone_numbers)s)"
            " and batch_id = %(batch_id)s offset 0) n"
            f" join {table} k on k.batch_id = n.batch_id and k.row = n.row"
        )
    return f"select k.batch_id, k.row from {source} where {' and '.join(conditions)} order by k.row limit %(limit)s"


def list_calls_of_number(
    conn: Connection, phone_numbers: Sequence[int], limit: int, after: tuple[int, int] | None = None
) -> list[Call]:
    """Calls to any of these numbers in all batches, the newest batch first; those after (batch_id, row)."""
    before_batch, after_row = after if after is not None else (2**62, 0)
    return _read(
        conn,
        "with picked as materialized (select batch_id, row from call where phone_number = any(%(numbers)s)"
        " and (batch_id < %(batch_id)s or batch_id = %(batch_id)s and row > %(row)s)"
        f" order by batch_id desc, row limit %(limit)s) {_DETAILS} order by c.batch_id desc, c.row",
        {"numbers": list(phone_numbers), "batch_id": before_batch, "row": after_row, "limit": limit},
    )


def get_call(conn: Connection, batch_id: int, row: int) -> Call:
    """One call. Raises NotFound: there is no such row, or it was skipped."""
    found = _read(
        conn,
        "with picked as (select batch_id, row from call where batch_id = %(batch_id)s and row = %(row)s)" + _DETAILS,
        {"batch_id": batch_id, "row": row},
    )
    if not found:
        raise NotFound(f"Batch {batch_id} has no call in row {row}.")
    return found[0]


def _read(conn: Connection, query: str, values: dict[str, Any]) -> list[Call]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return [_call(row) for row in cursor.execute(query, values)]


def _call(row: dict[str, Any]) -> Call:
    destination, *cells = read_csv_line(row["line"])
    has_result = row["callback_id"] is not None
    return Call(
        batch_id=row["batch_id"],
        row=row["row"],
        phone_number=e164(row["phone_number"]),
        destination=destination,
        variables=dict(zip(row["columns"], cells, strict=True)),
        state=_state(row),
        outcome=row["outcome"],
        provider_status=row["provider_status"],
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        queued_at=row["queued_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_seconds=row["duration_seconds"],
        events=_events(row) if has_result else (),
        result_received_at=row["result_received_at"],
        result_source=("poll" if row["polled"] else "callback") if has_result else None,
    )


def _state(row: dict[str, Any]) -> CallState:
    if row["outcome"] is not None:
        return "final"
    if row["refused"]:
        return "refused"
    return "overdue" if row["past_due"] else "pending"


def _events(row: dict[str, Any]) -> tuple[Event, ...]:
    # The journal keeps them; a copy in each result would be the largest thing there.
    try:
        body = unpack(row["packing"], row["body"])
        return read_call_details(body, row["content_type"], row["content_encoding"]).events
    except UnreadableBody:
        return ()
