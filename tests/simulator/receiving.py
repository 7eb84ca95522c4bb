"""A small HTTP server as `result_url`, and requests to the provider like those of curl."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

from tests.waiting import eventually

CSV = "destination,name\n6175551234,Ana\ntel:+16175551299,Ben\n16175550188;postd=2,Cid\n"
BULK = "/api/apps/7/3/bulk_queue"


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    path: str
    content_type: str | None
    body: bytes
    seconds: float
    connection: int

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class ResultUrl:
    """A receiver that records its requests. `answers`: the statuses for the first POSTs; later ones get 200."""

    def __init__(self, *, get: int = 200, answers: tuple[int, ...] = ()) -> None:
        self.received: list[Received] = []
        self._answers = list(answers)
        received, remaining = self.received, self._answers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _receive(self, status: int) -> None:
                began = time.monotonic()
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seconds = time.monotonic() - began
                kind = self.headers.get("Content-Type")
                received.append(Received(self.command, self.path, kind, body, seconds, self.client_address[1]))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self._receive(get)

            def do_POST(self) -> None:
                self._receive(remaining.pop(0) if remaining else 200)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/results/a-token"

    def accept_all(self) -> None:
        """Answer 200 from now on."""
        self._answers.clear()

    @property
    def posts(self) -> list[Received]:
        return [each for each in self.received if each.method == "POST"]

    def __enter__(self) -> ResultUrl:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: Message
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        """The fields of the answer, from JSON or XML."""
        if self.headers.get_content_type() == "application/xml":
            root = ElementTree.fromstring(self.body)  # noqa: S314 - the simulator's own answer
            assert root.tag == "result"
            return {each.tag: each.text for each in root}
        content: dict[str, Any] = json.loads(self.body)
        return content


def ask(
    url: str,
    method: str = "GET",
    fields: Mapping[str, str] | None = None,
    csv: str | bytes | None = None,
    *,
    accept: str = "application/json",
    login: str | None = "simulator:simulator",
    timeout: float = 60,
) -> Answered:
    """Send one request like a client of the provider. `csv` None: without a file."""
    parts = [
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    if csv is not None:
        content = csv.encode() if isinstance(csv, str) else csv
        head = b'--B\r\nContent-Disposition: form-data; name="csv"; filename="c.csv"\r\n\r\n'
        parts.append(head + content + b"\r\n")
    headers = {"Accept": accept}
    if login is not None:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    body = None
    if method == "POST":
        body = b"".join([*parts, b"--B--\r\n"])
        headers["Content-Type"] = "multipart/form-data; boundary=B"
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - http, to this machine
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - as above
            return Answered(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answered(error.code, error.headers, error.read())


def settled(simulator_url: str) -> dict[str, Any]:
    """Wait until no call and no callback is left to make, and return the ledger."""
    found: dict[str, Any] = {}

    def is_settled() -> bool:
        found.update(ask(f"{simulator_url}/simulator/ledger").content)
        return bool(found["calls"]["queued"] and not found["calls"]["to_come"] and not found["callbacks"]["to_come"])

    eventually(is_settled)
    return found


def ledger_lines(simulator_url: str) -> list[dict[str, Any]]:
    body = ask(f"{simulator_url}/simulator/ledger/calls").body
    return [json.loads(line) for line in body.splitlines()]
