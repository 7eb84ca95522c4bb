"""Calls with their results: the calls of a batch, the calls to a number, and single calls.

First the keys of a page are selected, from the smallest table that the filter allows. Then all data of these calls is
read. So the cost of a page depends on its size, not on its position.

A row of a CSV may have a megabyte, and a callback 64 KiB. So the size of a page is also limited in bytes. The events of
a call are in the body of its callback, which can take 20 ms to parse: `Call.read_events` parses it when the events are
needed, after the connection was returned to the pool.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.intake.packing import unpack
from receiver.model import CallState, Outcome, e164
from receiver.results.reading.call_details import read_call_events
from receiver.results.reading.call_events import Event
from receiver.results.reading.unreadable import UnreadableBody
from receiver.summary.batches import balance
from receiver.text.csv_line import read_csv_line

PAGE_BYTES = 1 << 20
"""A page ends after the call that reaches this many stored bytes: rows, column names and callbacks."""

SEARCHED_CALLS = 500_000
"""How many calls a search for the last digits of a number reads. This takes well under a second."""

SMALL_BODY = 512
"""A body of this many packed bytes is parsed in well under a millisecond. Usual bodies have 200."""


class Events(NamedTuple):
    """The first events of a call in the provider's order, and their total number."""

    first: tuple[Event, ...]
    total: int


@dataclass(frozen=True, slots=True)
class ResultBody:
    """The stored callback with a call's result. Events are read from it: copies of them would be larger than everything
    else in a result."""

    packing: int
    packed: bytes
    content_type: str
    content_encoding: str


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the CSV with its state and result."""

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
    result_received_at: datetime | None
    result_source: str | None
    withdrawn_reason: str | None
    """Why it was not sent, if it is withdrawn: `canceled`, `suppressed` or `answered`."""
    follows: dict[str, int] | None
    """`batch_id` and `row` of the call that it follows up."""
    followed_by: dict[str, int] | None
    result_body: ResultBody | None
    """The body of the result, or of the latest step before it. None: there is neither, or it was not requested."""

    def read_events(self, most: int | None = None) -> Events:
        """The first `most` events (None: all), parsed from the callback. After a large body, other threads may run."""
        stored = self.result_body
        if stored is None:
            return Events((), 0)
        try:
            body = unpack(stored.packing, stored.packed)
            events = read_call_events(body, stored.content_type, stored.content_encoding, most=most)
        except UnreadableBody:
            return Events((), 0)
        finally:
            if len(stored.packed) > SMALL_BODY:
                time.sleep(0)
        return Events(*events)


@dataclass(frozen=True, slots=True)
class CallFilter:
    """The conditions of a list of calls; None: no condition. `phone_numbers`: any of them."""

    state: CallState | None = None
    outcome: Outcome | None = None
    phone_numbers: Sequence[int] | None = None


class CallPage(NamedTuple):
    """Calls in the order of their list, and whether more follow: beyond the limit, or beyond PAGE_BYTES."""

    calls: list[Call]
    more: bool


_DETAILS = """
select c.batch_id, c.row, c.phone_number, c.line, b.columns, s.overdue_at is not null as is_overdue,
    coalesce(w.reason, case when s.state = 'withdrawn' then 'canceled' end) as withdrawn_reason,
    r.outcome, r.provider_status, r.attempts, r.max_attempts, r.queued_at, r.started_at, r.ended_at,
    r.duration_seconds, r.received_at as result_received_at, r.polled,
    r.callback_id, {body}
    coalesce(o.refused, false) as refused, e.batch_id as follows_batch_id, e.row as follows_row,
    f.next_batch_id as followed_by_batch_id, f.next_row as followed_by_row,
    sum(octet_length(c.line) + octet_length(array_to_string(b.columns, '')){body_bytes})
        over (order by c.batch_id desc, c.row rows between unbounded preceding and 1 preceding) as bytes_before
