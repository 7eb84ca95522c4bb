"""Trim the cells of a CSV, and detect empty ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MARGIN = (
    # White space, including line ends.
    " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
    # Direction marks, joiners and byte order marks. Address books and chats copy them together with a number.
    "\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\ufeff"
)


def trimmed(cell: str) -> str:
    """The cell without white space, line ends and invisible marks around it."""
    return cell.strip(MARGIN)


def in_one_line(name: str) -> str:
    """The name of a column, trimmed, with each white space as one space. In spreadsheets, it can have line breaks."""
    return " ".join(trimmed(name).split())


def is_blank(cells: Iterable[str]) -> bool:
    """Whether the cells contain only white space, as in a line of delimiters."""
    return not any(map(str.strip, cells))


def without_trailing_blanks(cells: Sequence[str]) -> list[str]:
    """The cells without the empty ones at the end, which spreadsheets add."""
    length = len(cells)
    while length and not cells[length - 1].strip():
        length -= 1
    return list(cells[:length])
