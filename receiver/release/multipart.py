"""The body of a request: a form whose file is read while it is sent. An incomplete form never looks complete."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator

from receiver.errors import ReceiverError

_BLOCK_BYTES = 256 << 10


class CsvError(ReceiverError):
    """The CSV could not be read, or does not have the announced length."""

    code = "csv_unreadable"


class Multipart:
    """A `multipart/form-data` body (RFC 7578) in blocks of 256 KiB: parameters first, `csv` last.

    The name of the file is always `contacts.csv`, because the user's file name may contain the name of a customer.
    """

    def __init__(self, fields: dict[str, str], csv: Iterable[bytes], csv_bytes: int) -> None:
        self.boundary = secrets.token_hex(24)
        parts = [
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        parts.append(
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="csv"; filename="contacts.csv"\r\n'
            "Content-Type: text/csv; charset=utf-8\r\n\r\n"
        )
        opening = "".join(parts).encode()
        self._closing = f"\r\n--{self.boundary}--\r\n".encode()
        self._csv = iter(csv)
        self._csv_bytes = csv_bytes
        self._csv_taken = 0
        self._pending = bytearray(opening)
        self.length = len(opening) + csv_bytes + len(self._closing)

    def read_first_block(self) -> None:
        """Read the beginning of the CSV, so that its errors are raised before anything was sent."""
        more = self._fill()
        self._check_length(ended=not more)

    def __iter__(self) -> Iterator[bytes]:
        while self._fill_or_stop():
            while len(self._pending) >= _BLOCK_BYTES:
                yield bytes(memoryview(self._pending)[:_BLOCK_BYTES])
                del self._pending[:_BLOCK_BYTES]
        yield bytes(self._pending) + self._closing

    def _fill(self) -> bool:
        """Collect at least one block. False: the CSV has ended."""
        if len(self._pending) >= _BLOCK_BYTES:
            return True
        for piece in self._csv:
            self._pending += piece
            self._csv_taken += len(piece)
            if len(self._pending) >= _BLOCK_BYTES:
                return True
        return False

    def _fill_or_stop(self) -> bool:
        try:
            more = self._fill()
        except Exception as error:
            # An OSError must be converted: urllib3 mistakes some for errors of the peer, and waits for an answer.
            raise CsvError(f"the contacts could not be read completely ({described(error)})") from error
        self._check_length(ended=not more)
        return more

    def _check_length(self, *, ended: bool) -> None:
        if self._csv_taken > self._csv_bytes or (ended and self._csv_taken < self._csv_bytes):
            raise CsvError(f"the contacts are not {self._csv_bytes:,} bytes long, as announced")


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
