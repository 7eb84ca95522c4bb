"""The feed: each call whose result was settled or changed, oldest first, over all batches (receiver.changes.feed).

An entry is a part of a batch's calls that one transaction changed. A place in the feed is the position of an entry and
the number of its calls that were read already.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.summary.stored_calls import StoredCall, list_stored_calls

ROUNDS = 10
"""How often one page reads on if it found only calls of purged batches."""


class CursorExpired(NotFound):
    """The feed no longer has what follows this place. For `Reader` it is not found: a replica may lack the place."""

    code = "cursor_expired"

    def __init__(self) -> None:
        super().__init__("The entries after this cursor were removed, or the database was restored. Start again.")


class Place(NamedTuple):
    """`epoch` changes when a database is restored, because positions are given again then."""

    epoch: int
    position: int
    read: int


class Entry(NamedTuple):
    """`next`: the place after it."""

    call: StoredCall
    next: Place


class FeedPage(NamedTuple):
    """`end`: the place up to which entries were read. If calls were purged, it is after the last of the entries."""

    entries: list[Entry]
    more: bool
    end: Place


def get_start(conn: Connection, *, now: bool) -> Place:
    """The place of the oldest entry kept. `now`: the place after the last entry."""
    epoch, last, expired = _get_feed(conn)
    return Place(epoch, (last if now else expired) + 1, 0)


def list_given(conn: Connection, positions: Collection[int]) -> set[int]:
    """Those of the positions that were given to an entry."""
    _, last, _ = _get_feed(conn)
    return {position for position in positions if position <= last}


def list_entries(conn: Connection, after: Place, limit: int) -> FeedPage:
    """Up to `limit` entries from this place on, and whether more follow. Raises CursorExpired.

    The calls are read after their entries, so they are at least as new. Calls of purged batches are left out; after
    ROUNDS times `limit` of them, the page ends without an entry.
    """
    for _ in range(ROUNDS):
        values = {"position": after.position, "read": after.read, "limit": limit}
        rows = conn.execute(_ENTRIES, values, prepare=True).fetchall()
        # After the entries, because they may be removed before they are read.
        epoch, last, expired = _get_feed(conn)
        if epoch != after.epoch or not expired < after.position <= last + 1:
            raise CursorExpired
        more = len(rows) == limit
        if not rows:
            return FeedPage([], False, after)
        calls = list_stored_calls(conn, [(batch_id, row) for batch_id, row, *_ in rows])
        places = [Place(epoch, position, read) for *_, position, read in rows[: len(calls)]]
        entries = [Entry(call, place) for call, place in zip(calls, places, strict=True) if call is not None]
        more, after = more or len(calls) < len(rows), places[-1]
        if entries or not more:
            break
    return FeedPage(entries, more, after)


def _get_feed(conn: Connection) -> tuple[int, int, int]:
    return conn.execute("select epoch, last_position, expired_position from feed", prepare=True).fetchall()[0]


_ENTRIES = """
select e.batch_id, g.row, e.position + (g.read = cardinality(e.rows))::integer, mod(g.read, cardinality(e.rows))
from (select * from feed_entry where position >= %(position)s order by position limit %(limit)s) e
    cross join lateral unnest(e.rows) with ordinality as g (row, read)
where e.position > %(position)s or g.read > %(read)s
order by e.position, g.read limit %(limit)s
"""
