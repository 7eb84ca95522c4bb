"""One row as a line of the CSV that the provider is sent, and back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence


def csv_line(cells: Sequence[str]) -> str:
    """The cells as one line of the CSV that the provider is sent: commas, quotation marks only where
    they are needed, no line end. `read_csv_line` is its exact inverse.
    """
    # A line end must be among the writer's settings for it to quote the cells that hold one.
    line: str = _write(cells)
    return line[:-2]


def read_csv_line(line: str) -> list[str]:
    """The cells of a line that `csv_line` wrote."""
    return next(csv.reader((line,), strict=True))


class _Echo:
    """A file that hands back what is written to it, and so lets `writerow` return its line."""

    write: Callable[[str], str] = staticmethod(str)


_write = csv.writer(_Echo(), lineterminator="\r\n").writerow
