from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from receiver.intake import spool as spool_module
from receiver.intake.journal import Group
from receiver.intake.spool import Spool, SpoolFailed
from tests.factories import make_callback

PLENTY = 1 << 30


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "data" / "spool.sqlite3", PLENTY)
    yield spool
    spool.close()


def make_group(*bodies: bytes, writer: Group | None = None, sequence: int = 1) -> Group:
    writer_id = writer.writer_id if writer else uuid4()
    return Group(writer_id, sequence, tuple(make_callback(42, body, submission_no=7) for body in bodies))


def kept(spool: Spool, limit: int = 1_000_000) -> list[Group]:
    return [group for _, group in spool.oldest(limit)]


def test_nothing_is_created_before_the_first_group(spool: Spool) -> None:
    assert (spool.oldest(1), spool.depth(), spool.path.parent.exists()) == ([], 0, False)


def test_group_is_read_unchanged(spool: Spool) -> None:
    group = make_group(b"", bytes(range(256)), "é🦄".encode(), b"\0", b"x" * 65536)
    spool.append(group)
    assert kept(spool) == [group]
    assert spool.depth() == 5


def test_groups_survive_the_process(spool: Spool) -> None:
    groups = [make_group(b"a", b"b"), make_group(b"c")]
    for group in groups:
        spool.append(group)
    spool.close()
    reopened = Spool(spool.path, PLENTY)
    assert kept(reopened) == groups
    reopened.close()


def test_groups_survive_a_process_that_is_killed(spool: Spool) -> None:
    _run(
        """
        for number in range(3):
            spool.append(group(number, b"a", b"b"))
        os.kill(os.getpid(), 9)
        """,
        spool.path,
        status=-9,
    )
    assert [(group.sequence, len(group.callbacks)) for group in kept(spool)] == [(0, 2), (1, 2), (2, 2)]


def test_files_are_readable_by_their_owner_only(spool: Spool) -> None:
    before = os.umask(0)
    try:
        spool.append(make_group(b"a"))
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in spool.path.parent.iterdir()}
    assert files["spool.sqlite3"] == 0o600
    assert set(files.values()) == {0o600}, files


def test_oldest_never_returns_part_of_a_group(spool: Spool) -> None:
    writer = make_group(b"1", b"2", b"3")
    groups = [
        writer,
        make_group(b"4"),
        make_group(b"5", b"6", writer=writer, sequence=2),
        make_group(b"7", writer=writer, sequence=3),
    ]
    for group in groups:
        spool.append(group)
    assert [kept(spool, limit) for limit in range(1, 8)] == [
        groups[:1], groups[:1], groups[:1], groups[:2], groups[:3], groups[:3], groups
    ]  # fmt: skip


def test_removing_up_to_a_position_keeps_later_groups(spool: Spool) -> None:
    groups = [make_group(b"1", b"2"), make_group(b"3"), make_group(b"4", b"5")]
    for group in groups:
        spool.append(group)
    for done in range(3):
        position, group = spool.oldest(1)[0]
        assert group == groups[done]
        spool.remove(position)
        assert kept(spool) == groups[done + 1 :]
    late = make_group(b"6")
    spool.append(late)
    spool.remove(position)
    assert kept(spool) == [late], "no position is used twice"


def test_cost_of_reading_the_oldest_does_not_depend_on_the_rest(spool: Spool) -> None:
    def steps_of_reading() -> int:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        spool.depth()
        assert spool._reading is not None
        spool._reading.set_progress_handler(step, 100)
        spool.oldest(10)
        return steps

    spool.append(make_group(*[b"a"] * 20))
    few = steps_of_reading()
    for _ in range(20):
        spool.append(make_group(*[b"a"] * 500))
    assert steps_of_reading() <= few + 10


