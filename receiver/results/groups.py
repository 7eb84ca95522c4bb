"""Groups of callbacks that are being settled, recorded before their bodies are read (the table `settling`).

A body that kills the process that reads it would kill the next process, too. So each settler first commits which
callbacks it is going to read. If callbacks of a recorded group wait and no process has locked them, their settler died.
Then the group is halved until the fatal callback is alone, and this callback is marked as unreadable. The same is done
with a group that causes an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from psycopg.rows import class_row

from receiver.database.arrays import bigints
from receiver.database.pool import Connection

LEFT_AFTER = timedelta(seconds=2)
"""The settler of a group that was begun more recently may have recorded it, but not locked its callbacks yet."""


@dataclass(frozen=True, slots=True)
class LeftGroup:
    """A group of another settler. It is being settled, was settled, or was left by a process that died.

    `tries`: how often it was begun; 0: it is one half of a failed group. `due`: it was begun more than LEFT_AFTER ago.
    """

    group_id: UUID
    callback_ids: list[int]
    tries: int
    due: bool


def mark_group(conn: Connection, group_id: UUID, callback_ids: Sequence[int], tries: int = 1) -> None:
    """Record that these callbacks will be read now; they replace the group's earlier ones.

    The commit does not wait for the disk, because the record must survive this process, not the server.
    """
    conn.execute(
        "with quick as (select set_config('synchronous_commit', 'off', true))"
        " insert into settling (group_id, callback_ids, tries, begun_at) select %s, %b, %s, now() from quick"
        " on conflict (group_id) do update set callback_ids = excluded.callback_ids, tries = excluded.tries,"
        " begun_at = excluded.begun_at",
        (group_id, bigints(callback_ids), tries),
        prepare=True,
    )


def list_left_groups(conn: Connection, group_id: UUID) -> list[LeftGroup]:
    """All groups but this one, the smallest first: they are closest to the fatal callback."""
    with conn.cursor(row_factory=class_row(LeftGroup)) as cursor:
        return cursor.execute(
            "select group_id, callback_ids, tries, tries = 0 or begun_at < now() - %s as due from settling"
            " where group_id <> %s order by cardinality(callback_ids)",
            (LEFT_AFTER, group_id),
            prepare=True,
        ).fetchall()


def halve_group(conn: Connection, group_id: UUID, callback_ids: Sequence[int]) -> None:
    """Replace a failed group by two groups, one for each half."""
    middle = len(callback_ids) // 2
    forget_group(conn, group_id)
    for half in (callback_ids[:middle], callback_ids[middle:]):
        mark_group(conn, uuid4(), half, tries=0)


def forget_group(conn: Connection, group_id: UUID) -> None:
    conn.execute("delete from settling where group_id = %s", (group_id,))
