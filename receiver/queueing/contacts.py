"""Read the user's CSV as a stream of contacts (contract: `POST /api/v1/batches`; provider page: The CSV).

The destination is trimmed. Every other cell stays as the user wrote it. A row whose destination cannot be called is
returned as an `InvalidRow`, and the caller refuses the file or skips the row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, takewhile
from typing import IO, Protocol

from receiver.errors import Fault, InvalidInput
from receiver.phone_numbers.destination import DestinationError, parse, trimmed_destination
from receiver.phone_numbers.numbering_plan import numbering_plan
from receiver.queueing.csv_text import MAX_CELL, MAX_RECORD, RECORD_TOO_LONG, CsvText
from receiver.queueing.exported import CODE_PLACE, REASON_COLUMNS, RESULT_COLUMNS, SKIPPED_CODES, find_added
from receiver.queueing.header import (
    MissingDestination,
    PhoneColumn,
    Places,
    count_titles,
    invalid_csv,
    may_be_header,
    no_header,
    read_header,
)
from receiver.queueing.workbook_child import LOST_DIGITS
from receiver.text.cells import is_blank, trimmed, without_trailing_blanks
from receiver.text.formulas import restored

NUL_SHOWN_AS = "\u2400"
"""SYMBOL FOR NULL. A text column of Postgres cannot hold the character itself."""

SAMPLE_ROWS, SAMPLE_CELLS = 10_000, 100_000
"""So many rows or cells are searched for the columns that look like phone numbers."""

LEAST_VALID = 0.1
"""The part of its cells that must be valid numbers."""


TITLE_ROWS = 20
"""The header is searched in the first rows, this many: a workbook often begins with titles."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A row that can be called. `row` counts from 1 after the header, without blank lines.

    `destination` is as the user wrote it, trimmed. `cells` (one for each of the reader's columns) are unchanged.
    """

    row: int
    destination: str
    phone_number: int
    postd: str | None
    cells: tuple[str, ...]
    line_no: int | None = field(default=None, compare=False)
    """The row's line in a spreadsheet."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be called. `code`: `too_many_cells`, `nul_character`, `digits_lost` or a code of
    `DestinationError`.

    `cells` contains the cells beyond the header, too. A NUL is replaced by U+2400.
    """

    row: int
    code: str
    message: str
    destination: str
    cells: tuple[str, ...]
    line_no: int | None = field(default=None, compare=False)


class Contacts(Protocol):
    """The contacts of a batch: the names of their columns after `destination`, warnings, and the rows."""

    columns: tuple[str, ...]
    warnings: tuple[Fault, ...]

    def __iter__(self) -> Iterator[Contact | InvalidRow]: ...


class ContactReader:
    """Reads contacts from a binary, seekable stream. Each iteration begins at its beginning.

    The caller closes the stream. The reader needs a few megabytes of memory, independent of the size of the file. It
    adds empty cells to a row that is shorter than the header. It ignores lines of delimiters only, and columns that
    have neither a name nor a value.

    Raises ValueError for an unknown region, and `InvalidInput` with code `invalid_csv` for a file that cannot be used.
    Fault codes of the constructor: `empty_file`, `undecodable`, `missing_destination`, `too_many_columns`,
    `repeated_column_name`, `nul_character`. Fault codes of both: `malformed_quotes`, `unclosed_quote`, `cell_too_long`,
    `row_too_long`. Fault codes of the iteration: `empty_column_name`, and at the end `no_rows`.
    """

    columns: tuple[str, ...]
    """The names of the columns besides the destination, as the user wrote them."""
    encoding: str
    """`utf-8`, `utf-16-le`, `utf-16-be` or `cp1252`."""
    delimiter: str
    warnings: tuple[Fault, ...]
    """Warnings for the user about a file that can be read."""

    def __init__(self, stream: IO[bytes], region: str, destination_column: str | None = None) -> None:
        self._region = numbering_plan(region).region
        self._text = CsvText(stream, partial(may_be_header, chosen=destination_column))
        self.encoding = self._text.encoding
        self.delimiter = self._text.delimiter
        self._titles = 0
        first = list(islice(self._records(), 1))
        if not first:  # white space that `CsvText` does not recognize
            raise no_header()
        if not may_be_header(first[0], destination_column):
            first = self._first_records()
            self._titles = count_titles(first, destination_column)
        record = first[self._titles]
        names = [trimmed(name) for name in record]
        reasons = [places for columns in REASON_COLUMNS for places in find_added(names, columns)]
        found = [*find_added(names, RESULT_COLUMNS), *self._with_codes_of_ours(reasons)]
        # The other ones are the user's. Because of them, the names that were added last are longer.
        added = max(found, key=lambda places: len(names[places[0]]), default=())
        try:
            self._header = read_header(record, added, destination_column)
        except MissingDestination as error:
            # Above the first number, the row with the most names is the header: titles have few.
            above = takewhile(lambda record: not any(map(self._is_number, record)), first)
            widths = [sum(map(bool, map(trimmed, record))) for record in above]
            self._titles = widths.index(max(widths)) if widths else 0
            raise MissingDestination(str(error), self.find_phone_columns()) from None
        self._is_export = bool(added)
        self.columns = self._header.columns
        self.warnings = (_export_warning(len(added)),) if self._is_export else ()
        self.warnings += (_titles_warning(self._titles),) if self._titles else ()

    def __iter__(self) -> Iterator[Contact | InvalidRow]:
        region, text, header = self._region, self._text, self._header
        width = header.width
        is_whole = header.places == tuple(range(width)) and not self._is_export
        row = 0
        records = self._records()
        next(records)
        for row, record in enumerate(records, 1):
            beyond: list[str] = []
            had_nul = False
            if len(record) != width:
                beyond = without_trailing_blanks(record[width:])
                record = record[:width] + [""] * (width - len(record))
            if beyond or not is_whole:
                if beyond or header.unnamed:
                    header.check_unnamed(record, beyond, row)
                had_nul = header.code is not None and record[header.code] == "nul_character"
                record = header.chosen(record)
                if self._is_export:
                    record = [restored(cell) if "'" in cell else cell for cell in record]
                    beyond = [restored(cell) for cell in beyond]
                    if had_nul:
                        record = [cell.replace(NUL_SHOWN_AS, "\0") for cell in record]
                        beyond = [cell.replace(NUL_SHOWN_AS, "\0") for cell in beyond]
            if text.mark_seen or had_nul:
                whole = "".join((*record, *beyond))
                if "\0" in whole:
                    shown = [cell.replace("\0", NUL_SHOWN_AS) for cell in (*record, *beyond)]
                    yield self._invalid(row, "nul_character", "The row contains a NUL character.", shown)
                    continue
                if LOST_DIGITS in whole:
                    shown = [cell.replace(LOST_DIGITS, "") for cell in (*record, *beyond)]
                    message = "A number has more than 15 digits, so the spreadsheet lost some. Format its cell as text."
                    yield self._invalid(row, "digits_lost", message, shown)
                    continue
            if beyond:
                message = f"The row has {len(record) + len(beyond)} cells, {len(beyond)} more than the header."
                yield self._invalid(row, "too_many_cells", message, record + beyond)
                continue
            written = trimmed_destination(record[0])
            try:
                destination = parse(written, region)
            except DestinationError as error:
                yield self._invalid(row, error.code, str(error), record)
            else:
                cells = tuple(record[1:])
                yield Contact(row, written, destination.phone_number, destination.postd, cells, text.line_no)
        if row == 0:
            raise invalid_csv("no_rows", "The file has a header but no rows.")

    def _invalid(self, row: int, code: str, message: str, record: list[str]) -> InvalidRow:
        return InvalidRow(row, code, message, record[0], tuple(record[1:]), self._text.line_no)

    def find_phone_columns(self) -> list[PhoneColumn]:
        """The columns that look like phone numbers, the most likely ones first."""
        names = [trimmed(name) for name in next(self._records())]
        valid, filled = [0] * len(names), [0] * len(names)
        rows = islice(self._records(), 1, min(SAMPLE_ROWS, SAMPLE_CELLS // len(names)) + 1)
        # A fault in the file is reported when a column is chosen.
        with suppress(InvalidInput):
            for record in rows:
                for place, cell in enumerate(record[: len(names)]):
                    filled[place] += bool(cell.strip())
                    valid[place] += self._is_number(cell)
        found = [
            PhoneColumn(name, valid[place], filled[place])
            for place, name in enumerate(names)
            # A column whose name is a number has no header. One of two columns with the same name cannot be chosen.
            if names.count(name) == 1
            and name
            and valid[place] > filled[place] * LEAST_VALID
            and not self._is_number(name)
        ]
        return sorted(found, key=lambda column: -column.valid)

    def _is_number(self, cell: str) -> bool:
        with suppress(DestinationError):
            return bool(parse(trimmed(cell), self._region))
        return False

    def _with_codes_of_ours(self, found: list[Places]) -> list[Places]:
        """The columns of reasons in which every row has a code of ours. Reads the file only if there are candidates."""
        if found:
            records = self._records()
            next(records)
            for record in records:
                found = [
                    places
                    for places in found
                    if len(record) > places[CODE_PLACE] and record[places[CODE_PLACE]] in SKIPPED_CODES
                ]
                if not found:
                    break
        return found

    def _first_records(self) -> list[list[str]]:
        """The rows in which the header is searched. A fault after the first one is reported when the rows are read."""
        first: list[list[str]] = []
        with suppress(InvalidInput):
            first.extend(islice(self._records(), TITLE_ROWS))
        return first

    def _records(self) -> Iterator[list[str]]:
        return read_records(self._text, self._titles)


def read_records(text: CsvText, titles: int = 0) -> Iterator[list[str]]:
    """The header, then the rows, without blank lines and lines of delimiters only. `titles`: rows above the header.

    Raises `InvalidInput` with one of the fault codes `malformed_quotes`, `unclosed_quote`, `cell_too_long`,
    `row_too_long`.
    """
    # Strict, because the lenient reader reports no fault: it joins the texts around a stray quotation mark, and
    # with an unclosed one it reads the rest of the file as one cell.
    reader = csv.reader(text.lines(), delimiter=text.delimiter, strict=True)
    row = -titles
    try:
        for record in reader:
            text.records += 1
            if not (record and record[0].strip()) and is_blank(record):
                continue
            if row >= 0:
                yield record
            row += 1
    except csv.Error as error:
        raise _unreadable(row, text.line_no + 1, str(error)) from None


def _titles_warning(titles: int) -> Fault:
    above = "1 row above the header is" if titles == 1 else f"{titles} rows above the header are"
    return Fault("csv", "title_rows", f"{above} left out.")


def _export_warning(columns: int) -> Fault:
    return Fault(
        "csv",
        "exported_file",
        f"This file was exported by this service. The {columns} columns that the export added are left out, and the"
        " apostrophes that it put before formulas are removed.",
    )


def _unreadable(row: int, line: int, reason: str) -> InvalidInput:
    """The error for a fault that the csv module found in this row (0: the header). Only its message shows the cause."""
    place = f"row {row}" if row else "the header"
    unclosed = " The cause may be a quotation mark that is never closed."
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
            f"In {place}, text follows the closing quotation mark of a cell. Inside a quoted cell, write"
            " every quotation mark twice."
        )
    return invalid_csv(code, message, row=row or None, line=line if row else None)
