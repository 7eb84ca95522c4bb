"""`serve` says that it runs only when it answers."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from receiver.supervisor import serve
from receiver.supervisor.ports import free_port
from tests.waiting import eventually


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_start_that_takes_long_is_reported_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "READY_SECONDS", 0.1)
    port, said = free_port(), ""

    def is_reported() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "still starting" in said

    waiting = threading.Thread(target=serve._wait_until_ready, args=(port, None, [], threading.Event()))
    waiting.start()
    eventually(is_reported)
    assert waiting.is_alive()
    with HTTPServer(("127.0.0.1", port), _Healthy) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        waiting.join()
        server.shutdown()
        answering.join()


def test_start_ends_at_once_when_it_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    serve._wait_until_ready(free_port(), None, [], stop)
