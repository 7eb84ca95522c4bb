"""A workbook: any bytes are read as a CSV, or refused with a code."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from receiver.errors import InvalidInput
from receiver.queueing.workbook import opened_csv
from tests.fuzz.envelope import join_input, split_input
from tests.queueing.workbooks import ods, ods_of, xlsx, xlsx_of

CODES = {"broken_workbook", "encrypted_workbook", "large_workbook", "macro_workbook", "old_workbook"}

ROW = '<row r="1"><c r="A1" t="inlineStr"><is><t>destination</t></is></c><c r="B1"><v>1e15</v></c></row>'
CELL = '<table:table-row><table:table-cell office:value-type="float" office:value="6175551234"/></table:table-row>'


def check_workbook(inputs: bytes) -> None:
    """The input: a line with `xlsx` or `ods`, and the XML of the sheet; otherwise the file itself."""
    (kind, *_), rest = split_input(inputs, 1)
    sheet = rest.decode("utf-8", "replace")
    file = xlsx_of(sheet) if kind == "xlsx" else ods_of(sheet) if kind == "ods" else inputs
    try:
        with opened_csv(BytesIO(file)) as csv:
            text = csv.read()
    except InvalidInput as error:
        assert error.faults[0].code in CODES
    else:
        assert text == file or (text.startswith(b"sep=,\r\n") and text.decode("utf-8"))


def samples() -> Iterator[bytes]:
    rows: list[list[object]] = [["destination", "name"], [6175551234, "Ana"]]
    yield join_input("xlsx", f"<sheetData>{ROW}</sheetData>")
    yield join_input("ods", CELL)
    yield xlsx(rows)
    yield ods(rows)
