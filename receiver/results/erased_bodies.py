"""Finds the stored bodies that mention a number, and erases the number.

The body of a callback for another call keeps everything but the number, so that it can still be read and replayed. A
body is replaced by a marker if it belongs to no call, or if its details would be different without the number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from psycopg.rows import args_row

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.intake.journal import ERASED_BODY, Callback
from receiver.intake.packing import PLAIN, pack
from receiver.phone_numbers.masking import Mentions
from receiver.results.reading.body_formats import MAX_DECOMPRESSED_BYTES, decode_body
from receiver.results.reading.call_details import CallDetails, read_call_details
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.stored import COLUMNS, Stored, find_waiting

BODIES_AT_ONCE = 1_000


_COLUMNS = f"{COLUMNS}, null"
"""SQL: the columns of `Stored`. No batch is read."""


def list_bodies(conn: Connection) -> Iterator[list[Stored]]:
    """All callbacks, in pieces."""
    after = (0, 0)
    while piece := _fetch(
        conn,
        f"select {_COLUMNS} from callback c where (c.batch_id, c.callback_id) > (%s, %s)"
        " order by c.batch_id, c.callback_id limit %s",
        (*after, BODIES_AT_ONCE),
    ):
        yield piece
        after = (piece[-1].batch_id, piece[-1].callback_id)


def list_waiting(conn: Connection, after: int = 0, batch_id: int | None = None) -> Iterator[list[Stored]]:
    """Callbacks that wait to be settled, of all batches or of one, with ids above `after`, in pieces."""
    of_batch = "" if batch_id is None else " and w.batch_id = %s"
    given = () if batch_id is None else (batch_id,)
    while piece := _fetch(
        conn,
        f"select {_COLUMNS} from waiting w join callback c on c.batch_id = w.batch_id and c.callback_id = w.callback_id"
        f" where w.callback_id > %s and w.callback_id >= {LOW_WATER_MARK}{of_batch} order by w.callback_id limit %s",
        (after, *given, BODIES_AT_ONCE),
    ):
        yield piece
        after = piece[-1].callback_id


def mentions_number(mentions: Mentions, stored: Stored | Callback) -> bool:
    """Whether the body, or one of its headers, mentions the number. A `Callback` is not in the database yet."""
    if mentions.within(stored.content_type) or mentions.within(stored.content_encoding):
        return True
    body = stored.body
    return mentions.may_be_within(body) and any(mentions.within(text) for text in _readings(stored, body))


def erase_bodies(conn: Connection, batch_id: int, callback_ids: Sequence[int]) -> int:
    """Replace these bodies by the marker; returns how many."""
    return conn.execute(
        "update callback set body = %s, packing = %s, content_type = 'application/json', content_encoding = ''"
        " where batch_id = %s and callback_id = any(%s) and body <> %s",
        (ERASED_BODY, PLAIN, batch_id, list(callback_ids), ERASED_BODY),
    ).rowcount


def erase_mentions(conn: Connection, mentions: Mentions, batch_id: int, callback_ids: Sequence[int]) -> tuple[int, int]:
    """Erase the number from these bodies; returns (how many were changed, how many wait to be settled and were not).

    The caller has the exclusive results lock.
    """
    stored = _fetch(
        conn,
        f"select {_COLUMNS} from callback c where c.batch_id = %s and c.callback_id = any(%s)"
        " order by c.callback_id for update",
        (batch_id, list(callback_ids)),
    )
    waiting = find_waiting(conn, callback_ids)
    no_call = "select callback_id from set_aside where batch_id = %s and callback_id = any(%s) and row is null"
    without_call = {callback_id for (callback_id,) in conn.execute(no_call, (batch_id, list(callback_ids)))}
    found = [each for each in stored if each.callback_id not in waiting and mentions_number(mentions, each)]
    marked = []
    for each in found:
        rewritten = None if each.callback_id in without_call else _without(mentions, each)
        if rewritten is None:
            marked.append(each.callback_id)
            continue
        content_type, body = rewritten
        packing, packed = pack(body)
        conn.execute(
            "update callback set body = %s, packing = %s, content_type = %s, content_encoding = ''"
            " where batch_id = %s and callback_id = %s",
            (packed, packing, content_type, batch_id, each.callback_id),
        )
    erase_bodies(conn, batch_id, marked)
    return len(found), len(waiting)


def _without(mentions: Mentions, stored: Stored) -> tuple[str, bytes] | None:
    """(content type, body) without the number. None if the details of the call would then be different."""
    before = _details(stored.body, stored.content_type, stored.content_encoding)
    if before is None:
        return None
    content_type = mentions.removed(stored.content_type)
    body = mentions.removed(decode_body(stored.body, stored.content_encoding)).encode("utf-8", "replace")
    return (content_type, body) if _details(body, content_type, "") == before else None


def _details(body: bytes, content_type: str, content_encoding: str) -> CallDetails | None:
    try:
        return read_call_details(body, content_type, content_encoding)
    except UnreadableBody:
        return None


def _readings(stored: Stored | Callback, body: bytes) -> Iterator[str]:
    """The texts that a body may contain, also if it is compressed without a header, or broken."""
    text, readable = body.decode("latin-1"), True
    try:
        text = decode_body(body, stored.content_encoding)
    except UnreadableBody:
        readable = False
    yield text
    if "\0" in text:
        yield text.replace("\0", "")
    if not body.isascii():
        yield _inflated(body, 32 + zlib.MAX_WBITS).decode("latin-1")
        if not readable:
            yield _inflated(body, -zlib.MAX_WBITS).decode("latin-1")


def _inflated(body: bytes, wbits: int) -> bytes:
    """Decompress up to the first error, in small pieces, because zlib returns nothing of a piece with an error."""
    stream = zlib.decompressobj(wbits)
    out = bytearray()
    try:
        for at in range(0, len(body), 16):
            out += stream.decompress(body[at : at + 16], MAX_DECOMPRESSED_BYTES)
            if len(out) > MAX_DECOMPRESSED_BYTES:
                break
    except zlib.error:
        pass
    return bytes(out)


def _fetch(conn: Connection, query: str, values: Sequence[object]) -> list[Stored]:
    with conn.cursor(row_factory=args_row(Stored), binary=True) as cursor:
        return cursor.execute(query, values).fetchall()
