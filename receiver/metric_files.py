"""Where the web processes of one gunicorn keep their metrics: files that any of them adds up (prometheus_client).

Each process has a slot. A new process goes on with the files of the one whose slot it took over, so no counter ever
falls while gunicorn lives, and there are never more files than slots.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "receiver-metrics-"

_taken: dict[int, int] = {}
"""In gunicorn's parent: id of a worker to its slot."""


def folder() -> str | None:
    """The folder of the files; None where there are none, and the metrics are this process's alone."""
    return os.environ.get(VARIABLE)


def start() -> None:
    """In gunicorn's parent, once: make the folder, and remove those of parents that were killed.

    In memory where there is a file system for that: to write to a mapped file on a full disk would kill the process.
    """
    root = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())  # noqa: S108 as shared memory
    for left in root.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError):
            if left.stat().st_uid == os.geteuid() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left)
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root)


def stop() -> None:
    """In gunicorn's parent, at its end: remove the folder."""
    if path := os.environ.pop(VARIABLE, None):
        shutil.rmtree(path, ignore_errors=True)


def reserve(worker: object) -> int:
    """In gunicorn's parent: a slot for a process to be forked, until `release`."""
    slot = _taken[id(worker)] = next(each for each in range(len(_taken) + 1) if each not in _taken.values())
    return slot


def claim(slot: int) -> None:
    """In the new process, before any metric is made: write to the files of this slot."""
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def release(worker: object) -> None:
    """In gunicorn's parent: the process is gone, and what described it as alive."""
    from prometheus_client.multiprocess import mark_process_dead

    slot = _taken.pop(id(worker), None)
    if slot is not None and folder() is not None:
        mark_process_dead(slot)  # type: ignore[no-untyped-call]
