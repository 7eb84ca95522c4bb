"""The text of a CSV's cells: what may stand around it unseen, and what counts as empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MARGIN = (
    # White space, line ends among it.
    " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
    # Direction marks, joiners, and byte order marks. Address books and chats copy them along with a number.
    "\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\ufeff"
)


def trimmed(cell: str) -> str:
    """The cell without white space, line ends, direction marks and other invisible marks at its ends."""
    return cell.strip(_MARGIN)


def is_blank(cells: Iterable[str]) -> bool:
    """Whether the cells hold nothing but white space: a line of delimiters only, say."""
    return not any(map(str.strip, cells))


def without_trailing_blanks(cells: Sequence[str]) -> list[str]:
    """The cells up to the last that holds anything: spreadsheets fill rows up with empty cells."""
    length = len(cells)
    while length and not cells[length - 1].strip():
        length -= 1
    return list(cells[:length])
