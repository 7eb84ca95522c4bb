"""The service as it is deployed: gunicorn with the project's settings, as a child process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from receiver.supervisor.ports import free_port
from tests.waiting import eventually
from tests.web.asking import SECRET

ROOT = Path(__file__).resolve().parents[2]
GUNICORN = [sys.executable, "-m", "gunicorn"]
COMMAND = [*GUNICORN, "-c", "python:receiver.web.gunicorn_conf", "app:app"]
"""The command line of release 1.0.0, which still serves everything."""

ENTRY_POINTS = {
    "whole service": ["-c", "python:receiver.server.gunicorn_conf", "app:asgi"],
    "command line of 1.0.0": COMMAND[3:],
    "intake alone": ["-c", "python:receiver.server.gunicorn_conf", "receiver.intake.asgi:app"],
    "another WSGI server": ["--worker-class", "gthread", "--threads", "32", "--no-control-socket", "app:app"],
}
"""Ways to serve the callback endpoint. All behave identically."""

OURS = ("whole service", "intake alone")
"""The two ways of deployment, both with our own server."""

EACH = (*OURS, "another WSGI server")
"""Both ways of deployment and both entry points, for tests of what the entry points do differently."""


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    head: str
    body: bytes


class Sender:
    """One connection, written and read byte by byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self._socket.makefile("rb")

    def send(self, *parts: bytes) -> Sender:
        self._socket.sendall(b"".join(parts))
        return self

    def finish_sending(self) -> Sender:
        """Close our half of the connection, and still read."""
        self._socket.shutdown(socket.SHUT_WR)
        return self

    def answer(self, *, to_head: bool = False) -> Answered:
        status_line = self._file.readline() or b"HTTP/1.1 0"  # they closed the connection
        head = b""
        while (line := self._file.readline()) not in (b"\r\n", b""):
            head += line
        text = head.decode("latin-1")
        length = next((int(line[15:]) for line in text.splitlines() if line.lower().startswith("content-length:")), 0)
        return Answered(int(status_line.split()[1]), text, b"" if to_head else self._file.read(length))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def gunicorn(data_dir: Path, database_url: str, entry_point: str = "command line of 1.0.0") -> Iterator[int]:
    """Run one of ENTRY_POINTS. Yields its port."""
    with gunicorn_process(data_dir, database_url, entry_point=entry_point) as (_, port):
        yield port


@contextmanager
def gunicorn_process(
    data_dir: Path, database_url: str, *, entry_point: str = "command line of 1.0.0", **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run gunicorn. Yields its parent process and its port."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "DATA_DIR": str(data_dir),
        "SECRET_KEY": SECRET,
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "1",
        **variables,
    }
    port = int(environment["PORT"])
    command = [*GUNICORN, "--bind", f"127.0.0.1:{port}", *ENTRY_POINTS[entry_point]]
    log = data_dir / "gunicorn.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        eventually(lambda: process.poll() is not None or _answers(port), otherwise=log.read_text)
        assert process.poll() is None, log.read_text()
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    # No request may have caused an unexpected error.
    assert "Traceback" not in log.read_text(), log.read_text()


def _answers(port: int) -> bool:
    try:
        sender = Sender(port)
    except ConnectionRefusedError:
        return False
    try:
        return sender.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").answer().status == 200
    finally:
        sender.close()
