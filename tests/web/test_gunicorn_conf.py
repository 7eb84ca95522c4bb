"""A start that must not happen."""

import os
import subprocess

from tests.web.gunicorn import COMMAND, ROOT


def test_unusable_configuration_stops_the_start_with_status_2_and_every_fault() -> None:
    environment = {"PATH": os.environ["PATH"], "PORT": "http", "DATABASE_URL": "mysql://the-password@h/d"}
    ran = subprocess.run(COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 2
    named = sorted(line.split()[:2] for line in ran.stderr.splitlines())
    assert named == [["receiver:", name] for name in ("DATABASE_URL", "PORT", "SECRET_KEY")]
    assert "the-password" not in ran.stderr
