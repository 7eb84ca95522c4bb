"""Disks that answer EIO: nothing is acknowledged that is not stored, and what was acknowledged before is not lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from receiver.database.migrations import migrate
from receiver.database.pool import connect
from tests.acceptance.killing.test_intake_killed import check_each_is_stored_once
from tests.acceptance.outages import Results
from tests.acceptance.postgres import Postgres
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import EACH, gunicorn_process

pytestmark = pytest.mark.long

SOURCE = Path(__file__).with_name("broken_disk.c")


class Disk:
    """A disk with these files that can be broken and mended, for processes with `environment`."""

    def __init__(self, folder: Path, library: Path, files: str) -> None:
        self._switch = folder / f"broken-{files}"
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "BROKEN_DISK": str(self._switch),
            "BROKEN_FILES": files,
        }

    def break_it(self) -> None:
        self._switch.touch()

    def mend(self) -> None:
        self._switch.unlink()


def compiled(folder: Path) -> Path:
    library, compiler = folder / "broken_disk.so", shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler for Linux is needed to break the disk (Debian: apt-get install gcc libc6-dev)")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return library


@pytest.mark.parametrize("entry_point", EACH)
def test_nothing_is_acknowledged_that_a_broken_disk_did_not_store(server_dir: Path, entry_point: str) -> None:
    library, data = compiled(server_dir), server_dir / "data"
    data.mkdir()
    log, spool = Disk(server_dir, library, "pg_wal"), Disk(server_dir, library, "spool.sqlite3")
    with Postgres(server_dir, {"fsync": "on"}, log.environment) as postgres:
        migrate(postgres.url)
        with gunicorn_process(data, postgres.url, entry_point=entry_point, **spool.environment) as (_, port):
            results = Results(f"http://127.0.0.1:{port}{results_path()}")
            assert {each.status for each in results.post(10)} == {200}
            spool.break_it()  # not needed yet
            eventually(lambda: results.post(1)[0].status == 200)
            log.break_it()
            assert {each.status for each in results.post(12, at_once=4)} == {503}
            spool.mend()
            eventually(lambda: results.post(1)[0].status == 200)
            assert {each.status for each in results.post(10)} == {200}
            log.mend()
            if not postgres.answers():
                postgres.start()  # it stops itself if it cannot sync its log
            eventually(lambda: results.post(1)[0].status == 200)
            with connect(postgres.url, name="test") as conn:
                check_each_is_stored_once(conn, results)
