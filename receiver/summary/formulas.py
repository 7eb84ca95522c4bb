"""Cells that a spreadsheet would run are defused, so that opening an export starts nothing (OWASP: CSV Injection)."""

from __future__ import annotations

import csv
import re
from io import StringIO

_STARTS = "=@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""What formulas begin with, beside plus and minus; spreadsheets read the full-width forms as the others."""

_FORMULA = re.compile(f"[{_STARTS}]|[+-](?![0-9.,]*$)", re.ASCII)

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
}.items():
    for _member in _members:
        _CLASSES[_member] = _class[0]
_SUSPECT = re.compile(rb"b(?:f|s(?!d*+[br])|q(?:[bfr]|s(?!d*+q)))")


def defuse(cell: str) -> str:
    """A cell that a spreadsheet shows instead of running it: a formula gets an apostrophe in front.

    Numbers with a sign, E.164 ones among them, are no formulas.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def defuse_csv(block: bytes) -> bytes:
    """Whole lines of CSV (UTF-8, comma, minimal quoting, CR LF), every cell of them defused."""
    if _SUSPECT.search((b"\n" + block).translate(_CLASSES)) is None:
        return block
    lines = StringIO(newline="")
    write = csv.writer(lines, lineterminator="\r\n")
    write.writerows(map(defuse, cells) for cells in csv.reader(StringIO(block.decode(), newline=""), strict=True))
    return lines.getvalue().encode()
