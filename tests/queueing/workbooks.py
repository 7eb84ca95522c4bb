"""Workbooks as spreadsheets write them, made without a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape, quoteattr
from zipfile import ZIP_DEFLATED, ZipFile

_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_ODF = "urn:oasis:names:tc:opendocument:xmlns"

DATE, TIME = 14, 22
"""Number formats that every .xlsx has."""


def archive(files: Mapping[str, str | bytes]) -> bytes:
    content = BytesIO()
    with ZipFile(content, "w", ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name, text)
    return content.getvalue()


def xlsx(
    rows: Sequence[Sequence[Any]],
    *,
    first_row: int = 1,
    hidden_sheet: bool = False,
    kind: str = "sheet",
    more: Mapping[str, str | bytes] | None = None,
) -> bytes:
    """A workbook with these rows from `first_row` on. `hidden_sheet`: a hidden sheet is before theirs."""
    lines = "".join(
        f'<row r="{number}">{"".join(_xlsx_cell(f"{_letters(place)}{number}", cell) for place, cell in enumerate(row))}'
        "</row>"
        for number, row in enumerate(rows, first_row)
    )
    return xlsx_of(f"<sheetData>{lines}</sheetData>", hidden_sheet=hidden_sheet, kind=kind, more=more)


def xlsx_of(
    sheet: str, *, hidden_sheet: bool = False, kind: str = "sheet", more: Mapping[str, str | bytes] | None = None
) -> bytes:
    """A workbook whose sheet has this XML."""
    states = ["hidden", "visible"] if hidden_sheet else ["visible"]
    names = [f"sheet{number}" for number in range(1, len(states) + 1)]
    listed = "".join(
        f'<sheet name="{name}" sheetId="{number}" state="{state}" r:id="r{number}"/>'
        for number, (name, state) in enumerate(zip(names, states, strict=True), 1)
    )
    related = "".join(
        f'<Relationship Id="r{number}" Type="{_OFFICE}/worksheet" Target="worksheets/{name}.xml"/>'
        for number, name in enumerate(names, 1)
    )
    formats = f'<xf numFmtId="0"/><xf numFmtId="{DATE}"/><xf numFmtId="{TIME}"/>'
    return archive(
        {
            "[Content_Types].xml": "<Types xmlns='http://schemas.openxmlformats.org/package/2006/content-types'>"
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml"'
            f' ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.{kind}.main+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="r1"'
            f' Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELATIONS}">{related}<Relationship Id="s"'
            f' Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
            "xl/styles.xml": f'<styleSheet xmlns="{_SHEET}"><cellXfs count="3">{formats}</cellXfs></styleSheet>',
            **{
                f"xl/worksheets/{name}.xml": f'<worksheet xmlns="{_SHEET}">'
                f"{sheet if name == names[-1] else '<sheetData/>'}</worksheet>"
                for name in names
            },
            **(more or {}),
        }
    )


def ods(rows: Sequence[Sequence[Any]], *, more: Mapping[str, str | bytes] | None = None) -> bytes:
    lines = "".join(f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>" for row in rows)
    return ods_of(lines, more=more)


def ods_of(lines: str, *, more: Mapping[str, str | bytes] | None = None) -> bytes:
    """A workbook whose table has this XML."""
    content = (
        f'<office:document-content xmlns:office="{_ODF}:office:1.0" xmlns:table="{_ODF}:table:1.0"'
        f' xmlns:text="{_ODF}:text:1.0" xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns"'
        f' office:version="1.3"><office:body><office:spreadsheet><table:table table:name="Sheet1">{lines}'
        "</table:table></office:spreadsheet></office:body></office:document-content>"
    )
    manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    media_type = "application/vnd.oasis.opendocument.spreadsheet"
    files = {"mimetype": media_type, "content.xml": content, "META-INF/manifest.xml": manifest}
    return archive({**files, **(more or {})})


def _letters(place: int) -> str:
    return chr(65 + place) if place < 26 else _letters(place // 26 - 1) + chr(65 + place % 26)


def _serial(value: date) -> float:
    """Days since the end of 1899, as .xlsx stores a time."""
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return (moment - datetime(1899, 12, 30)).total_seconds() / 86400


def _xlsx_cell(place: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{value:d}</v></c>'
    if isinstance(value, date):
        style = 2 if isinstance(value, datetime) else 1
        return f'<c r="{place}" s="{style}"><v>{_serial(value)!r}</v></c>'
    if isinstance(value, int | float):
        return f'<c r="{place}"><v>{value!r}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


def _ods_cell(value: Any) -> str:
    if value is None:
        return "<table:table-cell/>"
    if isinstance(value, bool):
        kind = f'office:value-type="boolean" office:boolean-value="{str(value).lower()}"'
    elif isinstance(value, date):
        kind = f'office:value-type="date" office:date-value="{value.isoformat()}"'
    elif isinstance(value, int | float):
        kind = f'office:value-type="float" office:value={quoteattr(repr(value))}'
    else:
        kind = 'office:value-type="string"'
    return f"<table:table-cell {kind}><text:p>{escape(str(value))}</text:p></table:table-cell>"
