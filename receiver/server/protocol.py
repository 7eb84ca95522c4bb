"""uvicorn's client connection, with limits for slow clients and a graceful close.

uvicorn waits without a limit for a request's head and body, and for a client that reads no answer. Each such connection
costs memory and a file descriptor, so anybody could exhaust a process. The limits are those that Apache's
mod_reqtimeout has by default (`header=20-40,MinRate=500 body=20,MinRate=500`): 20 seconds for the head, 20 for the
body, and one more second for each 500 bytes received; at most 40 seconds for the head. Only time spent waiting for the
client counts. One timer per process checks all connections, so a request pays almost nothing for it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import chain
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

RECEIVE_SECONDS = 20.0
BYTES_PER_SECOND = 500
HEAD_MAX_SECONDS = 40.0

HEAD_BYTES = 64 << 10
"""Longest head: request line and headers. nginx passes on at most 32 KiB."""

READ_SECONDS = 60.0
"""How long a client may read nothing of an answer (nginx: `send_timeout`)."""

CHECK_SECONDS = 1.0
"""Interval between checks of all connections."""

_IDLE, _HEAD, _BODY, _ANSWER = range(4)

URL_BYTES = 8 << 10
"""Longest request target, as in nginx and gunicorn."""


def _refusal(status: int, reason: str, code: str, detail: str) -> bytes:
    """An answer that the application does not see, as problem details (RFC 9457)."""
    problem = {"type": f"urn:result-url-receiver:problem:{code}", "title": reason, "status": status, "detail": detail}
    body = json.dumps({**problem, "code": code})
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    ).encode()


_BAD_REQUEST = _refusal(
    400, "Bad Request", "bad_request", "The request is incomplete or not valid HTTP. Send it again."
)
_URL_TOO_LONG = _refusal(414, "URI Too Long", "bad_request", f"The address is longer than {URL_BYTES} bytes.")
_HEAD_TOO_LONG = _refusal(
    431, "Request Header Fields Too Large", "bad_request", f"The headers are longer than {HEAD_BYTES} bytes."
)
_INCOMPLETE = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 24\r\nCache-Control: no-store\r\n"
    b'Connection: close\r\n\r\n{"status": "incomplete"}'
)
"""Answers a callback whose body breaks off, like `CUT_OFF` in receiver.intake.callback_rules."""

CALLBACKS = b"/results/"


@lru_cache(256)
def _line(name: bytes, value: bytes) -> bytes:
    """A header as it is sent. Cached, because most headers are the same in all answers."""
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header.")
    return b"%b: %b\r\n" % (name, value)


class _Exchange(RequestResponseCycle):
    """uvicorn's class for one request and its answer, with two differences.

    uvicorn writes all header names in lower case. HTTP allows this, but many scripts read the headers into a plain
    dictionary and look up `Location`. So names keep their case. uvicorn also writes the head separately, and each write
    is a system call: a quarter of the CPU time of a callback. So a short answer is one write.
    """

    _head = b""
    """The head of the answer until it is written, with the first part of the body."""

    async def send(self, message: Any) -> None:
        if not self.response_started and message["type"] == "http.response.start":
            self._start(message)
            return
        if self._head and not self.disconnected:
            head, self._head = self._head, b""
            body = message.get("body", b"")
            if self.chunked_encoding or self.scope["method"] == "HEAD" or len(body) > self.expected_content_length:
                self.transport.write(head)
            else:
                self.transport.writelines((head, body))
                self.expected_content_length -= len(body)
                message = {**message, "body": b""}
        await super().send(message)

    def _start(self, message: Any) -> None:
        if self.disconnected or self.transport.is_closing():
            self.disconnected = True  # so that the body is dropped, too; uvloop would raise RuntimeError
            return
        self.response_started, self.waiting_for_100_continue = True, False
        status, closes = message["status"], False
        head = [STATUS_LINE[status]]
        for name, value in (*((b"Date", value) for _, value in self.default_headers), *message.get("headers", ())):
            kind = name.lower()
            if kind == b"content-length":
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif kind == b"connection" and value.lower() == b"close":
                self.keep_alive, closes = False, True
            head.append(_line(name, value))
        if not (self.keep_alive or closes):
            head.append(b"Connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            head.append(b"Transfer-Encoding: chunked\r\n")
        head.append(b"\r\n")
        self._head = b"".join(head)


class Connection(HttpToolsProtocol):
    """One client connection on the event loop. `check` is called every CHECK_SECONDS."""

    _phase = _IDLE
    _received = 0
    _waited = 0.0
    _unread = 0
    _unread_seconds = 0.0
    _last_request = False
    _refusal = _BAD_REQUEST

    def data_received(self, data: bytes) -> None:
        # Count before parsing: the parser resets the count when a head or a body begins in `data`, so bytes of an
        # earlier request do not count.
        self._received += len(data)
        super().data_received(data)
        if self._phase == _HEAD and self._received > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LONG)
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """The client sends nothing more, but may still read. False closes the connection."""
        if self._phase == _ANSWER and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return True
        if self._phase == _BODY:
            self._refuse_body()
        return False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            self._refuse_head(_URL_TOO_LONG)

    def send_400_response(self, msg: str) -> None:
        if self._phase == _BODY:
            self._refuse_body()
        else:
            self.transport.write(self._refusal)
        self.transport.close()

    def _refuse_head(self, refusal: bytes) -> None:
        self._refusal = refusal
        raise ValueError("the head of a request is too long")  # ends the parsing: `send_400_response` is next

    def _refuse_body(self) -> None:
        """Answer that the body is incomplete. It is not stored: later it would look complete."""
        if not (self.pipeline or self.cycle.response_started):
            self.transport.write(_INCOMPLETE if self.url.startswith(CALLBACKS) else _BAD_REQUEST)
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._received, self._waited = _HEAD, 0, 0.0

    def on_headers_complete(self) -> None:
        if sum(map(len, chain.from_iterable(self.headers))) > HEAD_BYTES:
            self._refuse_head(_HEAD_TOO_LONG)
        self._phase, self._received, self._waited = _BODY, 0, 0.0
        super().on_headers_complete()
        self.cycle.__class__ = _Exchange  # uvicorn has no other way to choose it
        if self._last_request:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        # The application may have answered before the whole body arrived.
        self._phase, self._waited = (_IDLE if self.cycle.response_complete else _ANSWER), 0.0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Like uvicorn's method, but without a timer for each request: `check` closes idle connections."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._phase == _ANSWER:
            self._phase, self._waited = _IDLE, 0.0

    def shutdown(self) -> None:
        """Answer one more request, with `Connection: close`, before the connection is closed.

        A client that reuses an idle connection at this moment would otherwise lose its request. The worker closes what
        is idle for longer (STOPPING_IDLE_SECONDS).
        """
        self._last_request = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    @property
    def idle_seconds(self) -> float:
        """How long the connection was idle at the last check. 0 during a request."""
        return self._waited if self._phase == _IDLE else 0.0

    def check(self, seconds: float) -> None:
        """Close the connection if its client has been too slow; `seconds` since the last check."""
        self._check_reader(seconds)
        if self._phase in (_IDLE, _ANSWER) or self.flow.read_paused:
            if self._phase == _IDLE:
                self._waited += seconds
                if self._waited > self.timeout_keep_alive:
                    self.transport.close()
            return
        self._waited += seconds
        allowed = RECEIVE_SECONDS + self._received / BYTES_PER_SECOND
        if self._phase == _HEAD:
            allowed = min(allowed, HEAD_MAX_SECONDS)
        if self._waited > allowed:
            self.transport.close()

    def _check_reader(self, seconds: float) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread != self._unread:
            self._unread, self._unread_seconds = unread, 0.0
            return
        self._unread_seconds += seconds
        if self._unread_seconds > READ_SECONDS:
            self.transport.abort()
