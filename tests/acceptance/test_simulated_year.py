"""A year of the service in simulated time; see `simulated_year.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.service import ROOT
from tests.acceptance.test_clocks import Clock

pytestmark = pytest.mark.long


def test_balance_holds_and_every_call_ends_as_the_provider_says_for_a_year(server_dir: Path) -> None:
    clock, seed = Clock(server_dir), os.environ.get("YEAR_SEED", "1")
    command = [sys.executable, "-m", "tests.acceptance.simulated_year", str(server_dir), seed]
    environment = {**os.environ, **clock.environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-5000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    print(seen)
    for what in ("received", "spooled", "delivered", "workers killed", "database restarted", "clock set", "follow up"):
        assert seen.get(what, 0) > 0, (what, seen)
    assert seen["calls compared"] > 200
