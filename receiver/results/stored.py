"""Callbacks in the journal and in its queue, the table `waiting`.

One statement locks callbacks in the queue, which is small. A second one reads them from the journal by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import args_row

from receiver.database.arrays import bigints, columns
from receiver.database.conditions import all_given
from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.intake.packing import unpack

UNKNOWN_BYTES = 1000
"""The assumed size of a body that release 1.0.0 stored without its size."""


class Stored(NamedTuple):
    """A callback in the journal. `default_region` is that of its batch; None if the batch was purged."""

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


COLUMNS = """c.batch_id, c.callback_id, c.submission_no, c.received_at, c.polled, c.content_type, c.content_encoding,
    c.packing, c.body"""
"""SQL: the fields of `Stored` but its last, of a callback `c`."""


class Waiting(NamedTuple):
    """A callback that waits to be settled. `body_bytes` is the stored size of its body."""

    batch_id: int
    callback_id: int
    body_bytes: int


def lock_waiting(
    conn: Connection,
    limit: int,
    *,
    floor: int = 0,
    batch_id: int | None = None,
    without_batches: Sequence[int] = (),
    without_ids: Sequence[int] = (),
) -> list[Waiting]:
    """Lock up to `limit` waiting callbacks until the transaction ends, the oldest first: those of one batch, or of all
    but some. Rows that others have locked are skipped.

    Callbacks with ids below `floor` and below the low-water mark are not searched.
    """
    where, values = all_given(
        {
            "callback_id >= %s": floor,
            "batch_id = %s": batch_id,
            "batch_id <> all(%b)": bigints(without_batches) if without_batches else None,
            "callback_id <> all(%b)": bigints(without_ids) if without_ids else None,
        }
    )
    return _lock(conn, f"callback_id >= {LOW_WATER_MARK} and {where} order by callback_id limit %s", [*values, limit])


def lock_waiting_ids(conn: Connection, callback_ids: Sequence[int]) -> list[Waiting]:
    """Lock the callbacks among these that wait and are not locked by others, the oldest first."""
    return _lock(conn, "callback_id = any(%b) order by callback_id", [bigints(callback_ids)])


def _lock(conn: Connection, which: str, values: Sequence[object]) -> list[Waiting]:
    with conn.cursor(row_factory=args_row(Waiting), binary=True) as cursor:
        return cursor.execute(
            f"select batch_id, callback_id, coalesce(body_bytes, {UNKNOWN_BYTES}) from waiting where {which}"
            " for update skip locked",
            values,
            prepare=True,
        ).fetchall()


def newest_callback(conn: Connection) -> int:
    """The highest id of a committed callback; 0 if there is none."""
    row = conn.execute("select callback_id from callback order by callback_id desc limit 1", prepare=True).fetchone()
    return row[0] if row is not None else 0


def find_waiting(conn: Connection, callback_ids: Sequence[int]) -> set[int]:
    """Those of these callbacks that wait, also if others have locked them."""
    waiting = "select callback_id from waiting where callback_id = any(%b)"
    return {callback_id for (callback_id,) in conn.execute(waiting, (bigints(callback_ids),))}


def remove_waiting(conn: Connection, callback_ids: Iterable[int]) -> None:
    """Remove callbacks from the queue. This transaction has locked them, and settles them."""
    conn.execute("delete from waiting where callback_id = any(%b)", (bigints(callback_ids),), prepare=True)


def get_stored(conn: Connection, keys: Iterable[tuple[int, int]]) -> list[Stored]:
    """Callbacks, (batch_id, callback_id), from the journal, in the same order. Missing ones are left out."""
    keys = list(keys)
    with conn.cursor(row_factory=args_row(Stored), binary=True) as cursor:
        found = cursor.execute(
            f"select {COLUMNS}, b.default_region from unnest(%b::bigint[], %b::bigint[]) as g (batch_id, callback_id)"
            " join callback c using (batch_id, callback_id) left join batch b using (batch_id)",
            columns(keys, bigints, bigints),
            prepare=True,
        ).fetchall()
    places = {callback_id: place for place, (_, callback_id) in enumerate(keys)}
    found.sort(key=lambda stored: places[stored.callback_id])
    return found
