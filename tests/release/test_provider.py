"""The request that the thin client makes, and how it reads an answer that comes whole."""

from __future__ import annotations

import base64
import gzip
import socket
import time
import tracemalloc
from pathlib import Path

import pytest

from receiver import __version__
from receiver.errors import ConfigurationError
from receiver.release.answer import ANSWER_BYTES, Answer
from receiver.release.provider import Provider, QueueRequest, bulk_queue
from tests.release.provider_server import (
    CSV,
    KEY,
    REQUEST,
    USER,
    Server,
    answering,
    http,
    parsed,
    provider,
    queue,
    serving,
)

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
