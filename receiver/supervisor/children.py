"""The child processes of `serve`.

Each has its own session, so Ctrl-C reaches only `serve`. If `serve` is killed, the kernel terminates them. They hold a
lock, which shows the next `serve` whether they have ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from receiver.server.startup_checks import CannotStart

STOP_SECONDS = 7.0
"""How long children may take to end before they are killed. With the stop of the database it takes at most ten."""

LOCK_CHECK_SECONDS = 0.2

DEATHS, DEATHS_SECONDS = 5, 60.0
"""`serve` gives up when a child or the database server has ended this many times within this time."""

_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # only on Linux


@dataclass(slots=True)
class Child:
    """A process of the service, and when it ended recently."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    needs_database: bool
    """It cannot start while the database is unavailable."""
    lock: int
    """A file descriptor. The file stays locked until all children have ended."""
    started: subprocess.Popen[bytes] | None = None
    deaths: deque[float] = field(default_factory=deque)

    def start(self) -> None:
        self.started = subprocess.Popen(  # noqa: S603 arguments are this module's own
            self.arguments,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            # It prints its address, which could be mistaken for the address of the dashboards.
            stdout=subprocess.DEVNULL if self.name == "simulator" else None,
            start_new_session=True,
            pass_fds=[self.lock],
            preexec_fn=_end_with_parent,
        )

    def exit_status(self) -> int | None:
        """None: the process is running, or was not started."""
        return None if self.started is None else self.started.poll()


def stop_all(children: list[Child]) -> None:
    """Stop all at the same time. None depends on another one while it stops."""
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


def is_one_too_many(deaths: deque[float]) -> bool:
    """Add a death now, forget the old ones, and return whether there are DEATHS."""
    now = time.monotonic()
    deaths.append(now)
    while now - deaths[0] >= DEATHS_SECONDS:
        deaths.popleft()
    return len(deaths) >= DEATHS


def lock_file(path: Path, refusal: str, wait_seconds: float) -> IO[str]:
    """Lock the file. The lock is held until this process and all that inherit the file have closed it.

    Raises CannotStart with `refusal` if another process holds the lock for `wait_seconds`.
    """
    lock = path.open("a")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise CannotStart(refusal) from None
            time.sleep(LOCK_CHECK_SECONDS)


def _end_with_parent() -> None:
    """In the child: get SIGTERM when the parent ends, even if it is killed."""
    if _prctl is not None:
        _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
