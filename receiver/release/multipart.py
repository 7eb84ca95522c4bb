"""The body of a request: a form whose file is read while it is sent. An incomplete form never looks complete."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from receiver.errors import ReceiverError

_BLOCK_BYTES = 256 << 10


class CsvError(ReceiverError):
    """The CSV could not be read, or does not have the announced length."""

    code = "csv_unreadable"


class Multipart(NamedTuple):
    """A `multipart/form-data` body (RFC 7578): its boundary, its length in bytes, and its blocks of 256 KiB."""

    boundary: str
    length: int
    blocks: Iterator[bytes]


def multipart(fields: dict[str, str], csv: Iterable[bytes], csv_bytes: int) -> Multipart:
    """A form with these parameters first, and `csv` last. `csv_bytes`: its length.

    The name of the file is always `contacts.csv`, because the user's file name may contain the name of a customer. The
    first block is read now, so that its errors are raised before anything was sent.
    """
    boundary = secrets.token_hex(24)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="csv"; filename="contacts.csv"\r\n'
        "Content-Type: text/csv; charset=utf-8\r\n\r\n"
    )
    opening, closing = "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()
    blocks = _blocks(opening, csv, csv_bytes, closing)
    return Multipart(boundary, len(opening) + csv_bytes + len(closing), chain([next(blocks)], _with_csv_errors(blocks)))


def _blocks(opening: bytes, csv: Iterable[bytes], csv_bytes: int, closing: bytes) -> Iterator[bytes]:
    pending, left = bytearray(opening), csv_bytes
    for piece in csv:
        pending += piece
        left -= len(piece)
        if left < 0:
            break
        while len(pending) >= _BLOCK_BYTES:
            yield bytes(memoryview(pending)[:_BLOCK_BYTES])
            del pending[:_BLOCK_BYTES]
    if left:
        raise CsvError(f"the contacts are not {csv_bytes:,} bytes long, as announced")
    yield bytes(pending) + closing


def _with_csv_errors(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks. Errors become CsvError: urllib3 mistakes some for errors of the peer, and waits for an answer."""
    try:
        yield from blocks
    except CsvError:
        raise
    except Exception as error:
        raise CsvError(f"the contacts could not be read completely ({described(error)})") from error


def described(error: BaseException) -> str:
    """The first cause of `error` in a few words, because the outer errors repeat addresses and object ids.

    This does not follow `__context__`, which leads to an error that the caller was handling.
    """
    while not isinstance(error, ReceiverError):
        within = (error.__cause__, getattr(error, "reason", None), *error.args)
        cause = next((each for each in within if isinstance(each, BaseException)), None)
        if cause is None:
            break
        error = cause
    words = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
