"""Erases a number from texts, lines of a CSV and names of columns; and finds drafts that mention it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from receiver.database.pool import Connection
from receiver.model import ERASED
from receiver.phone_numbers.masking import Mentions
from receiver.results.stored_texts import rewritten
from receiver.text.csv_line import csv_line, read_csv_line

_CHUNK_OVERLAP = 400
"""Bytes at the end of a chunk that are searched again with the next one: longer than any spelling, also in UTF-16."""


def without_number(table: str, texts: Mapping[str, Any], mentions: Mentions) -> dict[str, Any]:
    """The texts of a row that mention the number, by column, without the number."""
    left = {column: rewritten(text, mentions.removed) for column, text in texts.items()}
    if table in ("call", "skipped"):
        left["line"] = _without_contact(texts["line"], mentions, skipped=table == "skipped")
    elif table == "batch":
        left["columns"] = _distinct(left["columns"])
    return {column: text for column, text in left.items() if text != texts[column]}


def blank_line(line: str) -> str:
    """A line with the same number of cells and no personal data."""
    return csv_line([ERASED, *("" for _ in read_csv_line(line)[1:])])


def _without_contact(line: str, mentions: Mentions, *, skipped: bool) -> str:
    """A line of the CSV without the number. Another call's destination keeps only parameters without the number."""
    destination, *cells = read_csv_line(line)
    if skipped and mentions.within(destination):
        return blank_line(line)
    if not skipped:
        number, *parameters = destination.split(";")
        destination = ";".join([number, *(each for each in parameters if not mentions.within(each))])
    return csv_line([destination, *map(mentions.removed, cells)])


def _distinct(names: Sequence[str]) -> list[str]:
    """The names of columns; equal names get numbers."""
    distinct: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in distinct:
            number += 1
            unique = f"{name} {number}"
        distinct.append(unique)
    return distinct


def is_in_draft(conn: Connection, draft_id: UUID, mentions: Mentions) -> bool:
    """Whether an upload, its name, its form or its preview mentions the number."""
    texts = conn.execute(
        "select file_name, form::text, preview::text from draft where draft_id = %s", (draft_id,)
    ).fetchone()
    if any(text and mentions.within(text) for text in texts or ()):
        return True
    before, chunk_no = b"", 0
    while row := conn.execute(
        "select content from draft_chunk where draft_id = %s and chunk_no = %s", (draft_id, chunk_no), binary=True
    ).fetchone():
        # Without NULs, the digits can be found in each encoding of a CSV.
        content = before + row[0].replace(b"\0", b"")
        if mentions.may_be_within(content) and any(
            mentions.within(content.decode(encoding, "replace")) for encoding in ("latin-1", "utf-8")
        ):
            return True
        before, chunk_no = content[-_CHUNK_OVERLAP:], chunk_no + 1
    return False
