"""Against real sockets: each server is a function that gets one accepted connection."""

from __future__ import annotations

import base64
import gzip
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from receiver import __version__
from receiver.errors import ConfigurationError
from receiver.queueing.answer import ANSWER_BYTES
from receiver.queueing.provider import Answer, CsvError, Provider, QueueRequest, bulk_queue

USER, KEY = "björn@example.com", "schlüssel-☎-1f2e3d"
REQUEST = QueueRequest(7, 3, "https://calls.example.com/results/abc.def")
CSV = b'"destination","name"\n"6175551234","Bj\xc3\xb6rn"\n'
LONG_CSV = b'"6175551234","a name of some length"\n' * 1_000_000  # 37 MB, more than any socket buffer


@dataclass
class Server:
    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    scheme: str = "http"
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextmanager
def serving(script: Callable[[socket.socket, Server], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run `script` for each connection until the block ends; connections are closed after it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener.getsockname()[1], scheme="https" if tls else "http")

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                server.connections += 1
                connection.settimeout(20)
                # A peer that hangs up is what several tests are about.
                with connection, suppress(OSError):
                    if tls:
                        with tls.wrap_socket(connection, server_side=True) as wrapped:
                            script(wrapped, server)
                    else:
                        script(connection, server)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)
            assert not thread.is_alive()


def hang_up(connection: socket.socket, server: Server) -> None:
    pass


def hold(connection: socket.socket, server: Server) -> None:
    server.over.wait(20)


def refuse_early_and_hold(connection: socket.socket, server: Server) -> None:
    connection.recv(1000)
    connection.sendall(http(401, b'{"error": "inactive"}'))
    server.over.wait(20)


def read_request(connection: socket.socket) -> bytes:
    """One whole request, its body unchunked; ConnectionError when it ends before."""
    with connection.makefile("rb") as stream:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                raise ConnectionError
            head += line
        lowered = head.lower()
        if b"content-length: " in lowered:
            left = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
            body = stream.read(left)
            if len(body) < left:
                raise ConnectionError
            return head + body
        body = b""
        while line := stream.readline():
            size = int(line, 16)
            body += stream.read(size)
            stream.readline()
            if size == 0:
                return head + body
        raise ConnectionError


