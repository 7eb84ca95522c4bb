"""Cells that a spreadsheet would run are defused, so that opening an export starts nothing (OWASP: CSV Injection).

A formula gets an apostrophe in front. One that has apostrophes already gets as many again and one more: of `n`
apostrophes, `n // 2` are the user's. So each cell is restored exactly, also if a spreadsheet has removed one.

Where a spreadsheet takes semicolons or tabs for what parts cells, as it does in half of Europe, commas do not, and
a quotation mark within such a cell quotes nothing: what follows a semicolon, a tab or a line end begins a cell there.
"""

from __future__ import annotations

import csv
import re
from io import StringIO

_SIGNS = "=@\uff1d\uff0b\uff0d\uff20"
"""What formulas begin with, beside plus and minus; spreadsheets read the full-width forms as the others."""

_FORMULA = re.compile(rf"('*+)(?=[{_SIGNS}\t\r\n]|[+-](?![0-9.,]*$))", re.ASCII)

_FORMULA_WITHIN = re.compile(
    rf"""([;\t\r\n][ "]*+)('*+)(?=[{_SIGNS}]|[+-](?![0-9.,]*+[ "]*+(?:[;\t\r\n]|\Z)))""",
    re.ASCII,
)
"""Behind what may end a cell, and what may stand before the next one's first character."""

# Where a block of CSV may hold one. Each byte is put into a class, the classes are searched: a tenth of
# the time that it takes to look at each line. It may be wrong about what stands in quotes, never the other way.
_CLASSES = bytearray(b"x" * 256)
for _class, _members in {
    b"b": b",\n",  # ends a cell
    b"q": b'"',
    b"f": b"=@\t\xef",  # the last: first byte of the full-width forms
    b"r": b"\r",
    b"s": b"+-",
    b"d": b"0123456789.",
    b"a": b"'",
}.items():
    for _member in _members:
        _CLASSES[_member] = _class[0]
_SUSPECT = re.compile(rb"b(?:a*+(?:f|s(?!d*+[br]))|qa*+(?:[bfr]|s(?!d*+q[br])))")

# Within cells. A comma may end the number's cell, or be part of it in quotes: both are looked at.
_SUSPECT_AFTER = {
    separator: re.compile(separator + rb'[ "]*+\'*+(?:[=@\xef]|[+-](?![0-9.]*+[ "]*+[;\t\r\n]))')
    for separator in (b";", b"\t")
}
_BUT_QUOTES_AND_LINE_ENDS = bytes(set(range(256)) - set(b'"\r\n'))
# From the mark that opens a cell's quotes to a line end in it before what may be a formula.
_SUSPECT_LINE = re.compile(rb'"(?<![^,\n]")(?:[^"\r\n]++|""|[\r\n](?![ "]*+\'*+[=@+\xef-]))*+[\r\n]')


def defuse(cell: str) -> str:
    """A cell that a spreadsheet shows instead of running it: a formula gets an apostrophe in front.

    So does one that would begin within the cell. Numbers with a sign, E.164 ones among them, are no formulas.
    """
    defused = _FORMULA_WITHIN.sub(lambda found: f"{found[1]}{found[2]}{found[2]}'", cell)
    found = _FORMULA.match(cell)
    return f"{found[1]}'{defused}" if found else defused


def restored(cell: str) -> str:
    """The cell that was defused. What no export has written is left as it is."""
    restored = _FORMULA_WITHIN.sub(lambda found: found[1] + found[2][: len(found[2]) // 2], cell)
    found = _FORMULA.match(restored)
    return restored[(len(found[1]) + 1) // 2 :] if found else restored


def defuse_csv(block: bytes) -> bytes:
    """Whole lines of CSV (UTF-8, comma, minimal quoting, CR LF), every cell of them defused."""
    if not _is_suspect(block):
        return block
    lines = StringIO(newline="")
    write = csv.writer(lines, lineterminator="\r\n")
    write.writerows(map(defuse, cells) for cells in csv.reader(StringIO(block.decode(), newline=""), strict=True))
    return lines.getvalue().encode()


def _is_suspect(block: bytes) -> bool:
    """Whether there may be a formula. What most blocks do not hold is asked for first: that takes next to no time."""
    if _SUSPECT.search((b"\n" + block).translate(_CLASSES)) is not None:
        return True
    if any(separator in block and suspect.search(block) for separator, suspect in _SUSPECT_AFTER.items()):
        return True
    if b'"' not in block:
        return False
    # In each line quotation marks are even, but for those lines that end within quotes.
    is_within_quotes = b'"' in block.translate(None, _BUT_QUOTES_AND_LINE_ENDS).replace(b'""', b"")
    return is_within_quotes and _SUSPECT_LINE.search(block) is not None
