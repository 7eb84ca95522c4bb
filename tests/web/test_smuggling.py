"""Request smuggling: requests with an ambiguous end, in which neither nginx nor gunicorn accepts a second request.

The second request is a callback with a signed token, so it would be stored. A request was smuggled if the server has
stored a callback that the proxy has not seen.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from receiver.database.pool import connect
from receiver.intake.packing import unpack
from tests.conftest import fresh_database
from tests.deploy.serving import ask, nginx, trusting
from tests.waiting import PATIENCE_SECONDS, eventually
from tests.web.asking import results_path
from tests.web.gunicorn import OURS, gunicorn_process

pytestmark = pytest.mark.long

CHUNKED = "Transfer-Encoding: chunked"


SMUGGLED, LAST = 98, 99
"""Batches of the smuggled callbacks, and of the last callback of each test."""


def inner(mark: str) -> bytes:
    """The request to smuggle. nginx logs its header `X-Mark`, the journal has its body."""
    path = results_path(SMUGGLED)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Mark: {mark}\r\nContent-Length: {len(mark)}\r\n\r\n{mark}".encode()


def chunk(content: bytes, extension: bytes = b"", end: bytes = b"\r\n") -> bytes:
    return b"%x%s%s%s\r\n" % (len(content), extension, end, content)


Body = Callable[[bytes], bytes]
"""Requests with an ambiguous end, each a function of the request to smuggle."""

VARIANTS: dict[str, tuple[tuple[str, ...], Body]] = {
    # Two lengths: two servers may each use a different one.
    "te-cl": ((CHUNKED, "Content-Length: 4"), lambda it: b"%x\r\n" % len(it) + it + b"\r\n0\r\n\r\n"),
    "cl-te": (("Content-Length: 5", CHUNKED), lambda it: b"0\r\n\r\n" + it),
    "cl-cl": (("Content-Length: 2", "Content-Length: 90"), lambda it: b"{}" + it),
    "cl-cl-same": (("Content-Length: 2", "Content-Length: 2"), lambda it: b"{}" + it),
    "cl-list": (("Content-Length: 2, 90",), lambda it: b"{}" + it),
    "cl-sign": (("Content-Length: +2",), lambda it: b"{}" + it),
    "cl-hex": (("Content-Length: 0x2",), lambda it: b"{}" + it),
    "cl-underscore": (("Content-Length: 9_0",), lambda it: b"{}" + it),
    "cl-space": (("Content-Length: 2 2",), lambda it: b"{}" + it),
    "cl-arabic": (("Content-Length: \u0662",), lambda it: b"{}" + it),
    # A Transfer-Encoding that one of two servers may ignore.
    "te-space-before-colon": (("Transfer-Encoding : chunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-tab": (("Transfer-Encoding:\tchunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-vertical-tab": (("Transfer-Encoding: \x0bchunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-x": (("Transfer-Encoding: xchunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-quoted": (('Transfer-Encoding: "chunked"', "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-identity": (("Transfer-Encoding: identity", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-chunked-identity": (("Transfer-Encoding: chunked, identity",), lambda it: b"0\r\n\r\n" + it),
    "te-twice": ((CHUNKED, "Transfer-Encoding: identity"), lambda it: b"0\r\n\r\n" + it),
    "te-chunked-twice": (("Transfer-Encoding: chunked, chunked",), lambda it: b"0\r\n\r\n" + it),
    "te-underscore": (("Transfer_Encoding: chunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-folded": (("Transfer-Encoding:\r\n chunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-bare-lf": (("X: y\nTransfer-Encoding: chunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-bare-cr": (("X: y\rTransfer-Encoding: chunked", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "te-nul": (("Transfer-Encoding: chunked\0", "Content-Length: 5"), lambda it: b"0\r\n\r\n" + it),
    "cl-bare-lf": (("X: y\nContent-Length: 2",), lambda it: b"{}" + it),
    # Chunks with an ambiguous length.
    "chunk-extension": ((CHUNKED,), lambda it: chunk(it, b";a=b") + b"0\r\n\r\n"),
    "chunk-extension-lf": ((CHUNKED,), lambda it: b"2;\n{}\r\n0\r\n\r\n" + it),
    "chunk-extension-quoted": ((CHUNKED,), lambda it: b'2;a="\r\n0\r\n\r\n' + it),
    "chunk-bare-lf": ((CHUNKED,), lambda it: b"0\n\n" + it),
    "chunk-bare-cr": ((CHUNKED,), lambda it: b"0\r\r" + it),
    "chunk-no-end": ((CHUNKED,), lambda it: b"2\r\n{}0\r\n\r\n" + it),
    "chunk-hex-prefix": ((CHUNKED,), lambda it: b"0x0\r\n\r\n" + it),
    "chunk-sign": ((CHUNKED,), lambda it: b"+0\r\n\r\n" + it),
    "chunk-overflow": ((CHUNKED,), lambda it: b"10000000000000000\r\n\r\n" + it),
    "chunk-underscore": ((CHUNKED,), lambda it: b"0_0\r\n\r\n" + it),
    "chunk-spaces": ((CHUNKED,), lambda it: b" 0 \r\n\r\n" + it),
    "chunk-trailer": ((CHUNKED,), lambda it: b"0\r\nContent-Length: 90\r\n\r\n" + it),
    "chunk-trailer-lf": ((CHUNKED,), lambda it: b"0\r\nX: y\n\n" + it),
    # No length, and a request line inside another.
    "no-length": ((), lambda it: it),
    "upgrade": (("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"), lambda it: it),
    "expect": (("Expect: 100-continue", "Content-Length: 2"), lambda it: b"{}" + it),
    "hop-by-hop": (("Connection: Content-Length", "Content-Length: 90"), lambda it: it),
}


@dataclass(frozen=True, slots=True)
class Front:
    """nginx with TLS and gunicorn behind it."""

    port: int
    context: ssl.SSLContext
    backend: int
    nginx_log: Path
    database_url: str

    def stored(self, batch_id: int = SMUGGLED) -> list[str]:
        with closing(connect(self.database_url, name="test")) as conn:
            rows = conn.execute("select packing, body from callback where batch_id = %s", (batch_id,))
            return [unpack(*row).decode() for row in rows]

    def marks_in_front(self) -> list[str]:
        return [line.rpartition(" ")[2] for line in self.nginx_log.read_text().splitlines()]


@pytest.fixture(scope="module", params=OURS)
def front(server_url: str, template: str, session_folder: Path, request: pytest.FixtureRequest) -> Iterator[Front]:
    folder, side = (Path(tempfile.mkdtemp(dir=session_folder)) for _ in range(2))
    with (
        fresh_database(server_url, template) as url,
        gunicorn_process(side, url, entry_point=request.param) as (_, backend),
        nginx(folder, [backend]) as port,
    ):
        yield Front(port, trusting(folder), backend, folder / "receiver.log", url)


QUIET_SECONDS = 2.0
"""If a server sends nothing for this long, it has sent all of its answers."""


def send_all(
    requests: dict[str, bytes], connect: Callable[[], socket.socket], enough: Callable[[dict[str, bytes]], bool]
) -> dict[str, bytes]:
    """Send each request on its own connection and return the answers.

    Waits until all connections are closed, or no data was received for QUIET_SECONDS and either the answers are
    `enough` or PATIENCE_SECONDS have passed.
    """
    answers = dict.fromkeys(requests, b"")
    with ExitStack() as stack:
        lines = {name: stack.enter_context(closing(connect())) for name in requests}
        for name, request in requests.items():
            with suppress(ConnectionError, ssl.SSLError):
                lines[name].sendall(request)
        begun = heard = time.monotonic()
        open_ones = dict(lines)
        while open_ones:
            now = time.monotonic()
            if now - heard > QUIET_SECONDS and (enough(answers) or now - begun > PATIENCE_SECONDS):
                break
            for name, line in list(open_ones.items()):
                line.settimeout(0.02)
                try:
                    more = line.recv(65536)
                except TimeoutError:
                    continue
                except (ConnectionError, ssl.SSLError):
                    more = b""
                answers[name] += more
                if more:
                    heard = time.monotonic()
                else:
                    del open_ones[name]
    return answers


def request_of(name: str, path: str, mark: str = "smuggled") -> bytes:
    headers, body = VARIANTS[name]
    lines = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", "")
    return "\r\n".join(lines).encode() + body(inner(f"{mark}-{name}"))


CARRIERS = (results_path(), "/api/v1/batches", "/nowhere")
"""Paths that read a body, that refuse it unread, and that do not exist."""


def test_server_behind_nginx_sees_the_same_requests_as_nginx(front: Front) -> None:
    def connect() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", front.port), timeout=30)
        return front.context.wrap_socket(plain, server_hostname="127.0.0.1")

    def most_are_answered(answered: dict[str, bytes]) -> bool:
        return sum(answers.startswith(b"HTTP/1.1 ") for answers in answered.values()) > len(VARIANTS) * 0.8

    for path in CARRIERS:
        answered = send_all({name: request_of(name, path) for name in VARIANTS}, connect, most_are_answered)
        assert most_are_answered(answered), answered
        # On the connections that nginx keeps: a smuggled request would get this answer.
        for _ in range(20):
            assert ask(front.port, front.context, "GET", "/nowhere")[0] == 404
    assert ask(front.port, front.context, "POST", results_path(LAST), b"last", X_Mark="last")[0] == 200
    eventually(lambda: front.stored(LAST) == ["last"] and "last" in front.marks_in_front())
    behind, ahead = front.stored(), [mark for mark in front.marks_in_front() if mark.startswith("smuggled-")]
    assert sorted(behind) == sorted(ahead), "one has seen what the other has not"
    assert ahead, "a plain second request follows a first, and both see it: so the logs are read as they should be"


ONE_READING = {"chunk-extension", "no-length", "te-tab", "te-underscore", "expect", "upgrade", "hop-by-hop"}
"""Unambiguous requests. In some of them a second request does follow the first."""


def test_gunicorn_refuses_requests_with_an_ambiguous_end(front: Front) -> None:
    """Without nginx, another proxy may read the request differently."""
    in_doubt = {name: request_of(name, "/nowhere", "alone") for name in VARIANTS if name not in ONE_READING}
    plain = {"plain": request_of("no-length", "/nowhere", "alone")}

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", front.backend), timeout=30)

    def all_are_answered(answered: dict[str, bytes]) -> bool:
        return all(answers.count(b"HTTP/1.1 ") >= (2 if name == "plain" else 1) for name, answers in answered.items())

    answered = send_all(in_doubt | plain, connect, all_are_answered)
    eventually(lambda: "alone-no-length" in front.stored())
    assert {f"alone-{name}" for name in in_doubt} & set(front.stored()) == set()
    # A proxy would give a second answer to the next client.
    assert {name: answers for name, answers in answered.items() if answers.count(b"HTTP/1.1 ") != 1} == {
        "plain": answered["plain"]
    }
