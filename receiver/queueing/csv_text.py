"""Decode a CSV file to lines of text: find its encoding, its delimiter and its faults.

The file is read twice, in blocks: first to check that all of it is UTF-8, because the first kilobytes do not prove it,
and then for its lines. Memory contains only a few blocks and one CSV record.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from itertools import chain
from typing import IO

from receiver.errors import InvalidInput
from receiver.queueing.header import invalid_csv, no_header
from receiver.queueing.workbook_child import LOST_DIGITS
from receiver.text.cells import is_blank

MAX_CELL = 131_072
"""Characters of a cell. This is the default of `csv.field_size_limit`."""

MAX_RECORD = 1 << 20
"""Bytes of a record (a row with its quoted line ends), with a tolerance of one block."""

RECORD_TOO_LONG = "record too long"
"""The message of the `csv.Error` that `CsvText.lines` raises for a longer record."""

_BLOCK = 1 << 16
_VALIDATION_BLOCK = 1 << 18

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

_DELIMITERS = ",;\t|"
_BLANKS = ' \u00a0\v\f\r\n"' + _DELIMITERS
_HEADER_CHARACTERS = 1 << 16
"""The first name of the header must be within these characters."""

# The line with which Excel sets the delimiter. Characters of numbers and names cannot be the delimiter.
_separator_line = re.compile(r"""\s*+"?sep=([^\w\s"'+.()\[\]\0-]|\t)"?(?:\1|\s)*+\Z""", re.I).match


