"""Answers and requests that break off, never end, or never begin: what each proves about the calls."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from receiver.release.multipart import CsvError
from receiver.release.provider import bulk_queue
from receiver.supervisor.ports import free_port
from tests.release.provider_server import (
    CSV,
    LONG_CSV,
    REQUEST,
    Server,
    answering,
    hold,
    http,
    provider,
    queue,
    read_request,
    refuse_early_and_hold,
    serving,
)


def take_until(fits: Callable[[float], bool], attempt: Callable[[], None], most: int = 5) -> float:
    """How long the first attempt took that fits, or the last: a stall of this machine may spoil one, and hardly all."""
    for _ in range(most):
        started = time.monotonic()
        attempt()
        took = time.monotonic() - started
        if fits(took):
            break
    return took


# Answers that break off, or never end


def test_no_answer_within_the_time_limit_is_unknown() -> None:
    def script(connection: socket.socket, server: Server) -> None:
        read_request(connection)
        server.over.wait(60)

    with serving(script) as server:
        answer = queue(server.url, read_timeout=0.5)
    assert (answer.state, answer.provider_status) == ("unknown", None)
    assert "TimeoutError" in str(answer.error) and "were sent" in str(answer.error)


@pytest.mark.parametrize(
    "pieces",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\xff\x00" * 500,
        b"HTTP/1.1 200 " + b"x" * 100_000,
        b"HTTP/1.1 401 X\r\n" + b"X-Header: x\r\n" * 1_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        http(200, b'{"calls_queued": 4}')[:-1],
        http(200, b"")[:-4] + b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        http(200, b"no gzip", "application/json", "Content-Encoding: gzip"),
    ],
)
def test_half_an_answer_or_nonsense_is_unknown_and_not_asked_again(pieces: bytes) -> None:
    with answering(pieces) as server:
        answer = queue(server.url)
        time.sleep(0.05)
        assert server.connections == 1
    assert (answer.state, answer.calls_queued) == ("unknown", None)
    assert "calls may have been queued" in str(answer.error)


def test_headers_that_break_off_are_unknown() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Le") as server:
        assert queue(server.url).state == "unknown"


def test_a_refusal_whose_body_breaks_off_is_refused_by_its_status() -> None:
    with answering(http(403, b"permission denied by the gateway", "text/plain")[:-12]) as server:
        answer = queue(server.url)
    assert (answer.state, answer.provider_status, answer.error) == ("refused", 403, "permission denied by")


def test_a_whole_count_in_a_body_that_breaks_off_is_accepted() -> None:
    with answering(http(200, b'{"calls_queued": 4} ')[:-1]) as server:
        assert queue(server.url).state == "accepted"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;"),
    ],
)
def test_a_trickling_answer_ends_at_twice_the_read_timeout(start: bytes, drop: bytes) -> None:
    def attempt() -> None:
        with answering(start, *[drop] * 400, pause=0.05) as server:
            assert queue(server.url, read_timeout=0.4).state == "unknown"
            assert server.pieces_sent < 400

    # Where the pieces stall, their silence ends it before.
    assert take_until(lambda took: took > 0.7, attempt) > 0.7


@pytest.mark.parametrize(
    ("endless", "named"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the answer is too long"),
        (b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 60_000 + b"\r\n\r\n", "the answer is too long"),
        (b"x" * 50, "LineTooLong"),
    ],
)
def test_endless_headers_end_at_the_size_limit(endless: bytes, named: str) -> None:
    def script(connection: socket.socket, server: Server) -> None:
        read_request(connection)
        while True:
            connection.sendall(endless)

    with serving(script) as server:
        answer = queue(server.url, read_timeout=10.0)
    assert answer.state == "unknown"
    assert named in str(answer.error)


# Requests that break off


def test_an_early_refusal_during_a_long_body_is_still_read() -> None:
    def script(connection: socket.socket, server: Server) -> None:
        connection.recv(1000)
        connection.sendall(http(401, b'{"error": "inactive"}'))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):  # as a server does that closes gracefully
            pass

    with serving(script) as server:
        answer = queue(server.url, LONG_CSV)
    assert (answer.state, answer.provider_status, answer.error) == ("refused", 401, "inactive")


def test_an_early_refusal_by_a_server_that_stops_reading_is_still_read() -> None:
    with serving(refuse_early_and_hold) as server:
        answer = queue(server.url, LONG_CSV, read_timeout=0.5)
    assert (answer.state, answer.provider_status, answer.error) == ("refused", 401, "inactive")


@pytest.mark.parametrize("reset", [False, True])
def test_an_early_refusal_and_a_closed_connection_is_refused_or_unknown_and_sent_once(reset: bool) -> None:
    def script(connection: socket.socket, server: Server) -> None:
        connection.recv(1000)
        connection.sendall(http(401, b'{"error": "inactive"}'))
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(script) as server:
        answer = queue(server.url, LONG_CSV)
        assert server.connections == 1
    # The peer's reset may overtake its answer; a kernel decides.
    assert (answer.state, answer.provider_status) in [("refused", 401), ("unknown", None)]


@pytest.mark.parametrize("taken", [1, 1_000, 5_000_000])
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_dropped_while_the_body_is_sent_is_unknown(taken: int, reset: bool) -> None:
    def script(connection: socket.socket, server: Server) -> None:
        left = taken
        while left > 0:
            left -= len(connection.recv(min(left, 1 << 16)))
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(script) as server:
        answer = queue(server.url, LONG_CSV)
        time.sleep(0.05)
        assert server.connections == 1
    assert (answer.state, answer.provider_status) == ("unknown", None)


def test_a_provider_that_stops_reading_ends_at_the_read_timeout() -> None:
    def attempt() -> None:
        with serving(hold) as server:
            assert queue(server.url, LONG_CSV, read_timeout=3.0, connect_timeout=0.3).state == "unknown"

    assert 2.9 < take_until(lambda took: took < 5.5, attempt, most=3) < 5.5  # and not as long again for an answer


def test_a_pause_longer_than_the_connect_timeout_does_not_end_the_sending() -> None:
    def script(connection: socket.socket, server: Server) -> None:
        time.sleep(0.8)
        server.requests.append(read_request(connection))
        connection.sendall(http(200, b'{"calls_queued": 1}'))

    with serving(script) as server:
        assert queue(server.url, LONG_CSV, connect_timeout=0.2, read_timeout=10.0).state == "accepted"


def test_a_body_taken_too_slowly_ends_at_the_send_timeout() -> None:
    def script(connection: socket.socket, server: Server) -> None:
        while connection.recv(200_000):
            time.sleep(0.2)

    with serving(script) as server:
        started = time.monotonic()
        answer = queue(server.url, LONG_CSV, send_timeout=0.6, connect_timeout=0.3)
        took = time.monotonic() - started
    assert answer.state == "unknown"
    assert took < 15


# The CSV's own faults


def failing_csv(good: int, error: Exception) -> Iterator[bytes]:
    yield from (b"x" * 100_000 for _ in range(good))
    raise error


def test_a_csv_that_fails_at_its_start_raises_before_anything_is_sent() -> None:
    with answering() as server, pytest.raises(ConnectionResetError):
        bulk_queue(provider(server.url), REQUEST, failing_csv(1, ConnectionResetError()), 200_000)
    assert server.connections == 0


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), BrokenPipeError(), ValueError("gone"), KeyError(1)])
def test_a_csv_that_fails_midway_is_unknown_at_once_and_never_looks_whole(error: Exception) -> None:
    with answering() as server:
        started = time.monotonic()
        answer = bulk_queue(provider(server.url), REQUEST, failing_csv(20, error), 5_000_000)
        assert time.monotonic() - started < 30
    assert answer.state == "unknown"
    assert type(error).__name__ in str(answer.error)
    assert server.requests == []


@pytest.mark.parametrize("said", [len(CSV) - 1, len(CSV) + 1])
def test_a_short_csv_of_another_length_than_said_is_not_sent(said: int) -> None:
    with answering() as server, pytest.raises(CsvError):
        bulk_queue(provider(server.url), REQUEST, [CSV], said)
    assert server.connections == 0


@pytest.mark.parametrize("said", [1_999_999, 2_000_001])
def test_a_long_csv_of_another_length_than_said_is_unknown(said: int) -> None:
    with answering(http(200, b'{"calls_queued": 1}')) as server:
        answer = bulk_queue(provider(server.url), REQUEST, (b"x" * 1000 for _ in range(2_000)), said)
    assert (answer.state, server.requests) == ("unknown", [])
    assert f"not {said:,} bytes long" in str(answer.error)


# No connection


def test_a_refused_connection_is_not_sent() -> None:
    answer = queue(f"http://127.0.0.1:{free_port()}")
    assert (answer.state, answer.provider_status) == ("not_sent", None)
    assert "Connection refused" in str(answer.error)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid"])
def test_a_name_that_does_not_resolve_is_not_sent(host: str) -> None:
    assert queue(f"https://{host}").state == "not_sent"


def test_a_connection_that_is_not_taken_in_time_is_not_sent() -> None:
    # A full backlog drops what comes next, so that connecting runs into its time limit.
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.05)
        answer = queue(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.3)
    assert answer.state == "not_sent"
    assert "timed out" in str(answer.error)


def test_what_the_caller_was_handling_is_not_named_in_the_error() -> None:
    try:
        raise RuntimeError("an earlier fault")
    except RuntimeError:
        answer = queue("http://127.0.0.1:9")
    assert answer.state == "not_sent"
    assert "earlier" not in str(answer.error)
