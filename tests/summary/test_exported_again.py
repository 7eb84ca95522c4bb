"""Files that this service exported, saved by a spreadsheet and queued again: the same destinations and variables."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from receiver.database.pool import Connection, Pool, open_pool
from receiver.database.replica import Reader
from receiver.errors import InvalidInput
from receiver.phone_numbers.destination import DestinationError
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.contacts import Contact, ContactReader, InvalidRow
from receiver.queueing.exported import RESULT_COLUMNS, SKIPPED_CODES, SKIPPED_COLUMNS
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.row_zones import NoCommonHours
from receiver.queueing.submissions import DUPLICATE, RECENT, SUPPRESSED
from receiver.summary.export import export_calls_csv, export_skipped_csv
from receiver.text.csv_line import csv_line

LIMITS = Limits(10_000, 3600)
PARAMETERS = BatchParameters(application_id=7, deployment_id=3, on_invalid="skip", on_duplicate="skip")


@pytest.fixture
def reader(database_url: str) -> Iterator[Reader]:
    pool: Pool = open_pool(database_url, max_size=1, name="test exported again")
    try:
        yield Reader(pool)
    finally:
        pool.close(timeout=2)


def file_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> IO[bytes]:
    lines = [csv_line(["destination", *columns]), *(csv_line(row) for row in rows)]
    return BytesIO("".join(f"{line}\r\n" for line in lines).encode())


@dataclass(frozen=True)
class Spreadsheet:
    """How a spreadsheet saves the file that it opened."""

    delimiter: str = ";"
    encoding: str = "utf-8-sig"
    quotes_all: bool = False
    sep_line: bool = False
    empty_columns: int = 0
    empty_rows: int = 0
    takes_apostrophes: bool = False
    added_first: bool = False
    kept: int = -1
    """One bit for each row."""

    def save(self, table: list[list[str]], added: tuple[str, ...]) -> bytes:
        header, *rows = table
        rows = [row for number, row in enumerate(rows) if self.kept >> (number % 8) & 1]
        if self.added_first:
            at = next(n for n in range(len(header)) if header[n].endswith(added[0]) and _is_run(header, n, added))
            table = [row[at : at + len(added)] + row[:at] + row[at + len(added) :] for row in [header, *rows]]
            header, *rows = table
        width = max(map(len, [header, *rows])) + self.empty_columns
        rows += [[]] * self.empty_rows
        text = StringIO(newline="")
        if self.sep_line:
            text.write(f"sep={self.delimiter}\r\n")
        writer = csv.writer(
            text, delimiter=self.delimiter, quoting=csv.QUOTE_ALL if self.quotes_all else csv.QUOTE_MINIMAL
        )
        writer.writerows([*row, *[""] * (width - len(row))] for row in [header, *rows])
        return text.getvalue().encode(self.encoding)


def _is_run(header: list[str], at: int, added: tuple[str, ...]) -> bool:
    names = header[at : at + len(added)]
    return len(names) == len(added) and all(a.endswith(b) for a, b in zip(names, added, strict=True))


SPREADSHEETS = st.builds(
    Spreadsheet,
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quotes_all=st.booleans(),
    sep_line=st.booleans(),
    empty_columns=st.integers(0, 2),
    empty_rows=st.integers(0, 2),
    takes_apostrophes=st.booleans(),
    added_first=st.booleans(),
    kept=st.integers(0, 255),
)
DESTINATIONS = st.sampled_from(
    [
        *("+1 (617) 555-1248", "6175551234", "tel:+16175551299", "16175550147;ani=8009957586", "'6175551235'"),
        *("+16175551236", "'+1 617 555 1237'", "-6175551238", "\n6175551239\t", "617.555.1240", "911", "", "=1+1"),
        *("@SUM(1)", "'=1", "6175551234.0", " \t911", "6175551234;x"),
    ]
)
CELLS = st.text(st.sampled_from("=+-@\t\r\n,;\"'0159. abé\uff1d\u2400"), max_size=5) | st.sampled_from(
    ["=1", "'=1", "''=1", "'", "'Tis", "\0", "x;=1", "x\n'=1", "+1;'-1+1", "duplicate"]
)
NAMES = st.sampled_from([*RESULT_COLUMNS, "code", "message", "result_row", "=name", "'=name", "first name", "ä", "'x"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    columns = draw(st.lists(NAMES, max_size=5, unique=True))
    rows = [["6175559999", *("" for _ in columns)]]
    for destination in draw(st.lists(DESTINATIONS, max_size=6)):
        extra = draw(st.sampled_from([0, 0, 0, 1, 2]))
        rows.append([destination, *(draw(CELLS) for _ in range(len(columns) + extra))])
    return columns, rows


def table_of(blocks: Iterator[bytes]) -> list[list[str]]:
    return list(csv.reader(StringIO(b"".join(blocks).decode(), newline=""), strict=True))


def without_apostrophes(table: list[list[str]], own: Mapping[str, Sequence[str]], row_at: int) -> list[list[str]]:
    """As a spreadsheet saves it that takes the apostrophe of a defused cell for its own mark of a text."""
    changed = [table[0]]
    for cells in table[1:]:
        originals = own[cells[row_at]]
        changed.append(
            [
                cell[1:] if place < len(originals) and cell.startswith("'") and not originals[place] == cell else cell
                for place, cell in enumerate(cells)
            ]
        )
    return changed


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), SPREADSHEETS)
@example((["row", "code", "message"], [["6175559999", "1", "a", "b"], ["911", "1", "duplicate", "="]]), Spreadsheet())
@example((list(RESULT_COLUMNS[:5]), [["+1 (617) 555-1248", "=1", "'=1", "''=1", "", "x;=1"]]), Spreadsheet("\t"))
def test_any_exported_and_saved_file_can_be_queued_unchanged(
    conn: Connection, reader: Reader, content: tuple[list[str], list[list[str]]], spreadsheet: Spreadsheet
) -> None:
    columns, rows = content
    first = ContactReader(file_of(columns, rows), "US")
    read = {str(row.row): row for row in first}
    try:
        batch_id = accept(conn, file_of(columns, rows), PARAMETERS, LIMITS).batch_id
        conn.commit()
    except InvalidInput:
        return
    for blocks, added in (
        (export_calls_csv(reader, batch_id), RESULT_COLUMNS),
        (export_skipped_csv(reader, batch_id), SKIPPED_COLUMNS),
    ):
        table = table_of(blocks)
        row_at = len(first.columns) + 1
        own = {
            number: (row.destination, *row.cells[: len(first.columns)])
            if added is SKIPPED_COLUMNS
            else (row.destination, *row.cells)
            for number, row in read.items()
        }
        if spreadsheet.takes_apostrophes:
            table = without_apostrophes(table, own, row_at)
        wanted = [read[cells[row_at]] for number, cells in enumerate(table[1:]) if spreadsheet.kept >> (number % 8) & 1]
        saved = spreadsheet.save(table, added)
        if not wanted:
            continue
        again = ContactReader(BytesIO(saved), "US")
        assert again.columns == first.columns
        assert [warning.code for warning in again.warnings] == ["exported_file"]
        for now, before in zip(again, wanted, strict=True):
            assert type(now) is type(before)
            assert (now.destination, now.cells) == (before.destination, before.cells)
            if isinstance(now, InvalidRow) and isinstance(before, InvalidRow):
                assert now.code == before.code


def read_again(header: str, *rows: str) -> tuple[ContactReader, list[Contact | InvalidRow]]:
    again = ContactReader(BytesIO("\r\n".join([header, *rows]).encode()), "US")
    return again, list(again)


def test_users_own_columns_of_these_names_are_sent() -> None:
    """The codes are not ours, or the names are in another order, incomplete, or not next to each other."""
    for header, row in (
        ("destination,row,code,message", "6175551234,7,A1,'=1"),
        ("destination,row,code,message", "6175551234,7,,duplicate"),
        ("destination,row,message,code", "6175551234,7,hello,duplicate"),
        ("destination,row,name,code,message", "6175551234,7,Ana,duplicate,x"),
        (f"destination,{','.join(reversed(RESULT_COLUMNS))}", "6175551234,'=1" + "," * 13),
        (f"destination,{','.join(RESULT_COLUMNS[:-2])}", "6175551234,'=1" + "," * 11),
    ):
        again, (contact,) = read_again(header, row)
        assert again.warnings == ()
        assert ",".join(again.columns) == header.partition(",")[2]
        assert ",".join(contact.cells) == row.partition(",")[2]


def test_with_one_unknown_code_the_columns_are_the_users() -> None:
    rows = ["6175551234,1,duplicate,x"] * 5000
    again, contacts = read_again("destination,row,code,message", *rows)
    assert (again.columns, len(contacts), len(again.warnings)) == ((), 5000, 1)
    again, contacts = read_again("destination,row,code,message", *rows, "6175551299,1,other,x")
    assert (again.columns, len(contacts), len(again.warnings)) == (("row", "code", "message"), 5001, 0)


def test_export_of_release_1_is_read() -> None:
    """It has no `withdrawn_reason`."""
    header = f"destination,=note,{','.join(RESULT_COLUMNS[:-1])}"
    again, (contact,) = read_again(header.replace("=note", "'=note"), "'+1 (617) 555-1248,'=1+1,1" + "," * 12)
    assert again.columns == ("=note",)
    assert (contact.destination, contact.cells) == ("+1 (617) 555-1248", ("=1+1",))


def test_only_the_columns_that_were_added_last_are_left_out() -> None:
    """Release 1.0.0 sent the added columns as variables. A batch with such variables keeps them."""
    names = [*RESULT_COLUMNS, *(f"result_{name}" for name in RESULT_COLUMNS)]
    again, _ = read_again(f"destination,{','.join(names)}", "6175551234" + ",1" * 28)
    assert again.columns == RESULT_COLUMNS


def test_every_code_of_a_skipped_row_is_known() -> None:
    source = "".join(Path(inspect.getfile(kind)).read_text() for kind in (ContactReader, DestinationError))
    codes = set(re.findall(r'code="(destination_\w+)"', source)) | set(re.findall(r'_invalid\(row, "(\w+)"', source))
    codes |= {DestinationError.code, DUPLICATE, SUPPRESSED, RECENT, NoCommonHours.code, "time_zone_unknown"}
    assert codes == SKIPPED_CODES
