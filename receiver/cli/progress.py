"""A line on the terminal that shows the progress of a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOW_SECONDS = 0.2
"""Shortest interval between two updates of the line."""


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that replaces the line on standard error. Without a terminal it does nothing."""
    shown_at = 0.0

    def show(line: str) -> None:
        nonlocal shown_at
        if sys.stderr.isatty() and time.monotonic() - shown_at > SHOW_SECONDS:
            shown_at = time.monotonic()
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown_at:
            print(file=sys.stderr)
