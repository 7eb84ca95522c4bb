"""Turn a workbook (.xlsx or .ods) into CSV at once. A child process with limits reads it; nothing of it is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, NoReturn

from receiver.queueing import workbook_child as child
from receiver.queueing.header import invalid_csv

MEMORY_BYTES, CPU_SECONDS, CSV_BYTES = 1 << 30, 60, 512 << 20
"""What the child may use."""

WALL_SECONDS = 240
"""The child is ended after this time, on a machine that is too busy to give it its processor time."""

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
"""The first bytes of .xlsx and .ods, and of .xls and encrypted .xlsx."""

_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
"""The name of the content of an encrypted .xlsx."""

_ENDED_BY_LIMIT = (-signal.SIGABRT, -signal.SIGKILL, -signal.SIGXCPU)
"""The library aborts if it gets no memory."""

_INHERITED = ("LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR")

_one_at_a_time = threading.Lock()
"""In each process, so that its threads together need no more memory."""

_MESSAGES = {
    child.ENCRYPTED: "The workbook is encrypted. Save it without a password.",
    child.LARGE: "The workbook is too large to be read. Save it as CSV (UTF-8).",
    child.MACROS: "The workbook contains macros. Save it as .xlsx without macros.",
    child.OLD: "The file is an .xls or .xlsb workbook. Save it as .xlsx.",
    child.BROKEN: "The file is not a complete .xlsx or .ods workbook. Save it again, or save it as CSV (UTF-8).",
}


@contextmanager
def opened_csv(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """The stream, or if it is a workbook, a temporary file with its first sheet as CSV.

    Raises `InvalidInput` (`invalid_csv`) with one of the fault codes `encrypted_workbook`, `large_workbook`,
    `macro_workbook`, `old_workbook`, `broken_workbook`.
    """
    stream.seek(0)
    start = stream.read(4)
    stream.seek(0)
    if start == _OLE:
        is_encrypted = any(_ENCRYPTED in block for block in iter(lambda: stream.read(1 << 20), b""))
        _refuse(child.ENCRYPTED if is_encrypted else child.OLD)
    if start != _ZIP:
        yield stream
        return
    with TemporaryFile() as workbook, TemporaryFile() as csv:
        shutil.copyfileobj(stream, workbook)
        workbook.seek(0)
        with _one_at_a_time:
            _convert(workbook, csv)
        csv.seek(0)
        yield csv


def _convert(workbook: IO[bytes], csv: IO[bytes]) -> None:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    try:
        ended = subprocess.run(  # noqa: S603 our own file
            [sys.executable, "-P", child.__file__, *map(str, (MEMORY_BYTES, CPU_SECONDS, CSV_BYTES))],
            stdin=workbook,
            stdout=csv,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=WALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        _refuse(child.LARGE)
    if ended.returncode:
        code = ended.stderr.decode(errors="replace").strip()
        if ended.returncode in _ENDED_BY_LIMIT:
            code = child.LARGE
        _refuse(code if code in _MESSAGES else child.BROKEN)


def _refuse(code: str) -> NoReturn:
    raise invalid_csv(code, _MESSAGES[code])
