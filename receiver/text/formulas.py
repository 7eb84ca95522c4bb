"""Defuse cells that a spreadsheet would run as a formula, so that opening an export is safe (OWASP: CSV Injection).

A formula gets an apostrophe in front. If it has `n` apostrophes already, it gets `n + 1` more: so `n // 2` of an
exported cell's `n` apostrophes are the user's. Each cell can be restored exactly, even if a spreadsheet removed the
first apostrophe.

In half of Europe, spreadsheets separate cells with semicolons or tabs, not with commas. They ignore quotation marks
inside such a cell. There, a cell begins after each semicolon, tab and line end.
"""

from __future__ import annotations

import csv
import re
from io import StringIO

_SIGNS = "=@\uff1d\uff0b\uff0d\uff20"
"""Formulas begin with one of these, with plus or with minus. Spreadsheets accept the full-width forms, too."""

_FORMULA = re.compile(rf"('*+)(?=[{_SIGNS}\t\r\n]|[+-](?![0-9.,]*$))", re.ASCII)

_FORMULA_WITHIN = re.compile(
    rf"""([;\t\r\n][ "]*+)('*+)(?=[{_SIGNS}]|[+-](?![0-9.,]*+[ "]*+(?:[;\t\r\n]|\Z)))""", re.ASCII
)
"""A formula after a separator within a cell. Spaces and quotation marks may come before it."""

_is_harmless = re.compile(
    rb"""(?: (?:
      # A cell without quotation marks. Numbers with a sign are harmless.
      (?! '*+ (?: [=@\t\xef] | [+-] (?! [0-9.]*+ [,\r]) ) )
      [^",;\t\r\n]*+ (?: [;\t] (?! [ ]*+ '*+ [=@+\-\xef]) [^",;\t\r\n]*+ )*+
    | # A cell in quotation marks.
      " (?! '*+ [=@+\-\t\r\n\xef])
      [^";\t\r\n]*+ (?: (?: "" | [;\t\r\n] (?! [ "]*+ '*+ [=@+\-\xef]) ) [^";\t\r\n]*+ )*+ "
    ) (?: , | \r\n) )*+""",
    re.VERBOSE,
).fullmatch
"""Whether no cell of a CSV in UTF-8 contains a formula. It may be wrong only if it does not match. `\\xef` is the first
byte of the full-width signs.
"""


def defuse(cell: str) -> str:
    """The cell with an apostrophe before each formula, so that a spreadsheet shows it and does not run it.

    A formula may also begin within the cell. A number with a sign, such as E.164, is not a formula.
    """
    defused = _FORMULA_WITHIN.sub(lambda found: f"{found[1]}{found[2]}{found[2]}'", cell)
    found = _FORMULA.match(cell)
    return f"{found[1]}'{defused}" if found else defused


def restored(cell: str) -> str:
    """The original of a defused cell. A cell that no export has defused stays unchanged."""
    restored = _FORMULA_WITHIN.sub(lambda found: found[1] + found[2][: len(found[2]) // 2], cell)
    found = _FORMULA.match(restored)
    return restored[(len(found[1]) + 1) // 2 :] if found else restored


def defuse_csv(block: bytes) -> bytes:
    """Complete lines of CSV (UTF-8, comma, minimal quoting, CR LF), with every cell defused."""
    if _is_harmless(block):  # this check takes a seventh of the time that parsing takes
        return block
    lines = StringIO(newline="")
    write = csv.writer(lines, lineterminator="\r\n")
    write.writerows(map(defuse, cells) for cells in csv.reader(StringIO(block.decode(), newline=""), strict=True))
    return lines.getvalue().encode()
