"""Requests that wait without holding a thread.

A view that could give a better answer later returns its present answer, and puts a `Wait` into the WSGI environment.
The caller of the application (receiver.web.threads, or `WaitInThread` under any other WSGI server) discards this
answer, waits, and then resumes the request: it calls the application again with what the `Wait` adds.
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
"""The name of the `Wait` in the WSGI environment."""

CHECK_SECONDS = 0.1
"""Interval between two checks whether a wait is over."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a request waits for.

    `ready`: whether the wait is over; called in a thread; it is quick and never raises. `until`: the latest end, on the
    monotonic clock. `resumed`: additions to the environment of the resumed request.
    """

    ready: Callable[[], bool]
    until: float
    resumed: Mapping[str, Any]


def resume(environ: WSGIEnvironment, wait: Wait) -> WSGIEnvironment:
    """The environment of the resumed request. Its body was not read before."""
    kept = {name: value for name, value in environ.items() if name != WAIT and not name.startswith("werkzeug.")}
    return {**kept, **wait.resumed}


class WaitInThread:
    """WSGI: waits in the thread of the request, for servers with one thread for each request."""

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
"""In the WSGI environment if an event loop waits instead (receiver.web.threads): how many requests wait now."""


def preferred_wait(preferences: str, default: int, most: int) -> int:
    """Seconds of `wait=N` in a header `Prefer`. Other preferences are ignored (RFC 7240)."""
    for preference in preferences.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        # isdigit() alone also accepts superscripts, which int() refuses.
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdigit():
            return min(int(seconds[:9]), most)
    return default


class SharedCheck:
    """What a request waits for, by number. One query every CHECK_SECONDS serves all requests that wait.

    `find` returns those of the given numbers for which the wait is over; it never raises.
    """

    def __init__(self, find: Callable[[Collection[int]], set[int]]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._asked: dict[int, float] = {}
        self._met: set[int] = set()
        self._next_at = 0.0

    def is_met(self, number: int) -> bool:
        """Whether the wait for this number is over. The answer is at most CHECK_SECONDS old."""
        with self._lock:
            now = time.monotonic()
            self._asked[number] = now
            if now >= self._next_at:
                # Drop numbers that were not asked about recently: no request waits for them.
                self._asked = {asked: at for asked, at in self._asked.items() if now - at < 10 * CHECK_SECONDS}
                self._met = self._find(self._asked)
                self._next_at = time.monotonic() + CHECK_SECONDS
            return number in self._met
