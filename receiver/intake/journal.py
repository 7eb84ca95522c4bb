"""The journal: stores callbacks, byte for byte, in groups.

A group is what a writer commits at once. Its name is (writer, sequence), and writing it is idempotent: the statement
first claims the sequence in `journal_writer`, and inserts nothing if this sequence or a later one was claimed before.
So a group whose commit was cut off can simply be written again, even while the server still works on the first try. The
only condition: the groups of a writer are written in the order of their sequence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from receiver.database.arrays import bigints, integers, smallints
from receiver.database.pool import Connection
from receiver.intake.packing import pack
from receiver.model import SubmissionKey

BODY_BYTES = 64 * 1024
"""The longest body that is stored."""

ERASED_BODY = b'{"erased": true}'
"""Replaces a body that contained an erased phone number."""


@dataclass(frozen=True, slots=True)
class Callback:
    """One POST to a `result_url`. Nothing is parsed; the texts contain no NUL."""

    key: SubmissionKey
    received_at: datetime
    content_type: str
    content_encoding: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """Callbacks that are committed together."""

    writer_id: UUID
    sequence: int
    callbacks: tuple[Callback, ...]


# A transaction id is assigned before any callback id: the low-water mark relies on that.
_WRITE = """
with claimed as (
    insert into journal_writer as writer (writer_id, last_sequence) values (%(writer_id)b, %(sequence)b)
    on conflict (writer_id) do update set last_sequence = excluded.last_sequence, seen_at = now()
        where writer.last_sequence < excluded.last_sequence
    returning true
), stored as (
    insert into callback (batch_id, submission_no, received_at, content_type, content_encoding, packing, body)
    select posted.* from claimed, unnest(
        %(batch_id)b::bigint[], %(submission_no)b::integer[], %(received_at)b::timestamptz[],
        %(content_type)b::text[], %(content_encoding)b::text[], %(packing)b::smallint[], %(body)b::bytea[]) as posted
    returning callback_id, batch_id, received_at, octet_length(body)
)
insert into waiting (callback_id, batch_id, received_at, body_bytes) select * from stored
"""


def write_group(conn: Connection, group: Group) -> None:
    """Store a group, or nothing if it was stored before. One statement: all or nothing."""
    callbacks = group.callbacks
    packed = [pack(callback.body) for callback in callbacks]
    conn.execute(
        _WRITE,
        {
            "writer_id": group.writer_id,
            "sequence": group.sequence,
            "batch_id": bigints(callback.key.batch_id for callback in callbacks),
            "submission_no": integers(callback.key.submission_no for callback in callbacks),
            "received_at": [callback.received_at for callback in callbacks],
            "content_type": [callback.content_type for callback in callbacks],
            "content_encoding": [callback.content_encoding for callback in callbacks],
            "packing": smallints(packing for packing, _ in packed),
            "body": [body for _, body in packed],
        },
        prepare=True,
    )


def try_write(conn: Connection) -> None:
    """Store a callback of the largest size and roll it back, in a transaction that commits. It is never visible.

    Needs a connection with autocommit, and no right to delete. Raises psycopg.Error if it could not be stored.
    """
    group = Group(uuid4(), 1, (Callback(SubmissionKey(0, 0), datetime.now(UTC), "", "", os.urandom(BODY_BYTES)),))
    # The rolled back part gave the outer transaction an id, so its commit waits for the log like any other.
    with conn.transaction(), conn.transaction(force_rollback=True):
        write_group(conn, group)


def forget_writers(conn: Connection, days: int) -> int:
    """Delete writers that were not seen for `days`; returns how many.

    A spool must be drained within this time: a group of a deleted writer would be stored again.
    """
    return conn.execute(
        "delete from journal_writer where seen_at < now() - make_interval(days => %s)", (days,)
    ).rowcount
