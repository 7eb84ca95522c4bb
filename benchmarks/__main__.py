"""`python -m benchmarks [--quick] [--only NAME …]`: measure, print one table of figures and goals, keep it as JSON.

Exit 1 if a goal was missed. The quick form has small sizes, and its machine may be busy: there, only ratios count, and
only if they miss their goal by a factor of two.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    acknowledging,
    disturbing,
    growing,
    purging,
    queueing,
    queues,
    reading,
    sending,
    settling,
    storing,
)
from benchmarks.figures import Figure, keep, table
from benchmarks.world import ROOT, World, world

Measurement = Callable[[World], list[Figure]]

FULL: dict[str, Measurement] = {
    "acknowledging": lambda w: acknowledging.measure(w, seconds=10, rounds=3),
    "disturbing": lambda w: disturbing.measure(w, seconds=10, rounds=3),
    "sustained": lambda w: settling.keep_up(w, seconds=40, rounds=3),
    "draining": lambda w: settling.drain(w, callbacks=500_000),
    "delay": lambda w: settling.delay(w, rate=450, seconds=30),
    "reading": lambda w: reading.measure(w, large=1_000_000, others=9, count=300),
    "queueing": lambda w: queueing.measure(w, rows=1_000_000),
    "sending": lambda w: sending.measure(w, rows=1_000_000),
    "storing": lambda w: storing.measure(w, calls=200_000),
    "purging": lambda w: purging.measure(w, calls=1_000_000, seconds=15, rounds=3),
    "growing": lambda w: growing.measure(w, sizes=(10_000, 100_000, 1_000_000, 10_000_000), count=200),
    "queues": lambda w: queues.measure(w, rate=300, churn=3200, minutes=120),
}

QUICK: dict[str, Measurement] = {
    "acknowledging": lambda w: acknowledging.measure(w, seconds=2, rounds=3),
    "disturbing": lambda w: disturbing.measure(w, seconds=4, rounds=3),
    "sustained": lambda w: settling.keep_up(w, seconds=6, rounds=3),
    "draining": lambda w: settling.drain(w, callbacks=20_000),
    "delay": lambda w: settling.delay(w, rate=100, seconds=5),
    "reading": lambda w: reading.measure(w, large=50_000, others=0, count=60),
    "queueing": lambda w: queueing.measure(w, rows=50_000),
    "sending": lambda w: sending.measure(w, rows=100_000),
    "storing": lambda w: storing.measure(w, calls=20_000),
}

LOOSE = 2.0
"""The quick form may miss a goal by this factor."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes: eight minutes")
    parser.add_argument("--only", nargs="+", choices=FULL, metavar="NAME", help=f"of {', '.join(FULL)}")
    parsed = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    measurements = QUICK if parsed.quick else FULL
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="receiver-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, the server runs as another account, which must pass
        with world(folder) as made:
            for measurement in parsed.only or measurements:
                if measurement not in measurements:
                    parser.error(f"{measurement} has no quick form")
                print(f"measuring: {measurement}", file=sys.stderr, flush=True)
                figures += measurements[measurement](made)
    print(table(figures))
    print(f"\nkept in {keep(figures, ROOT / 'benchmarks' / 'out', 'quick' if parsed.quick else 'full')}")
    if parsed.quick:
        return 1 if any(figure.unit == "x" and figure.reaches(LOOSE) is False for figure in figures) else 0
    return 1 if any(figure.reaches() is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