from picked p join call c using (batch_id, row) join batch b using (batch_id)
    join submission s using (batch_id, submission_no)
    left join result r using (batch_id, row)
    -- With the limit, the index is read once for each call. A plain join might read all refused calls there are.
    left join lateral (select o.refused from outstanding o
        where r.outcome is null and o.batch_id = c.batch_id and o.refused and o.row = c.row limit 1) o on true
    left join lateral (select * from follow_up f where f.batch_id = c.batch_id and f.row = c.row limit 1) f on true
    left join lateral (select * from follow_up e
        where e.next_batch_id = c.batch_id and e.next_row = c.row limit 1) e on true
    left join lateral (select w.reason from withdrawn w
        where r.outcome is null and w.batch_id = c.batch_id and w.row = c.row limit 1) w on true
{join}
"""

_WITH_BODY = {
    "body": "j.content_type, j.content_encoding, j.packing, j.body,",
    "body_bytes": " + coalesce(octet_length(j.body), 0)",
    "join": "left join callback j on j.batch_id = r.batch_id and j.callback_id = r.callback_id",
}
_WITHOUT_BODY = {"body": "", "body_bytes": "", "join": ""}


def list_calls(
    conn: Connection,
    batch_id: int,
    wanted: CallFilter,
    limit: int,
    after_row: int = 0,
    *,
    with_events: bool = True,
) -> CallPage:
    """A batch's calls in the order of its rows, those after `after_row`. Raises NotFound."""
    with conn.cursor(row_factory=dict_row) as cursor:
        counted = cursor.execute(
            "select * from batch_total join batch using (batch_id) where batch_id = %s", (batch_id,)
        ).fetchone()
    if counted is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    picked = _pick(wanted, balance(counted))
    if picked is None:
        return CallPage([], False)
    values = {
        "batch_id": batch_id,
        "after_row": after_row,
        "outcome": wanted.outcome,
        "phone_numbers": list(wanted.phone_numbers or ()),
        "refused": wanted.state == "refused",
    }
    return _read_page(conn, picked, values, limit, with_events=with_events)


def _pick(wanted: CallFilter, counts: Mapping[str, int]) -> str | None:
    """The query for a page's keys; None where nothing can match. `counts`: the batch's balance."""
    state = wanted.state
    if wanted.outcome is not None and state not in (None, "final"):
        return None
    if state is not None and counts[state] == 0:
        return None
    conditions = ["k.batch_id = %(batch_id)s", "k.row > %(after_row)s"]
    join = ""
    if state in ("pending", "overdue", "refused"):
        table = "outstanding"
        conditions.append("k.refused = %(refused)s")
        if state != "refused" and sum(counts[each] > 0 for each in ("pending", "overdue", "withdrawn")) > 1:
            join = " join call c using (batch_id, row) join submission s using (batch_id, submission_no)"
            is_overdue = "s.overdue_at is not null" if state == "overdue" else "s.overdue_at is null"
            conditions.append(f"{is_overdue} and s.state <> 'withdrawn'")
    elif state == "final" or wanted.outcome is not None:
        table = "result"
        conditions.append("k.outcome = %(outcome)s" if wanted.outcome is not None else "k.outcome is not null")
    else:
        table = "call"
        if state == "withdrawn":
            join = " join submission s using (batch_id, submission_no)"
            conditions.append(_WITHDRAWN)
    source = f"{table} k"
    if wanted.phone_numbers is not None:
        # `offset 0` makes Postgres use the index on the number, however many calls there are.
        source = (
            "(select batch_id, row from call where phone_number = any(%(phone_numbers)s)"
            f" and batch_id = %(batch_id)s offset 0) n join {source} using (batch_id, row)"
        )
    where = " and ".join(conditions)
    return f"select k.batch_id, k.row from {source}{join} where {where} order by k.row limit %(limit)s"


_WITHDRAWN = """(exists (select from withdrawn w where w.batch_id = k.batch_id and w.row = k.row)
    or s.state = 'withdrawn' and exists (select from outstanding o
        where o.batch_id = k.batch_id and not o.refused and o.row = k.row))"""


def list_calls_of_number(
    conn: Connection, phone_numbers: Sequence[int], limit: int, after: tuple[int, int] | None = None
) -> CallPage:
    """Calls to any of these numbers in all batches, the newest batch first, after the key (batch_id, row)."""
    before_batch, after_row = after if after is not None else (2**62, 0)
    picked = (
        "select batch_id, row from call where phone_number = any(%(numbers)s)"
        " and (batch_id < %(batch_id)s or batch_id = %(batch_id)s and row > %(row)s)"
        " order by batch_id desc, row limit %(limit)s"
    )
    values = {"numbers": list(phone_numbers), "batch_id": before_batch, "row": after_row}
    return _read_page(conn, picked, values, limit, with_events=True)


