"""Starts and stops the simulator in this process."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from typing import Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from receiver.errors import ReceiverError
from receiver.simulator.app import create_app
from receiver.simulator.exchange import Exchange
from receiver.simulator.ledger import Ledger
from receiver.simulator.settings import Settings
from receiver.simulator.store import Store

STOP_WITHIN = 1.5
"""Seconds for the deliveries that have begun. A complete stop takes two at most."""


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing: a line for each request would hide the line for each submission."""


class Simulator:
    """A simulated provider, as a context manager.

    `url` has no trailing slash and can be used as `PLUM_URL`.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            listener = socket.create_server((settings.host, settings.port), family=family)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            why = os.strerror(error.errno) if error.errno else str(error)
            message = f"cannot listen on {where}: {why}. Stop the process that does, or choose another --port"
            raise ReceiverError(message, code="cannot_listen") from error
        try:
            store = Store(settings.state)
        except (OSError, sqlite3.Error) as error:
            listener.close()
            raise ReceiverError(f"cannot use {settings.state}: {error}", code="cannot_write") from error
        port: int = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{port}"
        self._stopping = threading.Event()
        ledger = Ledger()
        self._exchange = Exchange(settings, ledger, store)
        app = create_app(settings, self._exchange, ledger, self._stopping)
        with listener:
            self._server = ThreadedWSGIServer(settings.host, port, app, handler=_Quiet, fd=listener.fileno())
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="simulator", daemon=True
        )

    def stop(self) -> None:
        """Within two seconds: accept and dial nothing more."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._exchange.stop(STOP_WITHIN)
        self._thread.join(0.2)

    def __enter__(self) -> Simulator:
        self._exchange.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
