"""A user's own service in a thread of the test, which receives events."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

from standardwebhooks.webhooks import Webhook


@dataclass(frozen=True)
class Request:
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content

    def verified(self, secret: str) -> dict[str, Any]:
        """The content; the library that users use raises if no signature is valid."""
        content: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return content


@dataclass
class EndpointServer:
    """`answer`: the status, headers and body of the answer to a request."""

    port: int = 0
    answer: Callable[[Request], tuple[int, dict[str, str], bytes]] = lambda _: (200, {}, b"")
    requests: list[Request] = field(default_factory=list)
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?team=a"

    @property
    def ids(self) -> list[str]:
        return [request.id for request in self.requests]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed close their connections."""


@contextlib.contextmanager
def receiving(
    answer: Callable[[Request], tuple[int, dict[str, str], bytes]] | None = None, tls: SSLContext | None = None
) -> Iterator[EndpointServer]:
    server = EndpointServer(scheme="https" if tls else "http")
    if answer is not None:
        server.answer = answer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Request({name.lower(): value for name, value in self.headers.items()}, body)
            server.requests.append(request)
            status, headers, content = server.answer(request)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as listening:
        server.port = listening.server_address[1]
        if tls is not None:
            listening.socket = tls.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
