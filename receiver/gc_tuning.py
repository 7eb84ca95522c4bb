"""Python's cyclic garbage collector, told what a process that has started needs."""

from __future__ import annotations

import gc

NEW_OBJECTS = 50_000
"""Objects made and not freed between two looks. A group of 500 callbacks makes about 20,000, none in a cycle."""


def spare_long_lived() -> None:
    """Leave out of every later look what was made until now, and look more rarely.

    To be called once, at the end of a start. Looking takes time with every object that lives, and nearly all of
    ours are freed without it, by their reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 50)
