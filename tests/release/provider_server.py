"""A provider for one test: real sockets, and for each connection a function that does with it what it likes."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from receiver.release.answer import Answer
from receiver.release.provider import Provider, QueueRequest, bulk_queue

USER, KEY = "björn@example.com", "schlüssel-☎-1f2e3d"
REQUEST = QueueRequest(7, 3, "https://calls.example.com/results/abc.def")
CSV = b'"destination","name"\n"6175551234","Bj\xc3\xb6rn"\n'
LONG_CSV = b'"6175551234","a name of some length"\n' * 1_000_000  # 37 MB, more than any socket buffer


@dataclass
class Server:
    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    pieces_sent: int = 0
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
                connection.settimeout(60)
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
            thread.join(60)
            assert not thread.is_alive()


def hang_up(connection: socket.socket, server: Server) -> None:
    pass


def hold(connection: socket.socket, server: Server) -> None:
    server.over.wait(60)


def refuse_early_and_hold(connection: socket.socket, server: Server) -> None:
    connection.recv(1000)
    connection.sendall(http(401, b'{"error": "inactive"}'))
    server.over.wait(60)


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
            server.pieces_sent += 1
            time.sleep(pause)

    with serving(script) as server:
        yield server


def provider(url: str, **changes: object) -> Provider:
    return Provider(url, USER, KEY, **{"connect_timeout": 60.0, "read_timeout": 60.0, **changes})  # type: ignore[arg-type]  # floats and a path, by name


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


class Thinking:
    """A provider that takes requests whole, any number at a time, and keeps every answer back."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._think, args=(connection,)))
                self._threads[-1].start()

    def _think(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.requests.append(read_request(connection))
            self._over.wait(60)

    def hang_up(self) -> None:
        self._over.set()

    def __enter__(self) -> Thinking:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
