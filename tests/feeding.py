"""Short functions for the feed: change results, give positions, and read from a place."""

from __future__ import annotations

import json

from receiver.changes.events import Events
from receiver.changes.feed import give_positions
from receiver.database.pool import Connection
from receiver.summary.feed import Place, get_start, list_entries

Keys = list[tuple[int, int]]


def change(conn: Connection, *calls: tuple[int, int]) -> None:
    """Note in this transaction that the results of these calls, (batch_id, row), changed."""
    events = Events()
    events.replace("call.result", calls)
    events.write(conn)


def give_all(conn: Connection) -> int:
    """Give positions to all changes that are committed. Returns how many."""
    total = 0
    while given := give_positions(conn):
        conn.commit()
        total += given
    conn.commit()
    return total


def start(conn: Connection, *, now: bool = False) -> Place:
    place = get_start(conn, now=now)
    conn.commit()
    return place


def read_on(conn: Connection, place: Place, limit: int = 1000) -> tuple[Keys, Place]:
    """The keys of all calls from a place on, and the place after them."""
    keys: Keys = []
    more = True
    while more:
        entries, more, place = list_entries(conn, place, limit)
        conn.commit()
        calls = [json.loads(entry.call.json()) for entry in entries]
        keys += [(call["batch_id"], call["row"]) for call in calls]
    return keys, place