def test_group_beyond_the_limit_is_refused_completely(tmp_path: Path) -> None:
    bound = 300_000
    spool = Spool(tmp_path / "spool.sqlite3", bound)
    accepted = []
    with pytest.raises(SpoolFailed, match="SPOOL_MAX_BYTES"):
        while True:
            group = make_group(*[b"x" * 900] * 25)
            spool.append(group)
            accepted.append(group)
    assert kept(spool) == accepted
    assert 0.7 * bound < len(accepted) * 25 * 900 <= bound
    spool.append(make_group(b"small enough"))
    with pytest.raises(SpoolFailed):
        spool.append(make_group(b"x" * 65536, *[b"x"] * 10))
    assert len(kept(spool)) == len(accepted) + 1
    spool.close()


def test_space_of_drained_groups_is_used_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite3", 300_000)
    for _ in range(10):
        for _ in range(10):
            spool.append(make_group(*[b"x" * 900] * 25))
        spool.remove(spool.oldest(1_000)[-1][0])
    assert spool.path.stat().st_size < 600_000
    spool.close()


def test_threads_share_a_spool(spool: Spool) -> None:
    groups = [[make_group(b"a", b"b") for _ in range(10)] for _ in range(8)]

    def append_all(mine: list[Group]) -> None:
        for group in mine:
            spool.append(group)

    threads = [threading.Thread(target=append_all, args=(mine,)) for mine in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = kept(spool)
    for mine in groups:
        assert [group for group in found if group in mine] == mine
    assert spool.depth() == 160


def test_processes_share_a_spool_from_its_creation(spool: Spool) -> None:
    work = """
        print("ready", flush=True)
        sys.stdin.read()
        for number in range(20):
            spool.append(group(number, b"a", b"b", b"c"))
        """
    with ExitStack() as stack:
        running = [_start(work, spool.path) for _ in range(4)]
        for process in running:
            stack.enter_context(process)
            stack.callback(process.kill)
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
        for process in running:
            assert process.stderr is not None and (process.stderr.read(), process.wait(60)) == ("", 0)
    found = kept(spool)
    assert [len(group.callbacks) for group in found] == [3] * 80
    for writer_id in {group.writer_id for group in found}:
        assert [group.sequence for group in found if group.writer_id == writer_id] == list(range(20))


def test_full_disk_stores_no_part_of_a_group_and_recovers(spool: Spool) -> None:
    """A limit on the file size simulates a full disk: it causes the same error in the same call."""
    done = _run(
        """
        spool.append(group(1, b"a"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        try:
            spool.append(group(2, *[b"x" * 60_000] * 20))
        except SpoolFailed as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        spool.append(group(3, b"b"))
        """,
        spool.path,
    )
    assert "could not be used" in done
    assert [(group.sequence, len(group.callbacks)) for group in kept(spool)] == [(1, 1), (3, 1)]


@pytest.mark.parametrize("broken", ["parent is a file", "path is a folder", "not SQLite"])
def test_unusable_file_is_spool_failed(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "data" / "spool.sqlite3"
    if broken == "parent is a file":
        path.parent.write_text("")
    elif broken == "path is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_bytes(b"not a database at all " * 100)
    spool = Spool(path, PLENTY)
    for _ in range(2):
        with pytest.raises(SpoolFailed, match="could not be used") as caught:
            spool.append(make_group(b"a"))
        assert caught.value.code == "spool_failed"
    spool.close()


def test_spool_locked_by_another_program_is_spool_failed_and_works_afterwards(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(make_group(b"a"))
    monkeypatch.setattr(spool_module, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(spool.path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(SpoolFailed, match="locked"):
        spool.append(make_group(b"b"))
    other.execute("rollback")
    other.close()
    spool.append(make_group(b"c"))
    assert spool.depth() == 2


def test_readers_and_writers_do_not_wait_for_each_other(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [make_group(b"a"), make_group(b"b")]
    spool.append(groups[0])
    monkeypatch.setattr(spool_module, "BUSY_SECONDS", 0.0)  # waiting would fail
    with spool._transaction() as writing:
        writing.execute("delete from spooled")
        assert (spool.depth(), kept(spool), spool.is_past(1), spool.clean()) == (1, groups[:1], False, False)
    spool.append(groups[1])
    other = Spool(spool.path, PLENTY)
    with other._snapshot() as reading:
        assert reading is not None
        reading.execute("begin")
        assert reading.execute("select count(*) from spooled").fetchone() == (1,)
        spool.append(groups[0])
        spool.remove(spool.oldest(1)[0][0])
        assert reading.execute("select count(*) from spooled").fetchone() == (1,), "a snapshot"
        reading.execute("commit")
    other.close()
    assert kept(spool) == groups[:1]


def test_removing_many_groups_lets_others_append_in_between(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of a removal holds the write lock, so it must be short."""
    position = spool.append(make_group(*[b"x" * 6_000] * 500))
    other = Spool(spool.path, PLENTY)
    depths: list[int] = []

    def append_instead_of_pausing(_: float) -> None:
        other.append(make_group(b"late"))
        depths.append(other.depth())

    monkeypatch.setattr("receiver.intake.spool.time.sleep", append_instead_of_pausing)
    spool.remove(position)
    other.close()
    assert len(depths) == 7 and depths[0] == 500 - spool_module.REMOVED_AT_ONCE + 1
    assert [group.callbacks[0].body for group in kept(spool)] == [b"late"] * 7


def test_removed_bodies_are_in_no_file_once_the_spool_is_empty(spool: Spool) -> None:
    numbers = [b"1617555%04d" % number for number in range(2_000)]
    for start in range(0, 2_000, 100):
        spool.append(make_group(*(b'{"phone_number": "%s"}' % number for number in numbers[start : start + 100])))
    assert found_in_files(spool, numbers) and not spool.clean()
    last = spool.oldest(10_000)[-1][0]
    spool.remove(last - 1)
    assert not spool.clean(), "one callback is left"
    spool.remove(last)
    assert spool.clean()
    assert found_in_files(spool, numbers) == []
    assert sum(path.stat().st_size for path in spool.path.parent.glob("spool.sqlite3*")) < 100_000
    late = make_group(b"late")
    assert spool.append(late) > last, "no position is used twice"
    assert kept(spool) == [late]


def test_removed_bodies_are_overwritten_while_others_remain(spool: Spool) -> None:
    """The write-ahead log has them until SQLite restarts it; the pages of the file do not."""
    first, second = make_group(b"16175550001" * 90), make_group(b"16175550002" * 90)
    positions = [spool.append(group) for group in (first, second)]
    spool.remove(positions[0])
    assert spool._opened is not None
    spool._opened.execute("pragma wal_checkpoint(truncate)")
    assert found_in_files(spool, [b"16175550001", b"16175550002"]) == [b"16175550002"]


def test_spool_in_use_is_cleaned_later(spool: Spool) -> None:
    spool.remove(spool.append(make_group(b"16175550001")))
    other = Spool(spool.path, PLENTY)
    other.append(make_group(b"16175550002"))
    with other._snapshot() as reading:
        assert reading is not None
        reading.execute("begin")
        reading.execute("select * from spooled").fetchall()
        spool.remove(spool.oldest(1)[0][0])
        assert not spool.clean()
        reading.execute("commit")
    assert spool.clean()
    other.close()
    assert found_in_files(spool, [b"16175550001", b"16175550002"]) == []


def found_in_files(spool: Spool, texts: list[bytes]) -> list[bytes]:
    """Those of these texts that are in a file in the spool's folder."""
    contents = b"".join(path.read_bytes() for path in spool.path.parent.rglob("*") if path.is_file())
    return [text for text in texts if text in contents]


_PROGRAM = """
import os, resource, sys
from pathlib import Path
from uuid import uuid4
from receiver.intake.journal import Group
from receiver.intake.spool import Spool, SpoolFailed
from tests.factories import make_callback
spool, writer_id = Spool(Path(sys.argv[1]), 1 << 30), uuid4()
def group(sequence, *bodies):
    return Group(writer_id, sequence, tuple(make_callback(1, body) for body in bodies))
"""


def _start(work: str, path: Path) -> subprocess.Popen[str]:
    lines = "\n".join(line.removeprefix("        ") for line in work.splitlines())
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM + lines, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(work: str, path: Path, status: int = 0) -> str:
    process = _start(work, path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return out