def http(status: int, body: bytes, content_type: str = "application/json", *headers: str) -> bytes:
    lines = (
        f"HTTP/1.1 {status} X",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


@contextmanager
def answering(*pieces: bytes, pause: float = 0.0) -> Iterator[Server]:
    """Read the request whole, then send the pieces, `pause` seconds apart, and hang up."""

    def script(connection: socket.socket, server: Server) -> None:
        server.requests.append(read_request(connection))
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    with serving(script) as server:
        yield server


def provider(url: str, **changes: object) -> Provider:
    return Provider(url, USER, KEY, **{"connect_timeout": 5.0, "read_timeout": 10.0, **changes})  # type: ignore[arg-type]  # floats and a path, by name


def queue(url: str, csv: bytes = CSV, **changes: object) -> Answer:
    """One request, and what must hold for every answer."""
    answer = bulk_queue(provider(url, **changes), REQUEST, [csv], len(csv))
    for shown in (answer.error, answer.answer_text, repr(answer)):
        for secret in (USER, KEY, base64.b64encode(f"{USER}:{KEY}".encode()).decode()):
            assert secret not in (shown or "")
    return answer


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Headers
    form: list[tuple[str, str]]
    files: dict[str, tuple[str | None, str, bytes]]  # name: file name, content type, content


def parsed(request: bytes) -> Received:
    """The request as Werkzeug reads it."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = line.split(" ")
    headers = Headers([(name, value) for name, _, value in (each.partition(": ") for each in lines)])
    if headers.pop("Transfer-Encoding", None) == "chunked":
        headers["Content-Length"] = str(len(body))  # read_request has unchunked it
    environ = EnvironBuilder(path, method=method, data=body, headers=headers).get_environ()
    with Request(environ) as read:
        files = {name: (file.filename, file.content_type or "", file.read()) for name, file in read.files.items()}
        return Received(read.method, read.path, headers, list(read.form.items(multi=True)), files)


# What is sent


def test_the_request_is_the_documented_form_with_the_csv_last() -> None:
    request = QueueRequest(7, 3, "https://calls.example.com/results/abc", 1764580000, 1764590000, 3, 300, is_pci=True)
    with answering(http(200, b'{"calls_queued": 1}')) as server:
        answer = bulk_queue(provider(server.url + "/base/"), request, [CSV[:9], b"", CSV[9:]], len(CSV))
    assert answer == Answer("accepted", 200, 1, None, '{"calls_queued": 1}')
    received = parsed(server.requests[0])
    assert (received.method, received.path) == ("POST", "/base/api/apps/7/3/bulk_queue")
    assert received.form == [
        ("start_timestamp", "1764580000"),
        ("end_timestamp", "1764590000"),
        ("max_attempts", "3"),
        ("reattempt_wait", "300"),
        ("result_url", "https://calls.example.com/results/abc"),
        ("is_pci", "1"),
    ]
    assert received.files == {"csv": ("contacts.csv", "text/csv; charset=utf-8", CSV)}
    raw = server.requests[0]
    assert raw.rindex(b'name="csv"') > raw.rindex(b'name="is_pci"')
    assert received.headers["Accept"] == "application/json"
    assert received.headers["User-Agent"] == f"result-url-receiver/{__version__}"
    assert received.headers["Content-Length"] == str(len(raw.partition(b"\r\n\r\n")[2]))
    assert b"Transfer-Encoding" not in raw


def test_a_parameter_that_was_not_given_is_left_out() -> None:
    with answering(http(200, b'{"calls_queued": 1}')) as server:
        queue(server.url)
    assert parsed(server.requests[0]).form == [("result_url", REQUEST.result_url), ("is_pci", "0")]


def test_credentials_outside_latin_1_are_sent_as_utf_8() -> None:
    with answering(http(200, b'{"calls_queued": 1}')) as server:
        queue(server.url)
    header = parsed(server.requests[0]).headers["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"{USER}:{KEY}"


def test_a_csv_of_unknown_length_goes_out_chunked_and_whole() -> None:
    csv = [b"destination\n", *(b"%010d\n" % n for n in range(100_000))]
    with answering(http(200, b'{"calls_queued": 100000}')) as server:
        answer = bulk_queue(provider(server.url), REQUEST, iter(csv))
    assert answer.state == "accepted"
    assert b"\r\nTransfer-Encoding: chunked\r\n" in server.requests[0]
    assert parsed(server.requests[0]).files["csv"][2] == b"".join(csv)


@pytest.mark.parametrize("size", [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 3 << 20])
def test_a_csv_of_any_size_in_one_piece_arrives_whole(size: int) -> None:
    csv = b"0123456789abcde\n" * (size // 16) + b"x" * (size % 16)
    with answering(http(200, b'{"calls_queued": 0}')) as server:
        assert queue(server.url, csv).state == "accepted"
    assert parsed(server.requests[0]).files["csv"][2] == csv


def test_netrc_and_proxies_of_the_environment_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with answering(http(200, b'{"calls_queued": 1}')) as server:
        assert queue(server.url).state == "accepted"
    header = parsed(server.requests[0]).headers["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"{USER}:{KEY}"


def test_memory_does_not_grow_with_the_csv() -> None:
    def sink(connection: socket.socket, server: Server) -> None:
        received, buffer = 0, bytearray(1 << 20)
        while received < 60_000_000:
            received += connection.recv_into(buffer)
        connection.sendall(http(200, b'{"calls_queued": 1}'))

    piece = b"x" * 60_000
    with serving(sink) as server:
        tracemalloc.start()
        try:
            answer = bulk_queue(provider(server.url), REQUEST, (piece for _ in range(1_000)), 60_000_000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert answer.state == "accepted"
    assert peak < 8_000_000


# What the provider answers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"error": "no such thing"}'),
        ("application/xml", b"<result><error>no such thing</error></result>"),
    ],
)
def test_a_documented_refusal_is_refused(status: int, content_type: str, body: bytes) -> None:
    with answering(http(status, body, content_type)) as server:
        assert queue(server.url) == Answer("refused", status, None, "no such thing", body.decode())
        assert server.connections == 1


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"calls_queued": "2"}'),
        ("application/xml", b"<result><calls_queued>2</calls_queued></result>"),
    ],
)
def test_a_documented_acceptance_is_accepted(content_type: str, body: bytes) -> None:
    with answering(http(200, body, content_type)) as server:
        assert queue(server.url) == Answer("accepted", 200, 2, None, body.decode())


@pytest.mark.parametrize("status", [408, 413, 429, 500, 502, 503, 504])
def test_a_gateways_error_page_is_unknown_and_not_retried(status: int) -> None:
    page = f"<html><title>{status} Oops</title><h1>{status} Oops</h1></html>".encode()
    with answering(http(status, page, "text/html", "Retry-After: 0")) as server:
        answer = queue(server.url)
        time.sleep(0.1)
        assert server.connections == 1
    assert (answer.state, answer.provider_status, answer.error) == ("unknown", status, f"{status} Oops")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    with answering(http(200, b'{"calls_queued": 1}')) as elsewhere:
        with answering(http(status, b"", "text/html", f"Location: {elsewhere.url}/")) as server:
            answer = queue(server.url)
        assert (answer.state, answer.provider_status) == ("unknown", status)
        assert elsewhere.connections == 0


def test_credentials_that_an_error_page_echoes_are_struck_out() -> None:
    token = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
    body = f"{USER} {KEY} Basic {token}".encode()
    with answering(http(400, body, "text/plain; charset=utf-8")) as server:
        answer = queue(server.url)
    assert answer.error == answer.answer_text == "[redacted] [redacted] Basic [redacted]"


def test_a_credential_that_stands_where_reading_ends_is_not_kept_by_half() -> None:
    body = f"{KEY} ".encode() * 100
    body += b"x" * (ANSWER_BYTES - len(body) - 10) + KEY.encode() * 40
    answer_bytes = http(400, body, "text/plain; charset=utf-8")
    end = answer_bytes.index(body) + ANSWER_BYTES
    with answering(answer_bytes[:end], answer_bytes[end:], pause=0.2) as server:
        answer = queue(server.url)
    assert answer.answer_text is not None
    assert len(answer.answer_text) > ANSWER_BYTES - 2_000
    assert KEY[:5] not in answer.answer_text


def test_a_page_of_ten_megabytes_is_kept_to_one_and_not_waited_for() -> None:
    with answering(http(500, b"0123456789" * 1_000_000, "text/plain")) as server:
        answer = queue(server.url)
    assert answer.state == "unknown"
    assert len(answer.answer_text or "") == ANSWER_BYTES


def test_a_compressed_answer_is_read() -> None:
    body = gzip.compress(b'{"calls_queued": 5}')
    with answering(http(200, body, "application/json", "Content-Encoding: gzip")) as server:
        assert queue(server.url).calls_queued == 5


def test_a_decompression_bomb_is_kept_to_one_mebibyte() -> None:
    bomb = gzip.compress(b"\0" * 500_000_000, 1)
    with answering(http(500, bomb, "text/plain", "Content-Encoding: gzip")) as server:
        tracemalloc.start()
        try:
            answer = queue(server.url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert answer.state == "unknown"
    assert len((answer.answer_text or "").encode()) <= ANSWER_BYTES
    assert peak < 60_000_000


# Answers that break off, or never end


def test_no_answer_within_the_time_limit_is_unknown() -> None:
    with answering(b"", pause=1.5) as server:
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
    with answering(start, *[drop] * 400, pause=0.05) as server:
        started = time.monotonic()
        answer = queue(server.url, read_timeout=0.4)
        took = time.monotonic() - started
        assert answer.state == "unknown"
        assert 0.7 < took < 10


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
    with serving(hold) as server:
        started = time.monotonic()
        answer = queue(server.url, LONG_CSV, read_timeout=3.0, connect_timeout=0.3)
        took = time.monotonic() - started
    assert answer.state == "unknown"
    assert 2.9 < took < 5.5  # and not as long again for an answer


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
        bulk_queue(provider(server.url), REQUEST, failing_csv(1, ConnectionResetError()))
    assert server.connections == 0


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), BrokenPipeError(), ValueError("gone"), KeyError(1)])
@pytest.mark.parametrize("length", [None, 5_000_000])
def test_a_csv_that_fails_midway_is_unknown_at_once_and_never_looks_whole(error: Exception, length: int | None) -> None:
    with answering() as server:
        started = time.monotonic()
        answer = bulk_queue(provider(server.url, read_timeout=10.0), REQUEST, failing_csv(20, error), length)
        assert time.monotonic() - started < 5
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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = queue(f"http://127.0.0.1:{port}")
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


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_a_request_over_tls_is_accepted(certificate: tuple[Path, ssl.SSLContext]) -> None:
    def script(connection: socket.socket, server: Server) -> None:
        server.requests.append(read_request(connection))
        connection.sendall(http(200, b'{"calls_queued": 1}'))

    ca_file, context = certificate
    with serving(script, context) as server:
        assert queue(server.url, ca_file=str(ca_file)).state == "accepted"


def test_a_certificate_that_is_not_trusted_is_not_sent(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(certificate[0]))
    with serving(hang_up, certificate[1]) as server:
        answer = queue(server.url)
    assert answer.state == "not_sent"
    assert "self-signed certificate" in str(answer.error)


def test_a_certificate_for_another_name_is_not_sent(certificate: tuple[Path, ssl.SSLContext]) -> None:
    with serving(hang_up, certificate[1]) as server:
        answer = queue(f"https://localhost:{server.port}", ca_file=str(certificate[0]))
    assert answer.state == "not_sent"
    assert "Hostname mismatch" in str(answer.error)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_that_speaks_no_tls_is_not_sent(said: bytes) -> None:
    def script(connection: socket.socket, server: Server) -> None:
        connection.recv(1)
        connection.sendall(said)

    with serving(script) as server:
        assert queue(f"https://127.0.0.1:{server.port}").state == "not_sent"


def test_a_handshake_that_never_ends_is_not_sent() -> None:
    with serving(hold) as server:
        answer = queue(f"https://127.0.0.1:{server.port}", connect_timeout=0.3)
    assert answer.state == "not_sent"


def test_a_tls_connection_cut_while_the_body_is_sent_is_unknown(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    def script(connection: socket.socket, server: Server) -> None:
        connection.recv(1000)

    ca_file, context = certificate
    with serving(script, context) as server:
        answer = queue(server.url, LONG_CSV, ca_file=str(ca_file))
        assert server.connections == 1
    assert answer.state == "unknown"


def test_broken_tls_records_while_the_body_is_sent_are_unknown_although_an_ssl_error(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    """A kind of error that a client which goes by exception types takes for a failed handshake."""

    def script(connection: socket.socket, server: Server) -> None:
        read_request(connection)
        raw = socket.socket(fileno=socket.dup(connection.fileno()))
        with raw:
            raw.sendall(b"HTTP/1.1 200 OK\r\n\r\nthis is not TLS")

    ca_file, context = certificate
    with serving(script, context) as server:
        answer = queue(server.url, ca_file=str(ca_file))
    assert answer.state == "unknown"
    assert "SSL" in str(answer.error)


def test_an_early_refusal_over_tls_is_still_read(certificate: tuple[Path, ssl.SSLContext]) -> None:
    ca_file, context = certificate
    with serving(refuse_early_and_hold, context) as server:
        answer = queue(server.url, LONG_CSV, ca_file=str(ca_file), read_timeout=0.5)
    assert (answer.state, answer.error) == ("refused", "inactive")


# Who we are


def test_neither_user_nor_key_shows_in_a_repr() -> None:
    shown = repr(provider("https://fuse.example.com"))
    assert "fuse.example.com" in shown
    assert USER not in shown and KEY not in shown


@pytest.mark.parametrize(
    ("url", "user", "key", "named"),
    [
        ("https://ann:secret@fuse.example.com", "a", "k", "PLUM_URL"),
        ("ftp://fuse.example.com", "a", "k", "PLUM_URL"),
        ("fuse.example.com", "a", "k", "PLUM_URL"),
        ("https://", "a", "k", "PLUM_URL"),
        ("https://fuse.example.com:port", "a", "k", "PLUM_URL"),
        ("https://fuse.example.com/?a=b", "a", "k", "PLUM_URL"),
        ("https://[::1", "a", "k", "PLUM_URL"),
        ("https://fuse.example.com", "a:b", "k", "PLUM_USER"),
        ("https://fuse.example.com", "", "k", "PLUM_USER"),
        ("https://fuse.example.com", "a", "", "PLUM_KEY"),
    ],
)
def test_a_provider_that_cannot_be_called_is_a_configuration_error(url: str, user: str, key: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Provider(url, user, key)
    assert [fault.where for fault in raised.value.faults] == [named]
    assert "secret" not in str(raised.value)
