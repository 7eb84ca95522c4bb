"""Starts and stops the simulator in this process."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from typing import Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from receiver.errors import ReceiverError
from receiver.simulator.app import create_app
from receiver.simulator.exchange import Exchange
from receiver.simulator.ledger import Ledger
from receiver.simulator.settings import Settings
from receiver.simulator.store import Store

STOP_WITHIN = 1.8
"""Seconds for a clean stop. Two are promised."""


class CannotListen(ReceiverError):
    """The address is in use, or does not belong to this machine."""

    code = "cannot_listen"


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing: a line for each request would hide the line for each submission."""


class _Server(ThreadedWSGIServer):
    """Keeps a list of its open connections, so that a stop does not wait until clients close them."""

    daemon_threads = True

    def __init__(self, host: str, port: int, app: Any, fd: int) -> None:
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(host, port, app, handler=_Quiet, fd=fd)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)

    def close_connections(self, within: float) -> None:
        end = time.monotonic() + within
        for connection, thread in list(self._open.items()):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has closed it
            thread.join(max(0.0, end - time.monotonic()))


class Simulator:
    """A simulated provider. A context manager, which leaves no thread behind.

    `url` has no trailing slash and can be used as `PLUM_URL`.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            listener = socket.create_server((settings.host, settings.port), family=family)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            why = os.strerror(error.errno) if error.errno else str(error)
            raise CannotListen(
                f"cannot listen on {where}: {why}. Stop the process that does, or choose another --port"
            ) from error
        try:
            self._ledger = Ledger(settings.ledger)
        except OSError as error:
            listener.close()
            raise ReceiverError(f"cannot write the ledger: {error}", code="cannot_write") from error
        try:
            store = Store(settings.state)
        except (OSError, sqlite3.Error) as error:
            listener.close()
            self._ledger.close()
            raise ReceiverError(f"cannot use {settings.state}: {error}", code="cannot_write") from error
        port: int = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{port}"
        self._stopping = threading.Event()
        self._exchange = Exchange(settings, self._ledger, store)
        app = create_app(settings, self._exchange, self._ledger, self._stopping)
        with listener:
            self._server = _Server(settings.host, port, app, listener.fileno())
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="simulator", daemon=True
        )

    def start(self) -> None:
        self._exchange.start()
        self._thread.start()

    def stop(self) -> None:
        """Within two seconds: accept and dial nothing more, and cut off deliveries that have not ended after one."""
        end = time.monotonic() + STOP_WITHIN
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._exchange.stop(max(0.2, end - time.monotonic() - 0.3))
        self._server.close_connections(max(0.2, end - time.monotonic()))
        self._thread.join(0.2)
        self._ledger.close()

    def __enter__(self) -> Simulator:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
