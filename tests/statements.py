"""Holds every statement that the service runs within the tests' processes against the rules of a distributed Postgres.

`install` once in each process. Each statement is checked once, however often it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import psycopg

from tests.acceptance.service import ROOT
from tests.distribution import find_faults

RECEIVER = str(ROOT / "receiver") + "/"

LINEAGE = "It reads the calls of a lineage, which are in several batches."
EXCEPTIONS = {
    "receiver/summary/calls.py:_read_page": LINEAGE,
    "receiver/summary/export.py:_read": LINEAGE,
    "receiver/summary/lineage.py:_count_latest": LINEAGE,
    "receiver/summary/stored_calls.py:list_stored_calls": LINEAGE,
    "receiver/summary/verify.py:_count_broken_links": LINEAGE,
}
"""Places (a file and a function) that do not follow the rules yet, and why. docs/large-scale.md lists them, too."""

_seen: set[str] = set()
_faults: list[str] = []


def install() -> None:
    """Check the statements of all cursors from now on."""
    for name in ("execute", "executemany", "stream"):
        _wrap(name, getattr(psycopg.Cursor, name))


def take_faults() -> list[str]:
    """What was found since the last time: the place in the code, the rule, the statement."""
    found, _faults[:] = _faults[:], []
    return found


def _wrap(name: str, original: Any) -> None:
    def run(cursor: psycopg.Cursor[Any], query: Any, *args: Any, **keywords: Any) -> Any:
        if isinstance(query, str) and query not in _seen:
            _check(query, sys._getframe(1))
        return original(cursor, query, *args, **keywords)

    setattr(psycopg.Cursor, name, run)


def _check(query: str, frame: FrameType) -> None:
    places = list(_places(frame))
    if not places:
        return  # a statement of a test
    _seen.add(query)
    if not EXCEPTIONS.keys().isdisjoint(places):
        return
    _faults.extend(f"{places[0]}: {fault}: {' '.join(query.split())}" for fault in find_faults(query))


def _places(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(RECEIVER) and not name.endswith("/database/pool.py"):
            yield f"receiver/{name.removeprefix(RECEIVER)}:{frame.f_code.co_name}"
        frame = frame.f_back
