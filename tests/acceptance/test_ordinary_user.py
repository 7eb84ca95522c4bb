"""Root is not needed: an ordinary account runs everything in its own folder."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.acceptance.service import ROOT, SAMPLES, Runner, Service
from tests.waiting import eventually

pytestmark = pytest.mark.long


def is_reachable(python: str, account: pwd.struct_passwd) -> bool:
    """Whether the account can run this interpreter on this code."""
    try:
        tried = subprocess.run(
            [python, "-c", "import receiver.cli"],
            cwd=ROOT,
            env=found_by(python),
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            capture_output=True,
        )
    except PermissionError:
        return False
    return tried.returncode == 0


def found_by(python: str) -> dict[str, str]:
    """The environment in which the interpreter finds the packages that we were installed with."""
    return {} if python == sys.executable else {"PYTHONPATH": sysconfig.get_path("purelib")}


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test here runs as an ordinary user already")
def test_ordinary_user_serves_and_queues(server_dir: Path) -> None:
    account = pwd.getpwnam("nobody")
    # Other accounts may not be able to run root's interpreter. Then use the system's, if it has the same release.
    release = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    python = next((each for each in (sys.executable, release) if is_reachable(each, account)), None)
    if python is None:
        pytest.skip(f"{account.pw_name} can run neither {Path(sys.executable).resolve()} nor {release}")
    home = server_dir / "home"
    home.mkdir(mode=0o700)
    os.chown(home, account.pw_uid, account.pw_gid)
    with Service(home, runner=Runner(python, account), HOME=str(home), **found_by(python)) as service:
        assert {each.uid for each in service.processes()} == {account.pw_uid}
        answer = service.queue(SAMPLES / "contacts.csv", "Prefer: wait=60")
        assert answer.status == 201, answer.body
        eventually(lambda: service.batch(answer.json["id"])["counts"]["final"] == 4)
        assert service.run("verify").returncode == 0
        assert service.stop()[0] == 0
        eventually(lambda: service.processes() == [])
    assert {path.stat().st_uid for path in home.rglob("*")} <= {account.pw_uid, 0}
