"""Erasing one telephone number on request: everywhere, while every count and outcome stays.

A call keeps its row, its result and its times; its number becomes the row's, negative, and its line of the CSV
a line of the same width that says `erased`. A body that names the number becomes a marker. What was not sent
yet is not sent. A callback that comes later names the number again: so it is erased once all are in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from psycopg.rows import class_row

from receiver.database.locks import lock_batches, own_results
from receiver.database.pool import Connection
from receiver.errors import ReceiverError
from receiver.model import ERASED
from receiver.queueing.batches import refuse_calls
from receiver.queueing.contacts import csv_line, read_csv_line
from receiver.queueing.mentions import Mentions
from receiver.results.body_formats import body_text
from receiver.results.journal import ERASED_BODY
from receiver.results.packing import PLAIN, unpack
from receiver.results.unreadable import UnreadableBody

BODIES_AT_ONCE = 1_000
ROWS_AT_ONCE = 50_000
_CHUNK_OVERLAP = 400
"""Characters of a file that are looked at with the next piece, too: longer than any spelling, twice over in UTF-16."""


class NotErasable(ReceiverError):
    """The number is in use at this moment; nothing of this step was changed."""

    code = "in_use"


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, or would be. `contacts`: rows of others that mention the number; `texts`: answers and notes."""

    calls: int = 0
    contacts: int = 0
    skipped: int = 0
    callbacks: int = 0
    texts: int = 0
    drafts: int = 0

    def __add__(self, other: Erased) -> Erased:
        return Erased(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def erase(conn: Connection, phone_number: int) -> Iterator[Erased]:
    """Erase a number, given as E.164 without its plus sign, piece by piece.

    Yields what each piece erased, for the caller to commit, or to roll back where it only looks. Safe to do
    again. Raises NotErasable while it is being sent, or while callbacks that name it wait to be settled.
    """
    mentions = Mentions(phone_number)
    for piece in _list_bodies(conn, "waiting"):
        if any(_names(mentions, body) for body in piece):
            raise NotErasable("Callbacks that name the number wait to be settled. Let a worker run, and erase again.")
    for (batch_id,) in conn.execute("select batch_id from batch order by batch_id desc").fetchall():
        called = conn.execute(
            "select from call where batch_id = %s and phone_number = %s limit 1", (batch_id, phone_number)
        ).fetchone()
        if called is not None:
            yield _erase_calls(conn, batch_id, phone_number)
        yield from _erase_contacts(conn, batch_id, mentions)
        yield _erase_texts(conn, batch_id, mentions)
    for piece in _list_bodies(conn, "set_aside"):
        named = [body for body in piece if _names(mentions, body)]
        for batch_id in sorted({body.batch_id for body in named}):
            ids = [body.callback_id for body in named if body.batch_id == batch_id]
            yield Erased(callbacks=_erase_bodies(conn, batch_id, ids))
    for (draft_id,) in conn.execute("select distinct draft_id from draft_chunk").fetchall():
        yield _erase_draft(conn, draft_id, mentions)


def _erase_calls(conn: Connection, batch_id: int, phone_number: int) -> Erased:
    """The calls to the number, all that was received for them, and their places in what is yet to be sent."""
    # Alone, as a replay is: a settlement under way has found the call by its number.
    own_results(conn)
    lock_batches(conn, [batch_id])
    found = conn.execute(
        "select c.row, c.line, s.submission_no, s.state from call c join submission s using (batch_id, submission_no)"
        " where c.batch_id = %s and c.phone_number = %s order by s.submission_no for update of s",
        (batch_id, phone_number),
    ).fetchall()
    if any(state == "sending" for *_, state in found):
        raise NotErasable(f"Batch {batch_id} is being sent right now. Erase again in a moment.")
    rows = [row for row, *_ in found]
    named = conn.execute(
        "select callback_id from result where batch_id = %(batch_id)s and row = any(%(rows)s)"
        " union select callback_id from set_aside where batch_id = %(batch_id)s and row = any(%(rows)s)",
        {"batch_id": batch_id, "rows": rows},
    ).fetchall()
    for row, line, submission_no, state in found:
        _replace_line(conn, batch_id, row, _blank(line), phone_number=-row)
        if state in ("pending", "unknown"):
            _shorten(conn, batch_id, submission_no, len(line.encode()) + 2)
        if state == "pending":
            refuse_calls(conn, batch_id, submission_no, erased_only=True)
    conn.execute("delete from poll where batch_id = %s and row = any(%s)", (batch_id, rows))
    return Erased(calls=len(rows), callbacks=_erase_bodies(conn, batch_id, [callback_id for (callback_id,) in named]))


def _erase_contacts(conn: Connection, batch_id: int, mentions: Mentions) -> Iterator[Erased]:
    """Rows that mention the number: skipped ones, and those of other people, whose destination stays."""
    for table, column in (("skipped", "skipped"), ("call", "contacts")):
        after: int | None = 0
        while after is not None:
            lines, after = _find_lines(conn, table, batch_id, mentions, after)
            for row, line in lines:
                cells = read_csv_line(line)
                if table == "skipped" and mentions.within(cells[0]):
                    _replace_line(conn, batch_id, row, _blank(line), table)
                    continue
                kept = cells[:1] if table == "call" else []
                changed = csv_line([*kept, *(mentions.removed(cell) for cell in cells[len(kept) :])])
                if table == "call":
                    _fit_submission(conn, batch_id, row, len(line.encode()) - len(changed.encode()))
                _replace_line(conn, batch_id, row, changed, table)
            yield Erased(**{column: len(lines)})


def _find_lines(
    conn: Connection, table: str, batch_id: int, mentions: Mentions, after: int
) -> tuple[list[tuple[int, str]], int | None]:
    """The lines that mention the number among the next rows past `after`; and the row reached, None at the end."""
    reached = conn.execute(
        f"select max(row) from (select row from {table} where batch_id = %s and row > %s order by row limit %s) next",
        (batch_id, after, ROWS_AT_ONCE),
    ).fetchone()
    if reached is None or reached[0] is None:
        return [], None
    found = conn.execute(
        f"select row, line from {table} where batch_id = %s and row > %s and row <= %s and line ~ %s order by row",
        (batch_id, after, reached[0], mentions.sieve),
    ).fetchall()
    own = 1 if table == "call" else 0
    return [
        (row, line) for row, line in found if any(mentions.within(cell) for cell in read_csv_line(line)[own:])
    ], reached[0]


def _erase_texts(conn: Connection, batch_id: int, mentions: Mentions) -> Erased:
    """What the provider answered, and what people noted, about a batch's submissions."""
    texts = 0
    for table, columns in (("submission", ("answer", "error")), ("resolution", ("answer", "error", "note"))):
        for column in columns:
            for (text,) in conn.execute(
                f"select distinct {column} from {table} where batch_id = %s and {column} ~ %s",
                (batch_id, mentions.sieve),
            ).fetchall():
                if mentions.within(text):
                    texts += conn.execute(
                        f"update {table} set {column} = %s where batch_id = %s and {column} = %s",
                        (mentions.removed(text), batch_id, text),
                    ).rowcount
    return Erased(texts=texts)


def _erase_bodies(conn: Connection, batch_id: int, callback_ids: Sequence[int]) -> int:
    return conn.execute(
        "update callback set body = %s, packing = %s, content_type = 'application/json', content_encoding = ''"
        " where batch_id = %s and callback_id = any(%s) and body <> %s",
        (ERASED_BODY, PLAIN, batch_id, list(callback_ids), ERASED_BODY),
    ).rowcount


def _erase_draft(conn: Connection, draft_id: Any, mentions: Mentions) -> Erased:
    """An upload that nobody queued goes as a whole: it can be uploaded again, without that row."""
    before = ""
    for (chunk_no,) in conn.execute(
        "select chunk_no from draft_chunk where draft_id = %s order by chunk_no", (draft_id,)
    ).fetchall():
        row = conn.execute(
            "select content from draft_chunk where draft_id = %s and chunk_no = %s", (draft_id, chunk_no), binary=True
        ).fetchone()
        # As Latin-1 with the NULs out, its digits can be read in each encoding that a CSV may have.
        text = before + (b"" if row is None else row[0]).replace(b"\0", b"").decode("latin-1")
        if mentions.within(text):
            return Erased(drafts=conn.execute("delete from draft where draft_id = %s", (draft_id,)).rowcount)
        before = text[-_CHUNK_OVERLAP:]
    return Erased()


@dataclass(frozen=True, slots=True)
class _Body:
    batch_id: int
    callback_id: int
    content_encoding: str
    packing: int
    packed_body: bytes

    @property
    def body(self) -> bytes:
        return unpack(self.packing, self.packed_body)


def _list_bodies(conn: Connection, table: str) -> Iterator[list[_Body]]:
    """Callbacks that wait, or that were set aside without a call, piece by piece."""
    after = (0, 0)
    condition = "k.row is null" if table == "set_aside" else "true"
    while True:
        with conn.cursor(row_factory=class_row(_Body), binary=True) as cursor:
            piece = cursor.execute(
                f"select c.batch_id, c.callback_id, c.content_encoding, c.packing, c.body as packed_body from {table} k"
                " join callback c on c.batch_id = k.batch_id and c.callback_id = k.callback_id"
                f" where (k.batch_id, k.callback_id) > (%s, %s) and {condition}"
                " order by k.batch_id, k.callback_id limit %s",
                (*after, BODIES_AT_ONCE),
            ).fetchall()
        if not piece:
            return
        yield piece
        after = (piece[-1].batch_id, piece[-1].callback_id)


def _names(mentions: Mentions, body: _Body) -> bool:
    try:
        return mentions.within(body_text(body.body, body.content_encoding))
    except UnreadableBody:
        return False


def _blank(line: str) -> str:
    return csv_line([ERASED, *("" for _ in read_csv_line(line)[1:])])


def _replace_line(
    conn: Connection, batch_id: int, row: int, line: str, table: str = "call", *, phone_number: int | None = None
) -> None:
    number = "" if phone_number is None else ", phone_number = %(phone_number)s"
    conn.execute(
        f"update {table} set line = %(line)s{number} where batch_id = %(batch_id)s and row = %(row)s",
        {"line": line, "phone_number": phone_number, "batch_id": batch_id, "row": row},
    )


def _fit_submission(conn: Connection, batch_id: int, row: int, by_bytes: int) -> None:
    """A line that gets shorter shortens what is sent; not while it is being sent."""
    lock_batches(conn, [batch_id])
    found = conn.execute(
        "select s.submission_no, s.state from submission s join call c using (batch_id, submission_no)"
        " where c.batch_id = %s and c.row = %s and c.phone_number > 0 for update of s",
        (batch_id, row),
    ).fetchone()
    if found is None:
        return
    if found[1] == "sending":
        raise NotErasable(f"Batch {batch_id} is being sent right now. Erase again in a moment.")
    if found[1] in ("pending", "unknown"):
        _shorten(conn, batch_id, found[0], by_bytes)


def _shorten(conn: Connection, batch_id: int, submission_no: int, by_bytes: int) -> None:
    conn.execute(
        "update submission set csv_bytes = csv_bytes - %s where batch_id = %s and submission_no = %s",
        (by_bytes, batch_id, submission_no),
    )
