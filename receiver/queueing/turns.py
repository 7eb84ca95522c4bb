"""Giving way in the midst of long computations, for web processes in which one thread of gevent's serves everybody."""

from __future__ import annotations

import time

TURN_SECONDS = 0.0001
"""Not 0: gevent then goes on with what is ready, and does not look for what can be read or written by now."""


def give_way() -> None:
    """Let others have their turn. Call it every millisecond or so."""
    time.sleep(TURN_SECONDS)
