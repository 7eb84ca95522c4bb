"""The journal for the API and the pages: each callback with its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.intake.packing import unpack
from receiver.model import CallbackState
from receiver.results.acknowledgement import IS_ACKNOWLEDGED
from receiver.results.bodies import read_bodies
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.settlement import find_rows
from receiver.results.stored import get_stored


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback. `row` is the call that it names, if it is settled, and the call was found and is not erased."""

    id: int
    batch_id: int
    submission_id: int
    state: CallbackState
    reason: str | None
    row: int | None
    acknowledged_at: datetime | None
    received_at: datetime
    content_type: str


@dataclass(frozen=True, slots=True)
class CallbackBody:
    """A callback and its body, byte for byte."""

    callback: Callback
    content_encoding: str
    body: bytes


# In the order of the fields of `Callback`.
_COLUMNS = """c.callback_id as id, c.batch_id, c.submission_no as submission_id,
    case when w.callback_id is not null then 'waiting' else coalesce(s.state, 'applied') end as state,
    s.reason, s.row, a.acknowledged_at, c.received_at, c.content_type"""

_JOINS = """left join set_aside s on s.batch_id = c.batch_id and s.callback_id = c.callback_id
    left join waiting w on w.callback_id = c.callback_id
    left join acknowledged a on a.batch_id = s.batch_id and a.callback_id = s.callback_id and a.state = s.state"""

NEWEST_COUNTED = 10_000
"""Of each state, only this many of the newest callbacks are counted by reason, so that a page stays fast."""

# The id of the oldest of them; 0 if there is none.
_OLDEST_COUNTED = """select coalesce(min(callback_id), 0) from (select callback_id from set_aside
    where state = %(state)s order by callback_id desc limit %(newest)s) newest"""


def list_callbacks(
    conn: Connection,
    limit: int,
    *,
    state: CallbackState | None = None,
    reason: str | None = None,
    batch_id: int | None = None,
    before: int | None = None,
    unseen: bool = False,
) -> list[Callback]:
    """Callbacks, newest first, with ids below `before`. Results that were fetched by polling are not callbacks.

    `unseen`: only those that were not acknowledged. A `reason` needs a `state`, and is searched only among the
    callbacks that `count_by_reason` counts.
    """
    conditions = ["not c.polled"]
    values: dict[str, Any] = {"limit": limit, "state": state, "batch_id": batch_id, "before": before}
    # The page follows the key of the table that stores the state.
    key = "s" if state in ("duplicate", "conflict", "unmatched", "unreadable") else "w" if state == "waiting" else "c"
    if state == "applied":
        conditions.append("s.callback_id is null and w.callback_id is null")
    elif state == "waiting":
        conditions.append(f"w.callback_id >= {LOW_WATER_MARK}")
    elif state is not None:
        conditions.append("s.state = %(state)s and w.callback_id is null")
    if reason is not None:
        conditions.append(f"s.reason = %(reason)s and s.callback_id >= ({_OLDEST_COUNTED})")
        values |= {"reason": reason, "newest": NEWEST_COUNTED}
    if unseen:
        conditions.append("a.callback_id is null")
    if batch_id is not None:
        conditions.append(f"{key}.batch_id = %(batch_id)s")
    if before is not None:
        conditions.append(f"{key}.callback_id < %(before)s")
    with conn.cursor(row_factory=class_row(Callback)) as cursor:
        found = cursor.execute(
            f"select {_COLUMNS} from callback c {_JOINS} where {' and '.join(conditions)}"
            f" order by {key}.callback_id desc limit %(limit)s",
            values,
        ).fetchall()
    return _with_rows(conn, found)


def _with_rows(conn: Connection, found: list[Callback]) -> list[Callback]:
    """Find the rows of applied callbacks, from their bodies: an index for this would cost too much in settlement."""
    applied = get_stored(conn, [(each.batch_id, each.id) for each in found if each.state == "applied"])
    numbers = [
        (stored, details.phone_number)
        for stored, details, _ in read_bodies(applied)
        if not isinstance(details, UnreadableBody)
    ]
    rows = find_rows(conn, numbers)
    return [replace(each, row=rows.get(each.id, each.row)) for each in found]


def count_by_reason(conn: Connection, state: CallbackState) -> dict[str, int]:
    """The number of callbacks by reason, among the newest `NEWEST_COUNTED` in this state, the most frequent first.
    Callbacks that were acknowledged are not counted."""
    return dict(
        conn.execute(
            "select reason, count(*) from (select reason from set_aside s where state = %s and not polled"
            f" and not {IS_ACKNOWLEDGED} order by callback_id desc limit %s) newest"
            " group by reason order by count(*) desc, reason",
            (state, NEWEST_COUNTED),
        ).fetchall()
    )


def count_reasons(conn: Connection, ids: Sequence[int]) -> dict[str, int]:
    """Why these callbacks were not applied, the most frequent reason first."""
    return dict(
        conn.execute(
            "select reason, count(*) from set_aside where callback_id = any(%s) group by reason order by count(*) desc",
            (list(ids),),
        ).fetchall()
    )


def list_callbacks_of_call(conn: Connection, batch_id: int, row: int) -> list[Callback]:
    """All callbacks that name a call, in the order in which they were received, without results fetched by polling."""
    with conn.cursor(row_factory=class_row(Callback)) as cursor:
        return cursor.execute(
            "with named as (select callback_id from result where batch_id = %(batch_id)s and row = %(row)s"
            " union select callback_id from set_aside where batch_id = %(batch_id)s and row = %(row)s)"
            f" select {_COLUMNS} from named join callback c on c.batch_id = %(batch_id)s"
            f" and c.callback_id = named.callback_id and not c.polled {_JOINS} order by c.received_at, c.callback_id",
            {"batch_id": batch_id, "row": row},
        ).fetchall()


def get_callback(conn: Connection, callback_id: int) -> CallbackBody:
    """One callback with its body. Raises NotFound."""
    found = conn.execute(
        f"select c.content_encoding, c.packing, c.body, {_COLUMNS} from callback c {_JOINS} where c.callback_id = %s",
        (callback_id,),
    ).fetchone()
    if found is None:
        raise NotFound(f"Callback {callback_id} does not exist.")
    content_encoding, packing, body, *callback = found
    (with_row,) = _with_rows(conn, [Callback(*callback)])
    return CallbackBody(with_row, content_encoding, unpack(packing, body))
