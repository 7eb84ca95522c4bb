"""gunicorn's gevent worker, which stops in good order when its parent was killed, too."""

from __future__ import annotations

import os
from typing import Any

from gevent import GreenletExit
from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker


class OrderlyWorker(GeventWorker):  # type: ignore[misc]  # gunicorn ships no types
    """Without its parent, it closes the port, answers what is under way and ends, as on a SIGTERM.

    gunicorn's own ends its main loop at once and goes on accepting, also callbacks that nothing stores
    any more, until the last hook has run; and keeps the next parent from the port for as long.
    """

    def notify(self) -> None:
        Worker.notify(self)
        if self.ppid != os.getppid():
            self.alive = False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """When the grace is over, idle connections are hung up on; gunicorn would write a 500 into each of them, and
        a client that just sends its next request would take that for the answer.
        """
        if not isinstance(exc, GreenletExit):
            super().handle_error(req, client, addr, exc)
