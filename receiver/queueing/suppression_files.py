"""A CSV or workbook of numbers to suppress: a column `phone_number`, perhaps `reason`. Others are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from receiver.database.pool import Connection, DatabaseUnavailable, naming_outages
from receiver.errors import Fault, ReceiverError
from receiver.phone_numbers.destination import parse
from receiver.queueing.contacts import read_records
from receiver.queueing.csv_text import CsvText
from receiver.queueing.header import invalid_csv, no_header
from receiver.queueing.submissions import FAULTS_NAMED
from receiver.queueing.suppressions import REASON_CHARACTERS, suppress_all
from receiver.queueing.workbook import opened_csv
from receiver.text.cells import trimmed
from receiver.text.formulas import restored
from receiver.text.quoting import quoted

PHONE_NUMBER, REASON = "phone_number", "reason"

MOST_NUMBERS = 1_000_000
"""In one file: they are kept in memory until the complete file is read."""

STORED_AT_ONCE = 10_000
"""Numbers in one transaction. A result that suppresses one of them waits for its end, with the counters of its batch
locked."""


@dataclass(frozen=True, slots=True)
class NumberFile:
    """A file's distinct valid numbers, each with its reason, and counts of its rows. `errors`: the first faults."""

    reasons: dict[int, str | None]
    valid: int
    invalid: int
    errors: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """Counts of a file's rows. `present`: suppressed before, or in an earlier row. `errors`: the first faults."""

    added: int
    present: int
    invalid: int
    errors: tuple[Fault, ...]


def read_numbers(stream: IO[bytes], region: str, reason: str | None = None) -> NumberFile:
    """Read a file. `reason`: of rows that name none. Raises InvalidInput (`invalid_csv`) if it cannot be read.

    It can take minutes, so no connection is needed yet.
    """
    reasons: dict[int, str | None] = {}
    shared: dict[str, str] = {}
    """One text for all rows with the same reason."""
    valid = invalid = 0
    errors: list[Fault] = []
    with opened_csv(stream) as csv:
        text = CsvText(csv, _is_header)
        records = read_records(text)
        header = next(records, None)
        if header is None:
            raise no_header()
        names = _names(header)
        if PHONE_NUMBER not in names:
            raise invalid_csv(
                "missing_phone_number",
                f'One column must be named "{PHONE_NUMBER}", but the file begins with "{quoted(header[0], 40)}".',
            )
        number_at, reason_at = names.index(PHONE_NUMBER), names.index(REASON) if REASON in names else None
        for row, record in enumerate(records, 1):
            try:
                number = parse(_cell(record, number_at), region).phone_number
                given = _cell(record, reason_at)
                _check_reason(given)
            except ReceiverError as error:
                invalid += 1
                if len(errors) < FAULTS_NAMED:
                    errors.append(Fault(row, error.code, str(error), text.line_no, _cell(record, number_at)))
                continue
            valid += 1
            reasons.setdefault(number, shared.setdefault(given, given) or reason)
            if len(reasons) > MOST_NUMBERS:
                raise invalid_csv("too_many_rows", f"The file has more than {MOST_NUMBERS:,} numbers. Split it.")
    return NumberFile(reasons, valid, invalid, tuple(errors))


def suppress_file(conn: Connection, file: NumberFile, *, by: str, note: str | None = None) -> Imported:
    """Suppress a file's numbers. Commits after each block of them.

    Raises DatabaseUnavailable with the numbers that were added until then; the same file again adds the others.
    """
    added, numbers = 0, sorted(file.reasons)
    try:
        with naming_outages():
            for at in range(0, len(numbers), STORED_AT_ONCE):
                block = {number: file.reasons[number] for number in numbers[at : at + STORED_AT_ONCE]}
                in_block = suppress_all(conn, block, by=by, note=note)
                conn.commit()
                added += in_block
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{error} {added} numbers were added before. Import the file again.") from error
    return Imported(added, file.valid - added, file.invalid, file.errors)


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_CHARACTERS:
        raise ReceiverError(f"The reason is longer than {REASON_CHARACTERS} characters.", code="too_long")
    if "\0" in reason:
        raise ReceiverError("The reason contains a NUL character.", code="nul_character")


def _cell(record: Sequence[str], at: int | None) -> str:
    """A cell as the user wrote it: exports put an apostrophe before what may be a formula."""
    return "" if at is None or at >= len(record) else trimmed(restored(record[at]))


def _names(record: Sequence[str]) -> list[str]:
    return [trimmed(name).lower() for name in record]


def _is_header(record: Sequence[str]) -> bool:
    return PHONE_NUMBER in _names(record)