def list_calls_ending_in(
    conn: Connection, last_four: int, limit: int, after: tuple[int, int] | None = None
) -> tuple[list[Call], tuple[int, int] | None]:
    """Calls whose number ends in these four digits, the newest batch first, after the key (batch_id, row).

    No index has the last digits, so only batches of about `SEARCHED_CALLS` calls are searched. Returns the calls, and
    the key after which the search can continue; None: all batches were searched.
    """
    before_batch, after_row = after if after is not None else (2**62, 0)
    newest = (
        "select batch_id, sum(rows) over (order by batch_id desc) - rows as newer from batch_count where batch_id <= %s"
    )
    oldest, is_last = conn.execute(
        f"select coalesce(min(batch_id) filter (where newer < %s), 0), coalesce(max(newer), 0) < %s from ({newest}) n",
        (SEARCHED_CALLS, SEARCHED_CALLS, before_batch),
    ).fetchall()[0]
    picked = (
        "select batch_id, row from call where batch_id between %(oldest)s and %(batch_id)s"
        " and (batch_id < %(batch_id)s or row > %(row)s) and phone_number > 0"
        " and phone_number %% 10000 = %(last_four)s order by batch_id desc, row limit %(limit)s"
    )
    values = {"oldest": oldest, "batch_id": before_batch, "row": after_row, "last_four": last_four}
    found, more = _read_page(conn, picked, values, limit, with_events=False)
    if more:
        return found, (found[-1].batch_id, found[-1].row)
    return found, None if is_last else (oldest - 1, 0)


def get_call(conn: Connection, batch_id: int, row: int) -> Call:
    """One call. Raises NotFound: there is no such row, or it was skipped."""
    picked = "select batch_id, row from call where batch_id = %(batch_id)s and row = %(row)s limit %(limit)s"
    found = _read_page(conn, picked, {"batch_id": batch_id, "row": row}, 1, with_events=True)
    if not found.calls:
        raise NotFound(f"Batch {batch_id} has no call in row {row}.")
    return found.calls[0]


def _read_page(conn: Connection, picked: str, values: dict[str, Any], limit: int, *, with_events: bool) -> CallPage:
    """Up to `limit` calls whose keys the query picks. It picks one more, which shows whether more follow."""
    details = _DETAILS.format(**_WITH_BODY if with_events else _WITHOUT_BODY)
    query = f"""
        with picked as materialized ({picked})
        select *, (select count(*) from picked) as picked from ({details}) detailed
        where coalesce(bytes_before, 0) < {PAGE_BYTES} order by batch_id desc, row limit %(limit)s - 1
    """
    with conn.cursor(row_factory=dict_row, binary=True) as cursor:
        rows = cursor.execute(query, {**values, "limit": limit + 1}).fetchall()
    return CallPage([_call(row, with_events=with_events) for row in rows], bool(rows) and rows[0]["picked"] > len(rows))


def _call(row: dict[str, Any], *, with_events: bool) -> Call:
    destination, *cells = read_csv_line(row["line"])
    has_ended = row["outcome"] is not None  # a step before the end is no result
    # The callback may have been purged since it was listed; then there is no body.
    has_body = with_events and row["body"] is not None
    body = ResultBody(row["packing"], row["body"], row["content_type"], row["content_encoding"]) if has_body else None
    made: dict[str, Any] = {
        "phone_number": e164(row["phone_number"]),
        "destination": destination,
        "variables": dict(zip(row["columns"], cells, strict=True)),
        "state": _state(row),
        "result_received_at": row["result_received_at"] if has_ended else None,
        "result_source": ("poll" if row["polled"] else "callback") if has_ended else None,
        "withdrawn_reason": row["withdrawn_reason"] if _state(row) == "withdrawn" else None,
        "follows": _other_call(row, "follows"),
        "followed_by": _other_call(row, "followed_by"),
        "result_body": body,
    }
    return Call(**{name: row[name] for name in _FIELDS if name not in made}, **made)


_FIELDS = tuple(field.name for field in fields(Call))


def _other_call(row: dict[str, Any], name: str) -> dict[str, int] | None:
    batch_id = row[f"{name}_batch_id"]
    return None if batch_id is None else {"batch_id": batch_id, "row": row[f"{name}_row"]}


def _state(row: dict[str, Any]) -> CallState:
    if row["outcome"] is not None:
        return "final"
    if row["refused"]:
        return "refused"
    if row["withdrawn_reason"] is not None:
        return "withdrawn"
    return "overdue" if row["is_overdue"] else "pending"
