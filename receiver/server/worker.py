"""gunicorn's worker: uvicorn's event loop with our connections and a graceful stop."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from receiver.logs import OncePer
from receiver.server.protocol import CHECK_SECONDS, Connection

STOPPING_IDLE_SECONDS = 2.0
"""How long a connection may be idle after the process got the signal to stop. A proxy keeps idle connections for a
minute, so without this limit every stop takes the whole STOP_SECONDS, and the closed port refuses new connections until
then. A request that arrives in time is answered with `Connection: close`.
"""

LOGGED_SECONDS = 10.0
"""At most one log line for each of uvicorn's messages in this time: anybody can send invalid HTTP."""

LAG_SECONDS = 0.1
"""Interval between two measurements of the loop's lag."""


class LoopWorker(UvicornWorker):  # type: ignore[misc]  # uvicorn-worker ships no types
    """Serves an ASGI application, or the ASGI form of a Flask application (its attribute `asgi`)."""

    CONFIG_KWARGS = {  # noqa: RUF012 uvicorn-worker declares it so
        "loop": "uvloop",
        "http": Connection,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # receiver.intake.proxies decides which proxies to trust
        "timeout_notify": 1,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.limit_concurrency = self.cfg.worker_connections

    async def _serve(self) -> None:
        self._application: Any = getattr(self.wsgi, "asgi", self.wsgi)
        self.config.app = self._answer
        # The service starts without its database and waits for it. Only the first process logs this.
        if self.age == 1 and (report := getattr(self._application, "report_database", None)):
            threading.Thread(target=report, daemon=True).start()
        # Not in __init__: gunicorn's parent creates this object, and `post_fork` then shortens the time.
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout
        self._server = Server(config=self.config)
        self._install_sigquit_handler()
        # uvicorn-worker expects handlers at gunicorn's logger. Ours are at the root.
        uvicorn_log = logging.getLogger("uvicorn.error")
        uvicorn_log.propagate = True
        uvicorn_log.addFilter(OncePer(LOGGED_SECONDS))
        checks = asyncio.create_task(self._check_connections())
        try:
            await self._server.serve(sockets=self.sockets)
        finally:
            checks.cancel()
        if not self._server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        # A stopping server cancels requests that take too long. This is not an error of the application.
        with suppress(asyncio.CancelledError):
            await self._application(scope, receive, send)

    async def callback_notify(self) -> None:
        self.notify()
        if self.ppid != os.getppid():
            self._server.should_exit = True  # the parent was killed: end as on SIGTERM

    async def _check_connections(self) -> None:
        # Not at the top: gunicorn's parent imports this module, but each process has its own metrics.
        from receiver.counts import counts

        loop = asyncio.get_running_loop()
        before = loop.time()
        stopping_since = math.inf
        # With little time to stop, idle connections are closed at once. The checks are a second apart.
        idle_seconds = min(STOPPING_IDLE_SECONDS, max(0.1, self.cfg.graceful_timeout - 3))
        while True:
            lag = await _measure_lag(loop)
            counts.loop_lag(lag)
            counts.flush()
            now = loop.time()
            if self._server.should_exit and stopping_since == math.inf:
                stopping_since = now
                if stop_waiting := getattr(self._application, "stop_waiting", None):
                    stop_waiting()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now - before)
                    if min(connection.idle_seconds, now - stopping_since) >= idle_seconds:
                        connection.transport.close()
            before = now


async def _measure_lag(loop: asyncio.AbstractEventLoop) -> float:
    """How late the loop was, at most, within CHECK_SECONDS. Returns seconds."""
    latest = 0.0
    for _ in range(round(CHECK_SECONDS / LAG_SECONDS)):
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        latest = max(latest, loop.time() - due)
    return latest
