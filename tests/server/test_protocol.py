"""Slow clients are disconnected, slow networks are tolerated, and a restart loses no request."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from uvicorn.config import Config
from uvicorn.server import Server

from receiver.server.protocol import (
    _IDLE,
    BYTES_PER_SECOND,
    HEAD_BYTES,
    HEAD_MAX_SECONDS,
    READ_SECONDS,
    RECEIVE_SECONDS,
    Connection,
)
from tests.waiting import eventually

KEEP_ALIVE_SECONDS = 75
ANSWER = b'{"status": "ok"}'
HEAD = b"POST /results/any HTTP/1.1\r\nHost: x\r\n"

_T = TypeVar("_T")


class Running:
    """A server with our connections, in a thread. Its application reads the body and answers `content`."""

    def __init__(self) -> None:
        self.content = ANSWER
        self.reads_body = True
        self.hold = threading.Event()
        self.hold.set()
        self.bodies: list[bytes | None] = []
        self.answered = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        config = Config(
            self._application,
            loop="uvloop",  # as in our worker
            http=Connection,
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self.server = Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))
        self._thread.start()
        eventually(lambda: self.server.started)

    async def _application(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self._loop = asyncio.get_running_loop()
        body = b""
        more = self.reads_body
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.bodies.append(None)
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await asyncio.to_thread(self.hold.wait)
        length = str(len(self.content)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.content})
        self.answered += 1

    def connect(self) -> socket.socket:
        return socket.create_connection(self._listener.getsockname()[:2], timeout=60)

    def connections(self) -> list[Connection]:
        return [each for each in list(self.server.server_state.connections) if isinstance(each, Connection)]

    def on_loop(self, function: Callable[[], _T]) -> _T:
        """Call it in the server's thread, which owns the connections."""
        loop = self._loop
        assert loop is not None
        done = asyncio.run_coroutine_threadsafe(_call(function), loop)
        return done.result(60)

    def unread(self) -> int:
        """Bytes of answers that clients have not read. Call it on the loop."""
        return sum(each.transport.get_write_buffer_size() for each in self.connections())

    def let_pass(self, seconds: float) -> None:
        """Check all connections as if `seconds` had passed since the last check."""

        def check() -> None:
            for each in self.connections():
                each.check(seconds)

        self.on_loop(check)

    def stop(self) -> None:
        self.hold.set()
        self.server.should_exit = True
        self.server.force_exit = True
        self._thread.join(60)
        self._listener.close()


async def _call(function: Callable[[], _T]) -> _T:
    return function()


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    with made.connect() as first:  # after the first request the loop is known
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        read_all(first)
    eventually(lambda: not made.connections())
    yield made
    made.stop()


