"""`python -m benchmarks [--quick] [--only NAME …]`: measure, print one table of ratios, keep it as JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import acknowledging, queueing, reading, settling, storing
from benchmarks.figures import Figure, keep, table
from benchmarks.world import ROOT, World, world

Measurement = Callable[[World, bool], list[Figure]]

MEASUREMENTS: dict[str, Measurement] = {
    "acknowledging": lambda w, quick: acknowledging.measure(w, seconds=4 if quick else 10, rounds=1 if quick else 3),
    "sustained": lambda w, quick: settling.keep_up(w, seconds=10 if quick else 120),
    "draining": lambda w, quick: settling.drain(w, callbacks=50_000 if quick else 500_000),
    "delay": lambda w, quick: settling.delay(w, rate=100 if quick else 400, seconds=10 if quick else 30),
    "reading": lambda w, quick: reading.measure(
        w, large=100_000 if quick else 1_000_000, others=0 if quick else 9, count=100 if quick else 300
    ),
    "queueing": lambda w, quick: queueing.measure(w, rows=100_000 if quick else 1_000_000),
    "storing": lambda w, quick: storing.measure(w, calls=50_000 if quick else 200_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, a few minutes in all")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), metavar="NAME")
    parsed = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="receiver-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, the server runs as another account, which must pass
        with world(folder) as made:
            for measurement in parsed.only:
                print(f"measuring: {measurement}", file=sys.stderr, flush=True)
                figures += MEASUREMENTS[measurement](made, parsed.quick)
    print(table(figures))
    print(f"\nkept in {keep(figures, ROOT / 'benchmarks' / 'out', 'quick' if parsed.quick else 'full')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
