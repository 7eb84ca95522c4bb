"""A user's CSV: it is refused or read as rows, independently of block boundaries, and written for the provider
unchanged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

from receiver.errors import InvalidInput
from receiver.queueing import csv_text
from receiver.queueing.contacts import Contact, ContactReader, InvalidRow
from receiver.queueing.header import MAX_COLUMNS
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.submissions import Plan, PlannedCall

SAMPLES = Path(__file__).parents[1] / "samples"
REGION = "US"

Row = Contact | InvalidRow


def check_csv_file(inputs: bytes) -> None:
    """The input: the file."""
    columns, rows = outcome(inputs)
    with patch.multiple(csv_text, _BLOCK=7, _VALIDATION_BLOCK=5):
        assert outcome(inputs) == (columns, rows)
    if not isinstance(rows, str):
        _check_rows(columns, rows)
        _check_written_csv(inputs, columns, [row for row in rows if isinstance(row, Contact)])


def outcome(content: bytes) -> tuple[tuple[str, ...], list[Row] | str]:
    """The columns and rows; if the file is refused, no columns and the errors as one text."""
    try:
        reader = ContactReader(BytesIO(content), REGION)
        return reader.columns, list(reader)
    except InvalidInput as error:
        assert error.code == "invalid_csv"
        assert 0 < len(error.faults) <= 100 and error.faults_total >= len(error.faults)
        for fault in error.faults:
            assert fault.message.endswith(".") and len(fault.message) < 300
            assert fault.message.isprintable()
        return (), "; ".join(f"{fault.where} {fault.code} {fault.message}" for fault in error.faults)


def _check_rows(columns: tuple[str, ...], rows: list[Row]) -> None:
    assert rows and len(columns) < MAX_COLUMNS
    for number, row in enumerate(rows, 1):
        assert row.row == number
        assert "\0" not in row.destination + "".join(row.cells)
        "".join([row.destination, *row.cells]).encode()
        if isinstance(row, Contact):
            assert len(row.cells) == len(columns) and 0 < row.phone_number < 10**15


def _check_written_csv(inputs: bytes, columns: tuple[str, ...], contacts: list[Contact]) -> None:
    """Check that the provider's CSV has the same cells, read according to RFC 4180 and by ContactReader."""
    parameters = BatchParameters(7, 3, on_invalid="skip", on_duplicate="keep")
    plan = Plan(ContactReader(BytesIO(inputs), REGION), parameters, 3, datetime.now(UTC))
    lines: dict[int, list[PlannedCall]] = defaultdict(list)
    for planned in plan:
        if isinstance(planned, PlannedCall):
            lines[planned.submission_no].append(planned)
    assert sorted(planned.row for calls in lines.values() for planned in calls) == [c.row for c in contacts]
    for draft in plan.submissions:
        calls = lines[draft.submission_no]
        sent = "".join(f"{line}\r\n" for line in (plan.header, *(planned.line for planned in calls)))
        assert len(sent.encode()) == draft.csv_bytes
        assert len({planned.phone_number for planned in calls}) == len(calls) == draft.calls <= 3
        expected = [contact for contact in contacts if contact.row in {c.row for c in calls}]
        cells = [["destination", *columns], *([c.destination, *c.cells] for c in expected)]
        assert rfc4180(sent) == cells
        reread_columns, reread = outcome(sent.encode())
        assert reread_columns == columns and not isinstance(reread, str)
        assert [(row.destination, row.cells) for row in reread] == [(c.destination, c.cells) for c in expected]


def rfc4180(text: str) -> list[list[str]]:
    """The records of a CSV, read strictly according to RFC 4180, without Python's csv module."""
    records: list[list[str]] = []
    at = 0
    while at < len(text):
        record = []
        while True:
            cell = ""
            if text.startswith('"', at):
                while True:
                    end = text.index('"', at + 1)
                    cell += text[at + 1 : end]
                    at = end + 1
                    if not text.startswith('"', at):
                        break
                    cell += '"'
            else:
                end = min(place for mark in (",", "\r\n") if (place := text.find(mark, at)) >= 0)
                cell, at = text[at:end], end
                assert not {'"', "\r", "\n"} & set(cell)
            record.append(cell)
            if not text.startswith(",", at):
                break
            at += 1
        assert text.startswith("\r\n", at)
        at += 2
        records.append(record)
    return records


def samples() -> Iterator[bytes]:
    for path in (SAMPLES / "contacts.csv", *sorted((SAMPLES / "csv").iterdir())):
        yield path.read_bytes()
    for delimiter in ",;\t|":
        for encoding in ("utf-8-sig", "utf-16", "cp1252"):
            rows = [["destination", "ä", ""], ["6175551234", "a\r\nb", '"'], ["6175551299", ";,\t|", ""], ["911"]]
            rows[0][2] = "note"
            text = "\r\n".join(
                delimiter.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in rows
            )
            yield text.encode(encoding)
