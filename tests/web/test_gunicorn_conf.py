"""A refused start, and what gunicorn's parent process must not do."""

import os
import subprocess
import sys

from tests.web.gunicorn import COMMAND, ROOT


def test_unusable_configuration_stops_the_start_with_status_2_and_every_fault() -> None:
    environment = {"PATH": os.environ["PATH"], "PORT": "http", "DATABASE_URL": "mysql://the-password@h/d"}
    ran = subprocess.run(COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    named = sorted(line.split()[:2] for line in ran.stderr.splitlines())
    assert named == [["receiver:", name] for name in ("DATABASE_URL", "PORT", "SECRET_KEY")]
    assert "the-password" not in ran.stderr


def test_parent_creates_no_metrics_and_imports_no_application() -> None:
    """All processes would write to metrics created before the fork, and would share an application."""
    script = (
        "import sys, receiver.web.gunicorn_conf, receiver.server.worker;"
        " sys.exit(', '.join({'receiver.counts', 'flask', 'receiver.web.app'} & sys.modules.keys()) or None)"
    )
    environment = {"PATH": os.environ["PATH"]}
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
