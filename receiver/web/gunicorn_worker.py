"""gunicorn's gevent worker, which stops in good order when its parent was killed, too, and waits for no slow sender."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

from gevent import GreenletExit
from gunicorn.glogging import Logger
from gunicorn.http.errors import ParseException
from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker

from receiver.web.paced_socket import PacedSocket


class ErrorLog(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's log of what goes wrong. Accesses are logged by `receiver.web.access`, which knows what is secret."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: gunicorn would gather the fields of a line for each request (a tenth of its time) and drop them."""


STOPPING_IDLE_SECONDS = 2.0
"""So long may a connection be idle once the process is told to stop. A proxy keeps idle connections for a minute, so
without this limit every stop takes the whole STOP_SECONDS, and the closed port refuses new connections until then.
A request that comes in time is answered with `Connection: close`.
"""


class OrderlyWorker(GeventWorker):  # type: ignore[misc]  # gunicorn ships no types
    """Without its parent, it closes the port, answers what is under way and ends, as on a SIGTERM.

    gunicorn's own ends its main loop at once and goes on accepting, also callbacks that nothing stores
    any more, until the last hook has run; and keeps the next parent from the port for as long.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: set[PacedSocket] = set()
        self._stopping_since: float | None = None

    def notify(self) -> None:
        Worker.notify(self)
        if self.ppid != os.getppid():
            self.alive = False
        if not self.alive:
            self._hang_up_on_idle()

    def _hang_up_on_idle(self) -> None:
        """gunicorn calls `notify` each second, also while it waits for the connections to end."""
        now = monotonic()
        self._stopping_since = self._stopping_since or now
        if now - self._stopping_since >= STOPPING_IDLE_SECONDS:
            for connection in list(self._connections):
                if connection.idle_seconds() >= STOPPING_IDLE_SECONDS:
                    connection.await_no_more()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = PacedSocket(client)
        self._connections.add(connection)
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections.discard(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: PacedSocket, addr: Any) -> None:
        sock.await_body()
        super().handle_request(listener_name, req, sock, addr)
        if not self._read_to_its_end(req):
            raise StopIteration  # gunicorn's word for hanging up
        sock.await_request()

    def _read_to_its_end(self, req: Any) -> bool:
        """Read what the answer did not want of a body. False where it has no end, or takes too long: nobody knows then
        where the next request begins. gunicorn would look for it, and write a second answer, which a proxy that keeps
        the connection may take for the one to somebody else's request.
        """
        if getattr(req.body.reader, "length", None) == 0:  # nearly always
            return True
        with self.timeout_ctx():
            try:
                while req.body.read(65536):
                    pass
                return True
            except (ParseException, OSError):
                pass
        return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """When the grace is over, idle connections are hung up on; gunicorn would write a 500 into each of them, and
        a client that just sends its next request would take that for the answer.
        """
        if not isinstance(exc, GreenletExit):
            super().handle_error(req, client, addr, exc)