class CsvText:
    """The text of a binary, seekable stream, which the caller closes.

    Raises `InvalidInput` (`invalid_csv`) with one of the fault codes `empty_file`, `undecodable`.
    """

    def __init__(self, stream: IO[bytes], is_header: Callable[[Sequence[str]], bool]) -> None:
        """`is_header`: whether a record may be the header. The delimiter is one with which it may."""
        self._stream = stream
        self._is_header = is_header
        self._lines_before = 0
        self.records = 0
        """How many records the consumer of `lines` has read. It must update this, because only the consumer knows where
        a record ends, and so how long the next one is."""
        self.mark_seen = False
        """Whether one of the lines so far contains a NUL or `LOST_DIGITS`."""
        stream.seek(0)
        start = stream.read(4)
        if not start:
            raise invalid_csv("empty_file", "The file is empty.")
        mark, encoding = next(((m, e) for m, e in _MARKS if start.startswith(m)), (b"", "utf-8"))
        self._start = len(mark)
        self.encoding = encoding
        faulty = [(encoding, self._first_undecodable(encoding))]
        if faulty[0][1] is not None and not mark:
            self.encoding = "cp1252"
            faulty.append(("cp1252", self._first_undecodable("cp1252")))
        self.delimiter = self._find_delimiter()
        if faulty[-1][1] is not None:
            raise self._undecodable([(name, offset) for name, offset in faulty if offset is not None])

    @property
    def line_no(self) -> int:
        """The line of the last record in a spreadsheet."""
        return self._lines_before + self.records

    def lines(self) -> Iterator[str]:
        """The lines from the beginning of the file, each with its line end: \\n, \\r\\n or \\r.

        A line end in a quoted cell also ends a line here. The csv module joins these lines.
        """
        self.records = 0
        self.mark_seen = False
        return chain.from_iterable(self._blocks_of_lines(self.encoding))

    def _blocks_of_lines(self, encoding: str, stop: int | None = None, end: str = "") -> Iterator[list[str]]:
        """Blocks of lines, up to the byte `stop`. If it is given, `end` replaces the text after it."""
        decoder = codecs.getincrementaldecoder(encoding)("strict" if stop is None else "replace")
        position = self._start
        unfinished = ""
        record, blocks_in_record = -1, 0
        while True:
            self._stream.seek(position)  # a caller may have changed the position since the last block
            block = self._stream.read(_BLOCK if stop is None else min(_BLOCK, stop - position))
            position += len(block)
            text = unfinished + decoder.decode(block, final=not block)
            if not block:
                text += end
            self.mark_seen = self.mark_seen or "\0" in text or LOST_DIGITS in text
            # Not str.splitlines, which also splits at form feeds, U+0085, U+2028 and more.
            lines = list(StringIO(text, newline=""))
            if not block:
                yield lines
                return
            # The last line may continue in the next block, perhaps only with the \n after its \r.
            unfinished = lines.pop() if lines else ""
            blocks_in_record = blocks_in_record + 1 if record == self.records else 0
            record = self.records
            if blocks_in_record > MAX_RECORD // _BLOCK:
                # A csv.Error, as for the limit of the csv module, because only the consumer knows the row.
                raise csv.Error(RECORD_TOO_LONG)
            yield lines

    def _first_undecodable(self, encoding: str) -> int | None:
        """The offset of the first byte that is not text in this encoding."""
        decoder = codecs.getincrementaldecoder(encoding)()
        position = self._start
        self._stream.seek(position)
        while True:
            block = self._stream.read(_VALIDATION_BLOCK)
            carried = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return position - carried + error.start
            if not block:
                return None
            position += len(block)

    def _find_delimiter(self) -> str:
        """The delimiter of a `sep=` line, or one with which the header is valid, or the one with the most names."""
        header = self._find_header()
        first_line = StringIO(header, newline="").readline()
        named = _separator_line(first_line)
        if named is not None:
            self._start += len(first_line.encode(self.encoding))
            header = self._find_header()
        if not header:
            raise no_header()
        if named is not None:
            return named[1]
        records = {delimiter: _first_record(header, delimiter) for delimiter in _DELIMITERS}
        found = [delimiter for delimiter, record in records.items() if self._is_header(record)]
        return max(found or _DELIMITERS, key=lambda delimiter: len(records[delimiter]))

    def _find_header(self) -> str:
        """Move the start past blank lines, and return the text after them, up to `_HEADER_CHARACTERS`."""
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        position = self._start
        text = ""
        while True:
            self._stream.seek(position)
            block = self._stream.read(_BLOCK)
            position += len(block)
            text += decoder.decode(block, final=not block)
            blank = len(text) - len(text.lstrip(_BLANKS))
            header_at = max(text.rfind("\n", 0, blank), text.rfind("\r", 0, blank)) + 1
            self._start += len(text[:header_at].encode(self.encoding))
            self._lines_before += len(list(StringIO(text[:header_at], newline="")))
            text = text[header_at:]
            found = text.strip(_BLANKS) != ""
            if not block or len(text) > (_HEADER_CHARACTERS if found else MAX_RECORD):
                return text[:_HEADER_CHARACTERS] if found else ""

    def _undecodable(self, faulty: list[tuple[str, int]]) -> InvalidInput:
        """The error for a file that no encoding fits. `faulty`: each encoding with its first invalid byte."""
        rows = [self._row_at(offset) for _, offset in faulty]
        reasons = [
            f"not {name.upper()} ({f'row {row}' if row else 'the header'})"
            for (name, _), row in zip(faulty, rows, strict=True)
        ]
        message = f"The file's bytes are {' and '.join(reasons)}. Save it as UTF-8."
        return invalid_csv("undecodable", message, row=rows[-1] or None)

    def _row_at(self, offset: int) -> int:
        """The row that contains the byte at `offset` (0: the header)."""
        self.records = 0
        row = -1
        try:
            lines = chain.from_iterable(self._blocks_of_lines(self.encoding, offset, "\ufffd"))
            for record in csv.reader(lines, delimiter=self.delimiter):
                self.records += 1
                row += not is_blank(record)
        except csv.Error:
            row += 1
        return row


def _first_record(header: str, delimiter: str) -> list[str]:
    """The first record. This is not strict, because faults in the header are reported when the records are read."""
    records = csv.reader(StringIO(header, newline=""), delimiter=delimiter)
    return next((record for record in records if not is_blank(record)), [])
