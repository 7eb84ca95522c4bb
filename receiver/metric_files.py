"""The files in which the web processes of one gunicorn keep their metrics, so that each can sum them up.

The files are those of prometheus_client. Each process has a slot. A new process continues the files of the previous
process in its slot. So no counter decreases while gunicorn runs, and there are never more files than slots.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "receiver-metrics-"

_slots: dict[int, int] = {}
"""In gunicorn's parent: worker (its `id`) to slot."""


def folder() -> str | None:
    """The folder of the files. None: there are no files, and the metrics include only this process."""
    return os.environ.get(VARIABLE)


def start() -> None:
    """In gunicorn's parent, once: create the folder, and remove folders of parents that were killed.

    The folder is in memory if possible: writing to a mapped file on a full disk would kill the process.
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
    """In gunicorn's parent: reserve a slot for a process that will be forked, until `release`."""
    slot = _slots[id(worker)] = next(each for each in range(len(_slots) + 1) if each not in _slots.values())
    return slot


def claim(slot: int) -> None:
    """In the new process, before it creates any metric: use the files of this slot."""
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def release(worker: object) -> None:
    """In gunicorn's parent: the process has ended. Free its slot, and remove its gauges."""
    from prometheus_client.multiprocess import mark_process_dead

    slot = _slots.pop(id(worker), None)
    if slot is not None and folder() is not None:
        mark_process_dead(slot)  # type: ignore[no-untyped-call]
