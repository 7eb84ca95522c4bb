"""wrk, the load generator (Debian: apt-get install wrk), and what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of wrk measured: requests a second, latencies in milliseconds, answers that were not 2xx."""

    rate: float
    p50_ms: float
    p99_ms: float
    failed: int
    answered: int


def drive(port: int, script: Path, *, connections: int, seconds: int, first: int = 1, rate: float = 0) -> Load:
    """Send results from row `first` on, as fast as is answered or at `rate` a second.

    Raises RuntimeError where wrk is missing or says nothing.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is needed for the load (Debian: apt-get install wrk).")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    command += ["-s", str(script), f"http://127.0.0.1:{port}", "--", str(first), f"{rate:.3f}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 wrk by name
    if ended.stderr:
        raise RuntimeError(f"the script failed, so wrk asked for something else:\n{ended.stderr}")
    said = ended.stdout
    reached = re.search(r"Requests/sec:\s+([\d.]+)", said)
    latencies = {quantile: _milliseconds(said, quantile) for quantile in ("50%", "99%")}
    total = re.search(r"(\d+) requests in", said)
    if reached is None or total is None:
        raise RuntimeError(f"wrk said nothing of a rate:\n{said}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = sum(map(int, errors.groups())) if errors else 0
    failed += int(refused[1]) if refused else 0
    return Load(float(reached[1]), latencies["50%"], latencies["99%"], failed, int(total[1]))


def _milliseconds(said: str, quantile: str) -> float:
    found = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s|m)\b", said)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")
