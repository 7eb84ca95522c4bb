"""Convert a row to a line of the CSV for the provider, and back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence


def csv_line(cells: Sequence[str]) -> str:
    """The cells as one line: commas, quotation marks only if they are needed, no line end. `read_csv_line` is the exact
    inverse.
    """
    # The writer quotes a cell with a line end only if its `lineterminator` contains that line end.
    line: str = _write(cells)
    return line[:-2]


def read_csv_line(line: str) -> list[str]:
    """The cells of a line that `csv_line` wrote."""
    return next(csv.reader((line,), strict=True))


class _Echo:
    """A file whose `write` returns the text, so that `writerow` returns the line."""

    write: Callable[[str], str] = staticmethod(str)


_write = csv.writer(_Echo(), lineterminator="\r\n").writerow
