"""Searches for traces of a number in all columns of all tables, and in all files in a folder.

It shares only the unpacking of bodies with the erasure, and is stricter: any text may separate the digits.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote_plus

from psycopg.postgres import types

from receiver.database.pool import Connection
from receiver.intake.packing import unpack

BYTEA = types["bytea"].oid


def list_tables(conn: Connection) -> list[str]:
    """All tables of the schema, without partitions."""
    found = conn.execute(f"select relname from pg_class where {_IS_TABLE} order by 1")  # noqa: S608 a constant
    return [name for (name,) in found]


_IS_TABLE = "relkind in ('r', 'p') and not relispartition and relnamespace = 'public'::regnamespace"


def traces_in_tables(conn: Connection, *needles: str) -> list[str]:
    """`table.column` of each value that contains a needle: digits in any spelling, other text unchanged."""
    found = set()
    for table, names, kinds in conn.execute(
        "select relname, array_agg(attname::text order by attnum), array_agg(atttypid::bigint order by attnum)"  # noqa: S608
        " from pg_class join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped"
        f" where {_IS_TABLE} group by 1"
    ).fetchall():
        # As text, which there is of each value: of a time without bounds, too. Bytes as they are.
        columns = [f'"{name}"' if kind == BYTEA else f'"{name}"::text' for name, kind in zip(names, kinds, strict=True)]
        for row in conn.execute(f'select {", ".join(columns)} from "{table}"', binary=True):  # noqa: S608
            values = dict(zip(names, row, strict=True))
            for column, value in values.items():
                if isinstance(value, bytes) and "packing" in values:
                    value = unpack(int(values["packing"]), value)
                if value is not None and _is_trace(value, needles):
                    found.add(f"{table}.{column}")
    conn.commit()
    return sorted(found)


def traces_in_files(folder: Path, *needles: str, but: tuple[str, ...] = ()) -> list[str]:
    """Paths of the files in a folder that contain a needle. Paths that begin with one of `but` are not read."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not str(path.relative_to(folder)).startswith(but)
        and any(holds(text, needle) for text in texts_of(path.read_bytes()) for needle in needles)
    )


@lru_cache(20_000)
def _is_trace(value: bytes | str, needles: tuple[str, ...]) -> bool:
    """Kept, because most values are in many rows, and are searched again after each schedule of statements."""
    return any(holds(text, needle) for text in texts_of(value) for needle in needles)


def holds(text: str, needle: str) -> bool:
    if not needle.isdigit():
        return needle in text
    return needle in re.sub(r"[^0-9]", "", text)


def texts_of(value: object) -> Iterator[str]:
    """A value as text, in each way in which it can be decoded."""
    if isinstance(value, (bytes, memoryview)):
        contents = [bytes(value)]
        for wbits in (31, 15, -15):
            with suppress(zlib.error):
                contents.append(zlib.decompressobj(wbits).decompress(contents[0]))
        for content in contents:
            for encoding in ("latin-1", "utf-8", "utf-16-le", "utf-16-be"):
                yield from decodings(content.decode(encoding, "replace"))
    else:
        yield from decodings(str(value))


def decodings(text: str) -> Iterator[str]:
    for _ in range(3):
        yield text
        before = text
        text = html.unescape(unquote_plus(text))
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        if not text.isascii():
            text = "".join(str(int(c)) if c.isdecimal() else c for c in text)
        if text == before:
            return
    yield text
