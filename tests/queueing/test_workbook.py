"""Workbooks become CSV in a child process, whatever they contain."""

from __future__ import annotations

import csv
from contextlib import suppress
from datetime import date, datetime
from io import BytesIO, StringIO
from typing import Any

import pytest

from receiver.errors import InvalidInput
from receiver.queueing import workbook
from receiver.queueing.contacts import Contact, ContactReader, InvalidRow
from receiver.queueing.workbook import opened_csv
from tests.queueing.workbooks import archive, ods, ods_of, xlsx, xlsx_of

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000)

ROWS: list[list[Any]] = [
    ["name", "when", "phone", "paid"],
    ["Björn", datetime(2026, 12, 1, 9, 30), 6175551234, True],
    [None],
    ["  Ana; \n", date(2026, 12, 1), "+1 617 555 1299", 0.1 + 0.2],
    ['"C"', datetime(2026, 12, 1, 23, 59, 59), 6175551235.0, -12],
]


def csv_in(content: bytes) -> list[list[str]]:
    with opened_csv(BytesIO(content)) as text:
        first, *rows = csv.reader(StringIO(text.read().decode(), newline=""))
    assert first == ["sep=", ""]
    return rows


def fault_in(content: bytes) -> str:
    with pytest.raises(InvalidInput) as raised, opened_csv(BytesIO(content)):
        pass
    assert raised.value.code == "invalid_csv"
    return raised.value.faults[0].code


def contacts_in(content: bytes, column: str | None = None) -> list[Contact | InvalidRow]:
    with opened_csv(BytesIO(content)) as text:
        return list(ContactReader(text, "US", column))


@pytest.mark.parametrize("make", [xlsx, ods])
def test_cells_are_read_as_they_are_meant(make: Any) -> None:
    assert csv_in(make(ROWS)) == [
        ["name", "when", "phone", "paid"],
        ["Björn", "2026-12-01T09:30:00", "6175551234", "TRUE"],
        [],
        ["  Ana; \n", "2026-12-01", "+1 617 555 1299", "0.3"],
        ['"C"', "2026-12-01T23:59:59", "6175551235", "-12"],
    ]


@pytest.mark.parametrize("make", [xlsx, ods])
def test_row_with_a_number_that_lost_digits_is_invalid(make: Any) -> None:
    account = 4_111_111_111_111_111
    rows = [["destination", "account"], [6175551234, 999_999_999_999_999], [6175551299, account], [account, "x"]]
    first, second, third = contacts_in(make(rows))
    assert isinstance(first, Contact) and first.cells == ("999999999999999",)
    assert isinstance(second, InvalidRow) and (second.row, second.line_no, second.code) == (2, 3, "digits_lost")
    assert second.cells == ("4.11111111111111e+15",)
    assert isinstance(third, InvalidRow) and third.code == "digits_lost"


@pytest.mark.parametrize("content", [xlsx(ROWS), xlsx(ROWS, first_row=7), ods([[None]] * 6 + ROWS)])
def test_rows_have_the_lines_of_the_spreadsheet(content: bytes) -> None:
    first_line = len(csv_in(content)) - 3
    found = contacts_in(content, "phone")
    assert [(row.row, row.line_no) for row in found] == [(1, first_line), (2, first_line + 2), (3, first_line + 3)]


def test_delimiter_in_the_first_cell_is_a_character() -> None:
    (contact,) = contacts_in(xlsx([["destination", "a;b|c\td"], ["6175551234", "x"]]))
    assert contact.cells == ("x",)
    (contact,) = contacts_in(xlsx([["sep=;", "destination"], ["x;y", "6175551234"]]), "destination")
    assert contact.cells == ("x;y",)


def test_first_visible_sheet_is_read() -> None:
    assert csv_in(xlsx([["destination"], ["6175551234"]], hidden_sheet=True)) == [["destination"], ["6175551234"]]


def test_file_that_is_no_workbook_is_left_as_it_is() -> None:
    stream = BytesIO(b"destination\n6175551234\n")
    with opened_csv(stream) as text:
        assert text is stream and text.tell() == 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (xlsx(ROWS, kind="sheet.macroEnabled"), "macro_workbook"),
        (xlsx(ROWS, more={"xl/vbaProject.bin": b"VBA"}), "macro_workbook"),
        (ods(ROWS, more={"Basic/script-lc.xml": "<library/>"}), "macro_workbook"),
        (OLE, "old_workbook"),
        (xlsx(ROWS, more={"xl/workbook.bin": b""}), "old_workbook"),
        (OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted_workbook"),
        (
            ods(
                ROWS,
                more={
                    "META-INF/manifest.xml": "<manifest:manifest"
                    ' xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><manifest:file-entry'
                    ' manifest:full-path="content.xml"><manifest:encryption-data/></manifest:file-entry>'
                    "</manifest:manifest>"
                },
            ),
            "encrypted_workbook",
        ),
        (b"PK\x03\x04", "broken_workbook"),
        (xlsx(ROWS)[:-200], "broken_workbook"),
        (archive({"letter.txt": "destination\n6175551234\n"}), "broken_workbook"),
        (xlsx_of("<sheetData><row><c></row>"), "broken_workbook"),
        (ods_of("<table:table-row><table:table-cell>"), "broken_workbook"),
        (ods_of("<"), "broken_workbook"),  # the library reads this without an end
        # Seventeen thousand million cells.
        (
            ods_of(
                '<table:table-row table:number-rows-repeated="1048576"><table:table-cell office:value-type="string"'
                ' table:number-columns-repeated="16384"><text:p>x</text:p></table:table-cell></table:table-row>'
            ),
            "broken_workbook",
        ),
    ],
)
def test_workbook_that_cannot_be_used_is_refused_by_name(content: bytes, code: str) -> None:
    assert fault_in(content) == code


CELL = '<c r="{}" t="inlineStr"><is><t>x</t></is></c>'


@pytest.mark.parametrize(
    ("content", "limits"),
    [
        # Two cells, which span 17 thousand million.
        (
            xlsx_of(
                f'<sheetData><row r="1">{CELL.format("A1")}</row>'
                f'<row r="1048576">{CELL.format("XFD1048576")}</row></sheetData>'
            ),
            {},
        ),
        # A kilobyte for each byte in the archive.
        (xlsx_of("<sheetData>" + " " * (64 << 20) + "</sheetData>"), {"CPU_SECONDS": 0}),
        (xlsx([["destination"], ["x" * (40 << 20)]]), {"MEMORY_BYTES": 96 << 20}),
        (xlsx([["x" * 100] * 10] * 2000), {"CSV_BYTES": 1 << 20}),
    ],
)
def test_workbook_that_needs_too_much_is_refused(
    content: bytes, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in limits.items():
        monkeypatch.setattr(workbook, name, most)
    assert len(content) < 200_000
    assert fault_in(content) == "large_workbook"


def test_entities_are_not_expanded() -> None:
    entities = "".join(f'<!ENTITY e{n} "' + f"&e{n - 1};" * 10 + '">' for n in range(1, 12))
    cell = CELL.format("A1").replace("<t>x", "<t>&e11;")
    sheet = f'<!DOCTYPE worksheet [<!ENTITY e0 "x">{entities}]><worksheet><sheetData>{cell}</sheetData></worksheet>'
    with suppress(InvalidInput), opened_csv(BytesIO(xlsx(ROWS, more={"xl/worksheets/sheet1.xml": sheet}))) as text:
        assert len(text.read()) < 100
