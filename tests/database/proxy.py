"""A proxy to Postgres that can break, refuse and freeze connections, as a hanging server does."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Listens on its own unix socket. `url` is the address of the database of `database_url` through it."""

    def __init__(self, database_url: str) -> None:
        given = conninfo_to_dict(database_url)
        self._host, self._port = str(given["host"]), str(given.get("port") or 5432)
        self._folder = tempfile.TemporaryDirectory(prefix="p")
        self.url = make_conninfo(database_url, host=self._folder.name, port=self._port)
        self._gates: list[tuple[threading.Event, threading.Event]] = []
        self._passing = 0
        self._listener: socket.socket | None = None
        self._lines: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._add_gates()

    def __enter__(self) -> Proxy:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self.cut()
        self.thaw()
        for thread in self._threads:
            thread.join(5)
        for line in self._lines:
            line.close()
        self._folder.cleanup()

    def open(self) -> None:
        """Accept new connections."""
        self._listener = listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self._folder.name}/.s.PGSQL.{self._port}")
        listener.listen(50)
        self._run(self._accept, listener)

    def close(self) -> None:
        """Refuse new connections, and keep the present ones."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            Path(self._folder.name, f".s.PGSQL.{self._port}").unlink()

    def cut(self) -> None:
        """Break every connection."""
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def freeze(self, *, requests: bool = True, answers: bool = True) -> None:
        """Delay all data in these directions. It arrives at the thaw, even if a side has closed."""
        requests_gate, answers_gate = self._gates[-1]
        if requests:
            requests_gate.clear()
        if answers:
            answers_gate.clear()

    def freeze_present_lines(self) -> None:
        """Delay all data of the present connections. Later ones work."""
        self.freeze()
        self._add_gates()

    def freeze_newcomers(self) -> None:
        """Let later connections sign in, and then delay what they send."""
        self._add_gates()
        self.freeze(answers=False)
        self._passing = 1

    def thaw(self) -> None:
        for gates in self._gates:
            for gate in gates:
                gate.set()

    def _add_gates(self) -> None:
        self._gates.append((threading.Event(), threading.Event()))
        for gate in self._gates[-1]:
            gate.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = self._connect()
            self._lines += (client, server)
            requests_gate, answers_gate = self._gates[-1]
            self._run(self._pump, client, server, requests_gate, self._passing)
            self._run(self._pump, server, client, answers_gate)

    def _connect(self) -> socket.socket:
        if self._host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self._host}/.s.PGSQL.{self._port}")
            return server
        return socket.create_connection((self._host, int(self._port)))

    def _pump(self, source: socket.socket, target: socket.socket, gate: threading.Event, passing: int = 0) -> None:
        """`passing`: how many blocks pass even if the gate is closed."""
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                if passing == 0:
                    gate.wait()
                passing = max(passing - 1, 0)
                target.sendall(block)
        gate.wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _run(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
