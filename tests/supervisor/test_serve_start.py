"""`serve` says that it runs only when it answers."""

from __future__ import annotations

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from receiver.embedded_postgres.server import EmbeddedPostgres
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


def test_database_that_ends_during_the_start_is_started_again(
    monkeypatch: pytest.MonkeyPatch, server_dir: Path
) -> None:
    stop = threading.Event()
    data_dir = server_dir / "var"
    data_dir.mkdir()
    with EmbeddedPostgres(data_dir) as server, HTTPServer(("127.0.0.1", 0), _Healthy) as web:
        answering = threading.Thread(target=web.serve_forever)
        answering.start()
        monkeypatch.setattr(serve, "_has_worker", lambda _: server.accepts_connections())
        pid = server.postmaster_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not server.is_running())
        waiting = threading.Thread(target=serve._wait_until_ready, args=(web.server_port, server, [], stop))
        waiting.start()
        try:
            eventually(lambda: not waiting.is_alive())
            assert server.accepts_connections()
        finally:
            stop.set()
            waiting.join()
            web.shutdown()
            answering.join()
