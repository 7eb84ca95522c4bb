"""`tests/tools` installs nothing on a machine whose owner has not agreed to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).with_name("tools")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder for PATH as on Debian, for root, with few programs. apt-get writes its arguments to a file."""
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
    our_end, its_end = os.openpty()
    environment = {"PATH": str(machine)}
    with subprocess.Popen([TOOLS], env=environment, stdin=its_end, stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(our_end, 4096)
        assert b"Install the Debian packages chromium" in shown
        os.write(our_end, b"\n")
        assert process.wait(60) == 0
    os.close(our_end)
    assert not (machine / "asked").exists()
