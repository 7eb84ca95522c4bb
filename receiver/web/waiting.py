"""Answers that have to wait, and hold no thread meanwhile.

A view that may answer better in a moment answers what it knows now, and leaves a `Wait` in the WSGI environment.
The caller of the application (receiver.web.threads, or `Patient` under any other WSGI server) then drops that answer,
waits, and sends the same request once more, with what the `Wait` adds to its environment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

WAIT = "receiver.wait"
"""Where in the WSGI environment the `Wait` is left."""

CHECK_SECONDS = 0.1
"""Interval between two checks whether what is waited for is there."""


@dataclass(frozen=True, slots=True)
class Wait:
    """`ready`: asked now and then, in a thread; it is quick, and never raises. `until`: on the monotonic clock.

    `resumed`: what the request that is sent once more has in its environment beside its own.
    """

    ready: Callable[[], bool]
    until: float
    resumed: Mapping[str, Any]


def resume(environ: WSGIEnvironment, wait: Wait) -> WSGIEnvironment:
    """The environment of the request that is sent once more. Nothing of its body was read before."""
    kept = {name: value for name, value in environ.items() if name != WAIT and not name.startswith("werkzeug.")}
    return {**kept, **wait.resumed}


class Patient:
    """WSGI: waits in the thread of the request, for servers that have one for each."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        while True:
            started: list[Any] = []

            def keep(*args: Any, _started: list[Any] = started) -> Any:
                _started[:] = args

            answer = self._app(environ, keep)
            wait: Wait | None = environ.get(WAIT)
            if wait is None or BESIDE_LOOP in environ:
                start_response(*started)
                return answer
            if close := getattr(answer, "close", None):
                close()
            while time.monotonic() < wait.until and not wait.ready():
                time.sleep(CHECK_SECONDS)
            environ = resume(environ, wait)


BESIDE_LOOP = "receiver.beside_loop"
"""In the WSGI environment if an event loop does the waiting."""


class Decisions:
    """Which batches the provider has answered for, asked for all who wait with one query every CHECK_SECONDS.

    `find` returns those of the given batches that nobody needs to wait for; it never raises.
    """

    def __init__(self, find: Callable[[Collection[int]], set[int]]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._asked: dict[int, float] = {}
        self._decided: set[int] = set()
        self._next_at = 0.0

    def has(self, batch_id: int) -> bool:
        """Whether this batch is decided, as of at most CHECK_SECONDS ago."""
        with self._lock:
            now = time.monotonic()
            self._asked[batch_id] = now
            if now >= self._next_at:
                # Those that nobody asked about lately are waited for no more.
                self._asked = {asked: at for asked, at in self._asked.items() if now - at < 10 * CHECK_SECONDS}
                self._decided = self._find(self._asked)
                self._next_at = time.monotonic() + CHECK_SECONDS
            return batch_id in self._decided
