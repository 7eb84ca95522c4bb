"""The processes that `serve` runs.

They live in sessions of their own, so that Ctrl-C reaches only `serve`; the kernel ends them should that be killed;
and a lock that they hold shows the next one that they have ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from receiver.server.startup_checks import CannotStart

STOP_SECONDS = 7.0
"""How long children may take to end before they are killed; with the database's stop, within ten."""

ORPHAN_SECONDS = 20.0
"""How long the children of a `serve` that was killed may take to end."""

ORPHAN_CHECK_SECONDS = 0.2
"""Between two looks whether they have."""

DEATHS, DEATHS_SECONDS = 5, 60.0
"""A child, or the database server, that ended this often in this time will not live."""


@dataclass(slots=True)
class Child:
    """A process of the service, and when it died lately."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    needs_database: bool
    """It cannot start while the database is away."""
    lock: int
    """A file descriptor that is locked for as long as any child has it (`after_orphans`)."""
    started: subprocess.Popen[bytes] | None = None
    deaths: deque[float] = field(default_factory=deque)

    def start(self) -> None:
        self.started = subprocess.Popen(  # noqa: S603 arguments are this module's own
            self.arguments,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            # Its address, which the greeting names: alone in a line it would be taken for the dashboards'.
            stdout=subprocess.DEVNULL if self.name == "simulator" else None,
            start_new_session=True,
            pass_fds=[self.lock],
            preexec_fn=_end_with_parent,
        )

    def died(self) -> int | None:
        """The exit status of a process that has ended, else None."""
        return None if self.started is None else self.started.poll()


def stop_all(children: list[Child]) -> None:
    """End all at once: they need nothing of each other to stop."""
    running = [child.started for child in children if child.started is not None and child.started.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def keep_coming(deaths: deque[float]) -> bool:
    """Note one more death; whether they are too many for what died to be started again. Old ones are forgotten."""
    now = time.monotonic()
    deaths.append(now)
    while now - deaths[0] >= DEATHS_SECONDS:
        deaths.popleft()
    return len(deaths) >= DEATHS


def after_orphans(data_dir: Path) -> IO[str]:
    """The lock that our children inherit: whoever gets it knows that those of a killed `serve` have ended, which
    they are told when it is killed, and that the port is theirs no more. Raises CannotStart.
    """
    lock = (data_dir / "serve.children").open("a")
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise CannotStart(
                    f"Processes of an earlier `serve` on {data_dir} do not end. Find them with"
                    f" `fuser {data_dir / 'serve.children'}`, and end them."
                ) from None
            time.sleep(ORPHAN_CHECK_SECONDS)


def _end_with_parent() -> None:
    """In the child: be told to end when the parent is gone, however it went (Linux; elsewhere nothing)."""
    if _prctl is not None:
        _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _load_prctl() -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return found


_prctl = _load_prctl()
