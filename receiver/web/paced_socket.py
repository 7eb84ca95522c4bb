"""A client's connection on which nobody may dawdle: who sends a byte now and then, on purpose, is hung up on.

gunicorn's gevent worker gives a request's head the time that it keeps an idle connection, and waits for a body for
ever; each such connection takes one of the `worker_connections`. The rule here is the one that Apache's
mod_reqtimeout has by default (`header=20-40,MinRate=500 body=20,MinRate=500`): twenty seconds for the head and as
many for the body, and a second more for each 500 bytes that came; forty at most for the head. Only what we waited
counts, not what we did with it meanwhile.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from errno import EPIPE
from time import monotonic
from typing import Any

SEND_SECONDS = 20.0
LEAST_BYTES_A_SECOND = 500
HEAD_MOST_SECONDS = 40.0

TAKE_SECONDS = 60.0
"""So long may a client take no byte of what it is answered (nginx: `send_timeout`)."""


class PacedSocket:
    """Wraps a socket of gevent's, or any with time-outs. A sender that is too slow looks like one that hung up.

    Where bytes are there already, or can be taken at once, it costs no timer.
    """

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.gettimeout, self.settimeout = client.gettimeout, client.settimeout
        self._too_slow = self._no_more = False
        self.await_request()

    def await_request(self) -> None:
        """Nothing of a request has come yet. How long that may last is the server's to say (`keepalive`)."""
        self._begun = self._in_body = False
        self._idle_since = monotonic()

    def idle_seconds(self) -> float:
        """How long a request has been awaited; 0 while there is one."""
        return 0.0 if self._begun else monotonic() - self._idle_since

    def await_no_more(self) -> None:
        """Whoever waits for the next request is told that the client hung up. What has come already is read first."""
        self._no_more = True
        with suppress(OSError):  # it is gone by itself
            self._client.shutdown(socket.SHUT_RD)

    def await_body(self) -> None:
        """The head is there."""
        self._begun = self._in_body = True
        self._waited, self._received = 0.0, 0

    def recv(self, size: int) -> bytes:
        """As of a socket; empty, too, where the sender was too slow, and ever after."""
        if not self._begun:
            self.settimeout(None)
            try:
                received = self._client.recv(size)
            except OSError:
                if not self._no_more:
                    raise
                received = self._client.recv(size)  # gevent ends the wait so; now it is what came before, or nothing
            self._begun, self._waited, self._received = True, 0.0, len(received)
            return received
        allowed = SEND_SECONDS + self._received / LEAST_BYTES_A_SECOND
        left = (allowed if self._in_body else min(allowed, HEAD_MOST_SECONDS)) - self._waited
        if left <= 0 or self._too_slow:
            self._too_slow = True
            return b""
        self.settimeout(left)
        began = monotonic()
        try:
            received = self._client.recv(size)
        except TimeoutError:
            self._too_slow = True
            return b""
        self._waited += monotonic() - began
        self._received += len(received)
        return received

    def sendall(self, content: bytes) -> None:
        """As of a socket. Raises BrokenPipeError where the client stopped taking."""
        if self.gettimeout() == 0.0:  # an error's words, which nobody waits for
            self._client.sendall(content)
            return
        self.settimeout(TAKE_SECONDS)
        try:
            sent = self._client.send(content)
            while sent < len(content):
                sent += self._client.send(memoryview(content)[sent:])
        except TimeoutError:
            raise BrokenPipeError(EPIPE, "the client takes nothing of the answer") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
