"""Groups of callbacks that are being settled, marked before their bodies are read: the table `settling`.

A body that kills the process which reads it would kill the next one, too, and so on. So each settler commits which
callbacks it is about to read. Whoever finds a mark whose callbacks wait, though nobody has locked them, knows that the
group failed. It is halved until the culprit is alone, and then that callback is filed as unreadable.
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
"""A group that was begun so lately may be one whose settler has not come to its transaction's end or beginning yet."""


@dataclass(frozen=True, slots=True)
class LeftGroup:
    """A group of another settler: being settled, settled, or left by a process that died.

    `tries`: how often it was begun; 0: one half of a group that failed. `due`: it was begun long enough ago.
    """

    group_id: UUID
    callback_ids: list[int]
    tries: int
    due: bool


def mark_group(conn: Connection, group_id: UUID, callback_ids: Sequence[int], tries: int = 1) -> None:
    """Write down that these callbacks are about to be read, in place of the group's earlier ones. One statement: its
    commit need not reach the disk, since it only has to outlive this process and not the server.
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
    """All groups but this one, the smallest first: those are nearest to the culprit."""
    with conn.cursor(row_factory=class_row(LeftGroup)) as cursor:
        return cursor.execute(
            "select group_id, callback_ids, tries, tries = 0 or begun_at < now() - %s as due from settling"
            " where group_id <> %s order by cardinality(callback_ids)",
            (LEFT_AFTER, group_id),
            prepare=True,
        ).fetchall()


def halve_group(conn: Connection, group_id: UUID, callback_ids: Sequence[int]) -> None:
    """Put two groups, one half each, in the place of one that failed."""
    middle = len(callback_ids) // 2
    forget_group(conn, group_id)
    for half in (callback_ids[:middle], callback_ids[middle:]):
        mark_group(conn, uuid4(), half, tries=0)


def forget_group(conn: Connection, group_id: UUID) -> None:
    conn.execute("delete from settling where group_id = %s", (group_id,))