def read_all(line: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    received = b""
    try:
        while block := line.recv(65536):
            received += block
    except ConnectionResetError:
        pass
    return received


def read_answer(line: socket.socket) -> bytes:
    received = b""
    while not received.endswith(ANSWER):
        block = line.recv(65536)
        assert block, received
        received += block
    return received


def opened(running: Running, sent: bytes) -> socket.socket:
    """A connection on which the server has received `sent`, the beginning of a request."""
    line = running.connect()
    line.sendall(sent)
    eventually(lambda: [each._phase != _IDLE for each in running.connections()] == [True])
    return line


@pytest.mark.parametrize("part", ["head", "body", "chunk"])
def test_client_that_stops_sending_is_disconnected(running: Running, part: str) -> None:
    rest = {"head": b"", "body": b"Content-Length: 9\r\n\r\n", "chunk": b"Transfer-Encoding: chunked\r\n\r\n"}
    with opened(running, HEAD + rest[part]) as line:
        running.let_pass(RECEIVE_SECONDS - 1)
        assert len(running.connections()) == 1
        running.let_pass(2)
        read_all(line)
        eventually(lambda: not running.connections())


def test_client_that_sends_fast_enough_may_take_long(running: Running) -> None:
    with opened(running, HEAD + b"Content-Length: 20000\r\n\r\n") as line:
        line.sendall(b"x" * 10_000)
        eventually(lambda: running.connections()[0]._received == 10_000)
        running.let_pass(RECEIVE_SECONDS + 10_000 / BYTES_PER_SECOND - 1)
        line.sendall(b"x" * 10_000)
        assert ANSWER in read_answer(line)


def test_head_must_end_however_fast_it_is_sent(running: Running) -> None:
    with opened(running, HEAD) as line:
        line.sendall(b"X-Long: " + b"x" * 40_000)
        eventually(lambda: running.connections()[0]._received >= 40_000)
        running.let_pass(HEAD_MAX_SECONDS + 1)
        read_all(line)
        eventually(lambda: not running.connections())


def test_head_that_is_too_long_is_refused(running: Running) -> None:
    with opened(running, HEAD) as line:
        try:
            line.sendall(b"X-Long: " + b"x" * (2 * HEAD_BYTES))
        except OSError:
            pass  # disconnected while it was still sending
        received = read_all(line)
        assert received == b"" or received.startswith(b"HTTP/1.1 431 ")
        eventually(lambda: not running.connections())
    assert running.bodies == [b""]


def test_head_after_a_long_body_counts_only_its_own_bytes(running: Running) -> None:
    body = b"x" * (64 << 10)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with running.connect() as line:
        line.sendall(request + HEAD)
        assert read_answer(line).startswith(b"HTTP/1.1 200 ")
        line.sendall(b"Content-Length: 1\r\n\r\nx")
        assert read_answer(line).startswith(b"HTTP/1.1 200 ")
    assert running.bodies[1:] == [body, b"x"]


def test_answer_is_dropped_if_the_connection_is_closed_behind_a_later_request(running: Running) -> None:
    running.hold.clear()
    with running.connect() as line:
        line.sendall((HEAD + b"Content-Length: 1\r\n\r\nx") * 2)
        eventually(lambda: len(running.bodies) == 2)
        running.on_loop(lambda: running.connections()[0].transport.close())
        assert read_all(line) == b""
    eventually(lambda: not running.connections())
    running.hold.set()
    eventually(lambda: running.answered == 2)


@pytest.mark.parametrize("asked_before", [False, True])
def test_idle_connection_is_closed_only_after_the_keep_alive_time(running: Running, asked_before: bool) -> None:
    with running.connect() as line:
        if asked_before:
            line.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
            read_answer(line)
        eventually(lambda: len(running.connections()) == 1)
        running.let_pass(KEEP_ALIVE_SECONDS - 1)
        line.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        read_answer(line)
        running.let_pass(KEEP_ALIVE_SECONDS + 1)
        assert read_all(line) == b""


def test_time_that_the_application_takes_does_not_count(running: Running) -> None:
    running.hold.clear()
    with running.connect() as line:
        line.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        eventually(lambda: len(running.bodies) == 2)
        running.let_pass(1000)
        running.hold.set()
        assert ANSWER in read_answer(line)


def test_client_that_reads_nothing_of_its_answer_is_disconnected(running: Running) -> None:
    running.content = b"x" * (16 << 20)
    with running.connect() as line:
        line.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        eventually(lambda: running.on_loop(running.unread) > 0)
        running.let_pass(1)  # the unread bytes are counted from here on
        running.let_pass(READ_SECONDS - 1)
        assert len(running.connections()) == 1
        running.let_pass(2)
        eventually(lambda: not running.connections())
        assert len(read_all(line)) < len(running.content)


def test_slow_reader_gets_the_whole_answer(running: Running) -> None:
    running.content = b"x" * (16 << 20)
    with running.connect() as line:
        line.sendall(HEAD + b"Content-Length: 1\r\nConnection: close\r\n\r\nx")
        received = 0
        while block := line.recv(4 << 20, socket.MSG_WAITALL):
            received += len(block)
            running.let_pass(READ_SECONDS / 3)
        assert received > len(running.content)


def test_client_that_ends_its_half_of_the_connection_gets_its_answer(running: Running) -> None:
    running.hold.clear()
    with running.connect() as line:
        line.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        line.shutdown(socket.SHUT_WR)
        eventually(lambda: len(running.bodies) == 2)
        running.hold.set()
        received = read_all(line)
        assert received.endswith(ANSWER) and b"Connection: close" in received


@pytest.mark.parametrize("sent", [b"Content-Length: 9\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n5\r\nx"])
def test_body_that_breaks_off_is_refused_and_never_used(running: Running, sent: bytes) -> None:
    with running.connect() as line:
        line.sendall(HEAD + sent)
        line.shutdown(socket.SHUT_WR)
        received = read_all(line)
        assert received.startswith(b"HTTP/1.1 400 ") and received.endswith(b'{"status": "incomplete"}')
    eventually(lambda: running.bodies == [b"", None])


def test_idle_connection_gets_one_more_answer_when_the_server_stops(running: Running) -> None:
    with running.connect() as line:
        line.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert b"Connection: close" not in read_answer(line)
        running.server.should_exit = True
        eventually(lambda: all(each._last_request for each in running.connections()))
        line.sendall(HEAD + b"Content-Length: 1\r\n\r\ny")
        received = read_all(line)
        assert received.endswith(ANSWER) and b"Connection: close" in received
    assert running.bodies == [b"", b"x", b"y"]


def test_connection_whose_body_came_after_its_answer_is_idle(running: Running) -> None:
    running.reads_body = False
    with running.connect() as line:
        line.sendall(HEAD + b"Content-Length: 4\r\n\r\nxx")
        read_answer(line)
        line.sendall(b"xx")
        eventually(lambda: [each._phase for each in running.connections()] == [0])
        running.let_pass(KEEP_ALIVE_SECONDS + 1)
        assert read_all(line) == b""
