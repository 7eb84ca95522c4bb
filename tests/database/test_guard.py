"""The fixtures of the suite leave no server and no folder, even if pytest is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.embedded_postgres.server import EmbeddedPostgres
from tests.waiting import eventually

_SLOW = """
import os, time
def test_slow(database_url, session_folder):
    print(session_folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.long
@pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="no server is started")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_pytest_even_if_pytest_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "test_slow.py").write_text(_SLOW)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        [*command, "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        # A shell starts background processes with this signal ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        try:
            assert EmbeddedPostgres(folder / "shared").is_running()
        finally:
            run.send_signal(how)
            try:
                run.communicate(timeout=120)
            finally:
                run.kill()
    eventually(lambda: not folder.exists(), otherwise=lambda: f"{folder} is still there")
