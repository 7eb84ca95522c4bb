"""Who sends a byte now and then, or takes none, is hung up on; who is only slow is waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from receiver.web import paced_socket
from receiver.web.paced_socket import PacedSocket

SHORT = 0.3


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PacedSocket, socket.socket]]:
    """Ours, and the client's, with little patience."""
    monkeypatch.setattr(paced_socket, "SEND_SECONDS", SHORT)
    monkeypatch.setattr(paced_socket, "HEAD_MOST_SECONDS", 2 * SHORT)
    monkeypatch.setattr(paced_socket, "TAKE_SECONDS", SHORT)
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield PacedSocket(ours), theirs


def trickle(theirs: socket.socket, stop: threading.Event, seconds: float = 0.02) -> threading.Thread:
    def send() -> None:
        while not stop.wait(seconds):
            theirs.send(b"x")

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def receive_all(line: PacedSocket) -> tuple[int, float]:
    """How many bytes came until we hung up, and how long that took."""
    began, received = time.monotonic(), 0
    while got := line.recv(100):
        received += len(got)
        assert time.monotonic() < began + 30, "nobody hung up"
    return received, time.monotonic() - began


@pytest.mark.parametrize("awaited", ["head", "body"])
def test_who_trickles_bytes_is_taken_for_one_who_hung_up(pair: tuple[PacedSocket, socket.socket], awaited: str) -> None:
    line, theirs = pair
    theirs.send(b"POST")
    assert line.recv(100) == b"POST"
    if awaited == "body":
        line.await_body()
    theirs.send(b"x")
    stop = threading.Event()
    thread = trickle(theirs, stop)
    try:
        received, seconds = receive_all(line)
        assert received > 0 and seconds >= SHORT
        theirs.send(b"more")
        assert line.recv(100) == b"", "a connection in whose middle we gave up is never used again"
    finally:
        stop.set()
        thread.join()


def test_who_sends_nothing_more_is_hung_up_on(pair: tuple[PacedSocket, socket.socket]) -> None:
    line, theirs = pair
    theirs.send(b"POST")
    line.recv(100)
    received, seconds = receive_all(line)
    assert received == 0 and seconds >= SHORT


def test_idle_connection_is_no_slow_sender(pair: tuple[PacedSocket, socket.socket]) -> None:
    """How long it may be idle, `keepalive` says."""
    line, theirs = pair
    for _ in range(2):
        timer = threading.Timer(2 * SHORT, theirs.send, (b"GET",))
        timer.start()
        assert line.recv(100) == b"GET"
        timer.join()
        line.await_body()
        line.await_request()


def test_who_sends_fast_enough_may_take_long(
    pair: tuple[PacedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_socket, "LEAST_BYTES_A_SECOND", 10)
    line, theirs = pair
    line.await_body()
    theirs.send(b"x" * 100)  # ten seconds' worth, so that a busy machine may trickle the rest as it can
    stop = threading.Event()
    thread = trickle(theirs, stop)
    try:
        end = time.monotonic() + 4 * SHORT
        while time.monotonic() < end:
            assert line.recv(100) != b""
    finally:
        stop.set()
        thread.join()


def test_head_has_an_end_however_fast_it_comes(
    pair: tuple[PacedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_socket, "LEAST_BYTES_A_SECOND", 1)
    line, theirs = pair
    theirs.send(b"G")
    line.recv(1)
    stop = threading.Event()
    thread = trickle(theirs, stop)
    try:
        assert receive_all(line)[1] >= 2 * SHORT
    finally:
        stop.set()
        thread.join()


def test_time_that_we_take_ourselves_is_not_held_against_the_sender(pair: tuple[PacedSocket, socket.socket]) -> None:
    line, theirs = pair
    line.await_body()
    theirs.send(b"body")
    assert line.recv(1) == b"b"
    time.sleep(2 * SHORT)
    assert line.recv(100) == b"ody"


def test_who_takes_nothing_of_the_answer_is_given_up_on(pair: tuple[PacedSocket, socket.socket]) -> None:
    line, _ = pair
    with pytest.raises(BrokenPipeError):
        line.sendall(b"x" * (16 << 20))


def test_slow_reader_gets_the_whole_answer(
    pair: tuple[PacedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_socket, "TAKE_SECONDS", 30.0)
    line, theirs = pair
    content = bytes(range(256)) * (16 << 10)
    taken = bytearray()

    def take() -> None:
        while len(taken) < len(content):
            time.sleep(0.001)
            taken.extend(theirs.recv(256 << 10))

    thread = threading.Thread(target=take)
    thread.start()
    line.sendall(content)
    thread.join()
    assert bytes(taken) == content


def test_idle_is_who_has_sent_nothing_of_the_next_request(pair: tuple[PacedSocket, socket.socket]) -> None:
    line, theirs = pair
    assert line.idle_seconds() > 0
    theirs.send(b"POST")
    assert line.recv(100) == b"POST"
    assert line.idle_seconds() == 0
    line.await_request()
    assert line.idle_seconds() > 0


def test_what_has_come_already_is_read_where_no_more_is_awaited(pair: tuple[PacedSocket, socket.socket]) -> None:
    line, theirs = pair
    theirs.send(b"POST")
    line.await_no_more()
    assert line.recv(100) == b"POST"
    theirs.close()
    line.await_no_more()
