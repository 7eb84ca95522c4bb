"""The user's CSV as a stream of contacts (contract: `POST /api/v1/batches`; provider page: The CSV).

Cells are the user's: nothing is stripped, converted or repaired in them. What a row must have beyond
being readable is a destination that can be dialed; a row without one is reported in its place, so that
the caller may refuse the file or skip the row.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from receiver.errors import Fault, InvalidInput
from receiver.queueing.csv_text import MAX_CELL, MAX_RECORD, RECORD_TOO_LONG, CsvText, invalid_csv, is_blank
from receiver.queueing.destination import DestinationError, parse
from receiver.queueing.numbering_plan import numbering_plan
from receiver.queueing.quoting import quoted

MAX_COLUMNS = 1000
"""Of the header. Short rows are filled up to its width, so without a bound a file of 2 MB, half of it header, would
come to many gigabytes."""

NUL_SHOWN_AS = "\u2400"
"""SYMBOL FOR NULL. A text column of Postgres cannot hold the character itself."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A row that can be called. `row` counts from 1 after the header, blank lines not counted.

    `destination` and `cells` (one for each of the reader's columns) are as the user wrote them.
    """

    row: int
    destination: str
    phone_number: int
    postd: str | None
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be called, and why: `code` is `too_many_cells`, `nul_character` or one of
    `DestinationError`'s. Cells too many are kept; a NUL is shown as U+2400.
    """

    row: int
    code: str
    message: str
    destination: str
    cells: tuple[str, ...]


class ContactReader:
    """Reads contacts off a binary, seekable stream, from its beginning, as often as it is iterated.

    The stream stays open, and the caller's. Memory stays below a few megabytes whatever the file's
    size. A row shorter than the header is filled up with empty cells.

    Raises ValueError for an unknown region, and `InvalidInput` with code `invalid_csv` for a file that
    cannot be taken as a whole. Fault codes when it is made: `empty_file`, `workbook`, `undecodable`,
    `missing_destination`, `too_many_columns`, `empty_column_name`, `repeated_column_name`, `nul_character`.
    Fault codes when it is made or iterated: `malformed_quotes`, `unclosed_quote`, `cell_too_long`,
    `row_too_long`, and at the end of the iteration `no_rows`.
    """

    columns: tuple[str, ...]
    """The columns' names after `destination`, as the user wrote them."""
    encoding: str
    """`utf-8`, `utf-16-le`, `utf-16-be` or `cp1252`."""
    delimiter: str

    def __init__(self, stream: IO[bytes], region: str) -> None:
        self._region = numbering_plan(region).region
        self._text = CsvText(stream)
        self.encoding = self._text.encoding
        self.delimiter = self._text.delimiter
        records = self._records()
        self.columns = _column_names(next(records))

    def __iter__(self) -> Iterator[Contact | InvalidRow]:
        region, text = self._region, self._text
        width = len(self.columns) + 1
        row = 0
        records = self._records()
        next(records)
        for row, record in enumerate(records, 1):
            if text.nul_seen and any("\0" in cell for cell in record):
                shown = [cell.replace("\0", NUL_SHOWN_AS) for cell in record]
                yield _invalid(row, "nul_character", "The row holds a NUL character.", shown)
                continue
            if len(record) != width:
                if len(record) > width:
                    message = f"The row has {len(record)} cells, {len(record) - width} more than the header."
                    yield _invalid(row, "too_many_cells", message, record)
                    continue
                record += [""] * (width - len(record))
            try:
                destination = parse(record[0], region)
            except DestinationError as error:
                yield _invalid(row, error.code, str(error), record)
            else:
                yield Contact(row, record[0], destination.phone_number, destination.postd, tuple(record[1:]))
        if row == 0:
            raise invalid_csv("no_rows", "The file holds a header, but no rows.")

    def _records(self) -> Iterator[list[str]]:
        """The header, then the rows, without blank lines."""
        text = self._text
        # Strict, because the lenient reader glues together what stands around a stray quotation mark
        # and takes an unclosed one for the rest of the file, both without a word.
        reader = csv.reader(text.lines(), delimiter=text.delimiter, strict=True)
        row = 0
        try:
            for record in reader:
                text.records += 1
                if len(record) < 2 and is_blank(record):
                    continue
                yield record
                row += 1
        except csv.Error as error:
            raise _unreadable(row, str(error)) from None


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


def _invalid(row: int, code: str, message: str, record: list[str]) -> InvalidRow:
    return InvalidRow(row, code, message, record[0], tuple(record[1:]))


def _column_names(header: list[str]) -> tuple[str, ...]:
    """The header's names after the first, unique once the space around them is put aside.

    Case counts: `Name` and `name` are two variables to a voice application.
    """
    if len(header) > MAX_COLUMNS:
        raise invalid_csv("too_many_columns", f"The header has {len(header):,} columns; {MAX_COLUMNS:,} are the most.")
    seen = {"destination"}
    faults = []
    for number, column in enumerate(header[1:], 2):
        name = column.strip()
        if "\0" in name:
            faults.append(Fault("csv", "nul_character", f"The name of column {number} holds a NUL character."))
        elif not name:
            faults.append(Fault("csv", "empty_column_name", f"Column {number} has no name."))
        elif name in seen:
            faults.append(Fault("csv", "repeated_column_name", f'Two columns are called "{quoted(name, 40)}".'))
        seen.add(name)
    if faults:
        message = "The header cannot be used: " + faults[0].message
        raise InvalidInput(message, faults[:100], faults_total=len(faults), code="invalid_csv")
    return tuple(header[1:])


def _unreadable(row: int, reason: str) -> InvalidInput:
    """What the csv module stumbled over, in row `row` (0: the header). Only its words tell the causes."""
    place = f"row {row}" if row else "the header"
    unclosed = " A quotation mark that is never closed does that."
    if reason.startswith("unexpected end of data"):
        code, message = "unclosed_quote", f"A quotation mark opened in {place} is never closed."
    elif reason.startswith("field larger"):
        code = "cell_too_long"
        message = f"A cell in {place} is longer than {MAX_CELL} characters.{unclosed}"
    elif reason == RECORD_TOO_LONG:
        code = "row_too_long"
        message = f"{place.capitalize()} is longer than {MAX_RECORD} bytes.{unclosed}"
    else:
        code = "malformed_quotes"
        message = (
            f"In {place} a quoted cell goes on after its closing quotation mark. Inside a quoted cell, write"
            " every quotation mark twice."
        )
    return invalid_csv(code, message, row=row or None)
