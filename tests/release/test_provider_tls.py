"""The same client over TLS."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.release.provider_server import (
    LONG_CSV,
    Server,
    hang_up,
    hold,
    http,
    queue,
    read_request,
    refuse_early_and_hold,
    serving,
)


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
