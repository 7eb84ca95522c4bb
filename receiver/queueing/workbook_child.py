"""The child process that reads a workbook: standard input is the workbook, standard output its first sheet as CSV.

Its arguments are its limits: bytes of memory, seconds of processor time, bytes of the CSV. The operating system
enforces them, so a hostile workbook can only end this process. It imports nothing of this project, so that it starts
fast and holds no secret.
"""

from __future__ import annotations

import csv
import errno
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from xml.parsers.expat import ParserCreate
from zipfile import ZipFile

LOST_DIGITS = "\uffff"
"""Follows a number that has lost digits. XML cannot contain this character."""

BROKEN, ENCRYPTED, LARGE = "broken_workbook", "encrypted_workbook", "large_workbook"
MACROS, OLD = "macro_workbook", "old_workbook"

_EXACT = 10**15
"""A spreadsheet keeps 15 digits of a number."""

_MACROS = ("xl/vbaProject", "xl/macrosheets/", "Basic/", "Scripts/")


def main() -> str | None:
    """Returns the code of a fault; None if the CSV is complete."""
    limits = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
    for limit, most in zip(limits, (*map(int, sys.argv[1:]), 0), strict=True):
        resource.setrlimit(limit, (most, most))
    # Where memory is short, this process ends first. Only Linux has the file.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    from python_calamine import PasswordError

    try:
        fault = _find_fault()
        if fault is None:
            _write_csv()
        return fault
    except PasswordError:
        return ENCRYPTED
    except MemoryError:
        return LARGE
    except OSError as error:
        return LARGE if error.errno == errno.EFBIG else BROKEN
    except Exception:
        return BROKEN


def _find_fault() -> str | None:
    with ZipFile(sys.stdin.buffer) as archive:
        names = archive.namelist()
        if any(entry.flag_bits & 1 for entry in archive.infolist()):
            return ENCRYPTED
        if "content.xml" in names:
            with archive.open("content.xml") as file:
                ParserCreate().ParseFile(file)  # the library can read the broken XML of an .ods without an end
        kinds = b""
        for name in {"[Content_Types].xml", "META-INF/manifest.xml"}.intersection(names):
            with archive.open(name) as file:
                kinds += file.read(1 << 20)
    if b"encryption-data" in kinds:
        return ENCRYPTED
    if b"macroEnabled" in kinds or any(name.startswith(_MACROS) for name in names):
        return MACROS
    return OLD if "xl/workbook.bin" in names else None


def _write_csv() -> None:
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    sys.stdin.buffer.seek(0)
    with CalamineWorkbook.from_filelike(sys.stdin.buffer) as workbook:
        sheets = [
            place
            for place, sheet in enumerate(workbook.sheets_metadata)
            if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible
        ]
        sheet = workbook.get_sheet_by_index(sheets[0] if sheets else 0)
    with open(1, "w", encoding="utf-8", newline="", closefd=False) as output:
        write = csv.writer(output, lineterminator="\r\n").writerow
        # Without this line, a delimiter in the first cell could be taken for the file's.
        output.write("sep=,\r\n")
        for row in sheet.iter_rows():
            cells = [value if type(value) is str else _TEXT[type(value)](value) for value in row]
            while cells and not cells[-1]:
                cells.pop()
            write(cells)


def _number(value: float) -> str:
    if abs(value) >= _EXACT:
        return f"{value:.15g}{LOST_DIGITS}"
    return f"{value:.0f}" if value == int(value) else f"{value:.15g}"


def _span(value: timedelta) -> str:
    minutes, seconds = divmod(round(value.total_seconds()), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


_TEXT: dict[type, Callable[[Any], str]] = {
    bool: lambda value: str(value).upper(),
    int: _number,
    float: _number,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: _span,
}


if __name__ == "__main__":
    sys.exit(main())
