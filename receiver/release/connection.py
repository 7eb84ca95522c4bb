"""A connection for exactly one request, which records whether any byte of it can have left this machine.

It adds three things to the connection of urllib3: it records the progress of the request in `Passage`, each phase has
its own time limit, and an answer with its headers has a limit of time and size.
"""

from __future__ import annotations

import errno
import functools
import http.client
import io
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

WIRE_BYTES = 2 << 20
"""Longest answer: headers and body as they arrive."""


@dataclass(slots=True)
class Passage:
    """The progress of one request, and the time limits of its parts, in seconds.

    `read_timeout`: the longest pause in an answer, and the longest time to send one block. A complete answer may take
    twice as long. `send_timeout`: the complete request. `broken_off_timeout`: the wait for an answer after the provider
    stopped reading, because that answer is usually there already.
    """

    read_timeout: float
    send_timeout: float
    broken_off_timeout: float
    begun: bool = False  # from here on bytes may have left this machine
    sent_bytes: int = 0
    send_until: float = 0.0
    broken_off: bool = False

    @property
    def answer_timeout(self) -> float:
        return self.broken_off_timeout if self.broken_off else self.read_timeout * 2


class PlainConnection(HTTPConnection):
    """It is opened once. Then `passage` begins, with TLS after the handshake."""

    def __init__(self, *args: Any, passage: Passage, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passage = passage
        self.response_class = functools.partial(  # type: ignore[assignment]  # it is only ever called
            BoundedResponse, limits=lambda: (passage.read_timeout, monotonic() + passage.answer_timeout)
        )

    def connect(self) -> None:
        if self.passage.begun:  # http.client would silently open a lost connection again
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was lost")
        super().connect()
        self.passage.begun = True
        self.passage.send_until = monotonic() + self.passage.send_timeout

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        left = self.passage.send_until - monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            # urllib3 keeps the time limit for connecting, which is too short for a busy provider.
            self.sock.settimeout(min(left, self.passage.read_timeout))
            super().send(data)
            self.passage.sent_bytes += len(data)
        except (TimeoutError, ssl.SSLError) as error:
            # A provider that stopped reading may have answered before (with 401, for example). Only after a broken
            # pipe does urllib3 continue and read the answer.
            self.passage.broken_off = True
            raise BrokenPipeError(errno.EPIPE, "the provider stopped reading") from error


class TlsConnection(PlainConnection, HTTPSConnection):
    """The same over TLS."""


class BoundedResponse(http.client.HTTPResponse):
    """An answer with one time limit and one size limit for headers and body together.

    `limits`: the longest pause in seconds, and when the answer must be complete, on the monotonic clock.

    http.client limits the length and the number of header lines, but not their duration, nor the number of
    `100 Continue` before them. The time limit of a socket starts again with each byte.
    """

    def __init__(
        self, sock: socket.socket, *args: Any, limits: Callable[[], tuple[float, float]], **kwargs: Any
    ) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_BoundedReader(self.fp.detach(), sock, *limits()))


class _BoundedReader(io.RawIOBase):
    def __init__(self, wire: io.RawIOBase, sock: socket.socket, silence: float, until: float) -> None:
        self.wire = wire
        self.sock = sock
        self.silence = silence
        self.until = until
        self.left = WIRE_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        if self.left <= 0:
            raise OSError(errno.EMSGSIZE, "the answer is too long")
        self.sock.settimeout(min(left, self.silence))
        count: int | None = self.wire.readinto(buffer)
        self.left -= count or 0
        return count

    def close(self) -> None:
        self.wire.close()
        super().close()
