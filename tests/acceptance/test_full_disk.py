"""Full disks: first the database's, and then also the spool's."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.outages import NUMBERS, post_in_time, world
from tests.acceptance.postgres import Postgres
from tests.waiting import eventually

pytestmark = pytest.mark.long

DATABASE_MIB, SPOOL_MIB = 96, 8
SMALL_WAL = {"min_wal_size": "2MB", "max_wal_size": "8MB", "wal_keep_size": "0", "log_statement": "none"}


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """Mount a disk of this size at `folder`, in memory. Only root may do this."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Use all free bytes of the disk."""
    with (disk / "ballast").open("ab", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(b"\0" * size)


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disks of this test")
def test_full_database_disk_loses_nothing_and_callbacks_are_refused_when_the_spools_disk_is_full_too(
    server_dir: Path,
) -> None:
    with (
        small_disk(server_dir / "database", DATABASE_MIB) as database_disk,
        small_disk(server_dir / "var", SPOOL_MIB) as spool_disk,
        Postgres(database_disk, SMALL_WAL) as postgres,
        world(server_dir, postgres) as running,
    ):
        running.results.post(10)
        fill(database_disk)
        # Space that Postgres has already allocated still holds a few callbacks.
        eventually(
            lambda: running.results.post(20, at_once=4, bytes_each=20_000)[-1].status == 200 and running.spooled() > 0
        )
        posted = post_in_time(lambda: running.results.post(40, at_once=4))
        assert {each.status for each in posted} == {200}
        queued = running.queue(NUMBERS)  # many rows, because a few might fit into allocated space
        assert (queued.status, queued.headers["Retry-After"]) == (503, "5"), queued.body
        assert len(running.provider.result_urls) == 1
        assert running.service.ask("/readyz").status == 503

        fill(spool_disk)
        eventually(lambda: {each.status for each in running.results.post(8, bytes_each=60_000)} == {503})
        refused = post_in_time(lambda: running.results.post(8, at_once=2, bytes_each=60_000))
        assert {(each.status, each.headers["Retry-After"]) for each in refused} == {(503, "5")}

        free(spool_disk)
        assert running.results.post(1)[0].status == 200
        free(database_disk)
        if not postgres.answers():
            postgres.start()  # it stops itself if it cannot write its WAL
        running.check_all_are_stored_once()
        running.check_verified()
