"""Each clone that the server's account cannot enter gets its own folder, and keeps it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.embedded_postgres.data_folder import OWNER, POINTER, claim_data_folder, find_data_folder
from receiver.errors import ConfigurationError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")

MakeClone = Callable[[str], Path]


@pytest.fixture
def shared(server_dir: Path) -> Path:
    return server_dir / "shared"


@pytest.fixture
def make_clone(tmp_path: Path) -> MakeClone:
    """Creates a clone with its virtualenv in a folder that no other account can enter."""
    tmp_path.chmod(0o700)

    def make(name: str) -> Path:
        (tmp_path / name / ".venv").mkdir(parents=True)
        (tmp_path / name / ".venv" / "pyvenv.cfg").write_text("")
        return tmp_path / name

    return make


def make_database_of_release_1_0(shared: Path, made_at: float) -> None:
    (shared / "postgres").mkdir(parents=True)
    (shared / "postgres" / "PG_VERSION").write_text("18\n")
    os.utime(shared / "postgres" / "PG_VERSION", (made_at, made_at))


def test_each_clone_gets_and_keeps_its_own_folder(make_clone: MakeClone, shared: Path) -> None:
    one, other = make_clone("one"), make_clone("other")
    folder, sentence = claim_data_folder(one / "var", shared=shared, clone=one)
    assert folder.parent == shared and folder.stat().st_mode & 0o777 == 0o711
    assert sentence is not None and str(folder) in sentence and str(one) in sentence
    second, _ = claim_data_folder(other / "var", shared=shared, clone=other)
    assert second.parent == shared and second != folder
    assert claim_data_folder(one / "var", shared=shared, clone=one)[0] == folder
    assert find_data_folder(other / "var", shared=shared, clone=other) == second


def test_folder_of_a_service_is_not_used(make_clone: MakeClone, shared: Path) -> None:
    """systemd creates /var/lib/receiver for the service of deploy/systemd. No other account may enter it."""
    clone = make_clone("one")
    shared.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=f"can enter neither .* nor {shared}"):
        claim_data_folder(clone / "var", shared=shared, clone=clone)
    assert list(shared.iterdir()) == [] and not (clone / "var").exists()


def test_command_finds_the_folder_and_creates_none(make_clone: MakeClone, shared: Path) -> None:
    clone = make_clone("one")
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == clone / "var"
    assert not shared.exists() and not (clone / "var").exists()


def test_moved_clone_keeps_its_folder(make_clone: MakeClone, shared: Path) -> None:
    clone = make_clone("one")
    folder, _ = claim_data_folder(clone / "var", shared=shared, clone=clone)
    moved = clone.rename(clone.with_name("moved"))
    assert find_data_folder(moved / "var", shared=shared, clone=moved) == folder
    assert claim_data_folder(moved / "var", shared=shared, clone=moved)[0] == folder
    # A new clone in the old place is another one.
    again = make_clone("one")
    assert claim_data_folder(again / "var", shared=shared, clone=again)[0] != folder


def test_copied_clone_is_refused_until_its_pointer_is_removed(make_clone: MakeClone, shared: Path) -> None:
    clone = make_clone("one")
    folder, _ = claim_data_folder(clone / "var", shared=shared, clone=clone)
    copy = clone.with_name("copy")
    shutil.copytree(clone, copy)
    for attempt in (claim_data_folder, find_data_folder):
        with pytest.raises(ConfigurationError, match=f"copied from {clone / 'var'}, which uses {folder}"):
            attempt(copy / "var", shared=shared, clone=copy)
    assert (folder / OWNER).read_text().strip() == str(clone / "var")
    (copy / "var" / POINTER).unlink()
    assert claim_data_folder(copy / "var", shared=shared, clone=copy)[0] != folder
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == folder


def test_clone_that_created_the_database_of_release_1_0_keeps_it_and_no_other_gets_it(
    make_clone: MakeClone, shared: Path
) -> None:
    clone, younger = make_clone("one"), make_clone("younger")
    make_database_of_release_1_0(shared, made_at=time.time() + 60)
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == shared, "`migrate` runs before `serve`"
    assert claim_data_folder(clone / "var", shared=shared, clone=clone)[0] == shared
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == shared
    folder, sentence = claim_data_folder(younger / "var", shared=shared, clone=younger)
    assert folder.parent == shared
    assert sentence is not None and f"DATA_DIR={shared}" in sentence


def test_clone_newer_than_the_database_of_release_1_0_does_not_get_it(make_clone: MakeClone, shared: Path) -> None:
    clone = make_clone("one")
    make_database_of_release_1_0(shared, made_at=time.time() - 60)
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == clone / "var"
    assert claim_data_folder(clone / "var", shared=shared, clone=clone)[0] != shared


@pytest.mark.parametrize("installed", ["nothing", "a link"])
def test_age_of_a_clone_without_its_own_virtualenv(make_clone: MakeClone, shared: Path, installed: str) -> None:
    clone = make_clone("one")
    shutil.rmtree(clone / ".venv")
    if installed == "a link":
        (clone / ".venv").symlink_to("/")
    else:
        (clone / "migrations").mkdir()
        (clone / "migrations" / "0001_initial.sql").write_text("")
    make_database_of_release_1_0(shared, made_at=time.time() - 60)
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == clone / "var"
    os.utime(shared / "postgres" / "PG_VERSION", (time.time() + 60, time.time() + 60))
    assert find_data_folder(clone / "var", shared=shared, clone=clone) == shared


def test_database_in_the_folder_itself_is_used(make_clone: MakeClone, shared: Path) -> None:
    clone = make_clone("one")
    (clone / "var" / "postgres").mkdir(parents=True)
    assert claim_data_folder(clone / "var", shared=shared, clone=clone) == (clone / "var", None)


def test_folder_that_can_be_entered_is_used(server_dir: Path, shared: Path) -> None:
    wanted = server_dir / "not" / "yet"
    assert claim_data_folder(wanted, shared=shared, clone=server_dir) == (wanted, None)
    assert not wanted.exists() and not shared.exists()
