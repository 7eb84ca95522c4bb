"""One request to an endpoint: signed, bounded, verified, and never redirected."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from receiver.config import Network
from receiver.relay import sending
from receiver.relay.addresses import Place, connect
from receiver.relay.sending import SCHEDULE, Attempt, Sender, next_wait
from tests.relay.endpoint_server import receiving

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOCAL = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def post(url: str, body: str = '{"type": "call.result"}') -> Attempt:
    with closing(Sender(url, LOCAL)) as sender:
        return sender.send("msg_7_1", body, [SECRET])


def answered(status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> Attempt:
    with receiving(lambda _: (status, headers or {}, content)) as server:
        return post(server.url)


def test_event_is_signed_as_in_standard_webhooks() -> None:
    with receiving() as server:
        with closing(Sender(server.url, LOCAL)) as sender:
            assert sender.send("msg_7_1", '{"name": "Björn"}', [SECRET, OLD_SECRET]).delivered
    [request] = server.requests
    assert request.verified(SECRET) == request.verified(OLD_SECRET) == {"name": "Björn"}
    assert request.id == "msg_7_1" and abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("result-url-receiver/")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_means_delivered(status: int) -> None:
    attempt = answered(status)
    assert attempt.delivered and (attempt.status, attempt.error) == (status, None)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_a_failure_and_not_followed(status: int) -> None:
    with receiving() as target, receiving(lambda _: (status, {"Location": target.url}, b"")) as server:
        attempt = post(server.url)
    assert not attempt.delivered and attempt.status == status and target.requests == []


def test_excerpt_has_500_characters_and_no_number() -> None:
    attempt = answered(500, content="é\n+1 617 555 1234 ".encode() + b"x" * 5000)
    assert attempt.status == 500 and attempt.error is not None
    assert attempt.error.startswith("é +* *** *** **34 x") and len(attempt.error) == 500
    assert str(answered(503).error).startswith("It answered 503")


def test_connection_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[socket.socket]()

    def counted(place: Place, networks: Sequence[Network], until: float) -> socket.socket:
        made.append(connect(place, networks, until))
        return made[-1]

    monkeypatch.setattr(sending, "connect", counted)
    with receiving() as server, closing(Sender(server.url, LOCAL)) as sender:
        assert all(sender.send(f"msg_{number}", "{}", [SECRET]).delivered for number in range(5))
    assert len(made) == 1


def test_idle_connection_that_the_endpoint_closed_costs_no_attempt() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with scripted(script) as url, closing(Sender(url, LOCAL)) as sender:
        assert [sender.send("msg_1", "{}", [SECRET]).delivered for _ in range(3)] == [True] * 3


@contextmanager
def scripted(script: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that runs the script with each connection, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    try:
                        script(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            over.set()
            with socket.create_connection(listening.getsockname()):
                pass
            thread.join(30)


def drip(connection: socket.socket, head: bytes, drop: bytes) -> None:
    connection.recv(65536)
    connection.sendall(head)
    while drop:
        connection.sendall(drop)
        time.sleep(0.05)
    connection.recv(1)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b""),
    ],
    ids=["body", "header", "continue", "silence"],
)
def test_dripping_answer_is_cut_off(head: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ANSWER_SECONDS", 0.5)
    with scripted(lambda connection: drip(connection, head, drop)) as url:
        attempt = post(url)
    assert not attempt.delivered and attempt.duration_seconds < 30


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 2xx OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz"],
)
def test_broken_answer_is_a_failure(answer: bytes) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with scripted(script) as url:
        attempt = post(url)
    assert not attempt.delivered and attempt.error


def test_status_of_an_answer_with_a_broken_body_counts() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 410 Gone\r\nRetry-After: 60\r\nTransfer-Encoding: chunked\r\n\r\nzz")

    with scripted(script) as url:
        attempt = post(url)
    assert attempt.gone and attempt.error and attempt.retry_after == timedelta(minutes=1)


def test_connection_with_a_broken_answer_is_not_used_again() -> None:
    requests = list[int]()

    def script(connection: socket.socket) -> None:
        requests.append(0)
        while connection.recv(65536):
            requests[-1] += 1
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    with scripted(script) as url, closing(Sender(url, LOCAL)) as sender:
        for _ in range(2):
            sender.send("msg_1", "{}", [SECRET])
    assert requests[:2] == [1, 1]


def test_event_that_cannot_be_written_is_a_failure() -> None:
    with receiving() as server, closing(Sender(server.url, LOCAL)) as sender:
        attempts = [post(server.url, "\ud800"), sender.send("msg_7_1", "{}", ["whsec_x"])]
    assert [attempt.status for attempt in attempts] == [None, None] and all(attempt.error for attempt in attempts)
    assert server.requests == []


def test_refused_connection_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    attempt = post(f"http://127.0.0.1:{port}/")
    assert attempt.status is None and "refused" in str(attempt.error)


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={name}",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.fixture
def trusting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The certificate in this folder is one that the system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    sending._trust.cache_clear()
    yield tmp_path
    sending._trust.cache_clear()


def test_trusted_certificate_is_accepted(trusting: Path) -> None:
    with receiving(tls=certificate(trusting, "IP:127.0.0.1")) as server:
        assert post(server.url).delivered


def test_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    with receiving(tls=certificate(tmp_path, "IP:127.0.0.1")) as server:
        attempt = post(server.url)
    assert "self-signed certificate" in str(attempt.error) and server.requests == []


def test_certificate_for_another_name_is_refused(trusting: Path) -> None:
    with receiving(tls=certificate(trusting, "DNS:other.example")) as server:
        attempt = post(server.url)
    assert "certificate is not valid for '127.0.0.1'" in str(attempt.error) and server.requests == []


def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert answered(200).delivered


def test_waits_grow_as_described_and_then_end() -> None:
    minutes = [5 / 60, 5, 30, *(60 * hours for hours in (2, 5, 10, 14, 20, 24))]  # as docs/receiving.md says
    assert [wait / timedelta(minutes=1) for wait in SCHEDULE] == minutes
    for failures, wait in enumerate(SCHEDULE, 1):
        waits = [next_wait(failures, timedelta()) or timedelta() for _ in range(50)]
        assert wait <= min(waits) < max(waits) <= 1.2 * wait
    assert next_wait(10, timedelta()) is None
    assert (next_wait(11, timedelta()) or timedelta()) < timedelta(seconds=7), "a person sent it again"
    assert next_wait(1, timedelta(hours=3)) == timedelta(hours=3)


def test_retry_after_is_read() -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    assert answered(503, {"Retry-After": "120"}).retry_after == timedelta(seconds=120)
    wait = answered(429, {"Retry-After": format_datetime(later, usegmt=True)}).retry_after
    assert timedelta(hours=1, minutes=50) < wait <= timedelta(hours=2)
    assert answered(503, {"Retry-After": "9" * 50}).retry_after == timedelta(days=1)
    for text in ("soon", "-5", "", "Mon, 01 Jan 2001 00:00:00 GMT", "9" * 5000, "²"):
        assert answered(503, {"Retry-After": text.encode().decode("latin-1")}).retry_after == timedelta()


def test_410_says_that_the_endpoint_is_gone() -> None:
    assert answered(410).gone and not answered(404).gone
