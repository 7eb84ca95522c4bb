"""`tests/tools` installs nothing on a machine whose owner has not agreed to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).with_name("tools")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder for PATH: root's, on Debian, without most of the programs; what apt-get is asked is written down."""
    for name, script in {"id": "echo 0", "apt-get": f'echo "$*" >>{tmp_path}/asked'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_root_without_ci_and_without_a_terminal_installs_nothing(machine: Path) -> None:
    ran = subprocess.run(
        [TOOLS], env={"PATH": str(machine)}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "Not installed: chromium" in ran.stderr and "apt-get install chromium" in ran.stderr
    assert not (machine / "asked").exists()


def test_root_on_a_terminal_is_asked_and_may_decline(machine: Path) -> None:
    ours, its = os.openpty()
    with subprocess.Popen([TOOLS], env={"PATH": str(machine)}, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        assert b"Install the Debian packages chromium" in shown
        os.write(ours, b"\n")
        assert process.wait(60) == 0
    os.close(ours)
    assert not (machine / "asked").exists()
