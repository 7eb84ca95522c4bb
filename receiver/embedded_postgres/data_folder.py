"""The folder that is used as DATA_DIR when the embedded server's account cannot enter the one that is set.

Started by root, Postgres runs as another account, which cannot enter a clone under `/root`. Each such DATA_DIR has a
folder of its own under SHARED_FOLDER. Two files connect the two, so that no folder is ever used for two clones:

    DATA_DIR/data-folder    the folder that is used; it moves with the clone
    FOLDER/data-dir         the DATA_DIR that uses it

Release 1.0.0 used SHARED_FOLDER itself for every clone, and left no such files.
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
from contextlib import suppress
from pathlib import Path

from receiver.embedded_postgres.account import SHARED_FOLDER, account_for
from receiver.embedded_postgres.installation import make_folders
from receiver.errors import ConfigurationError, Fault

POINTER = "data-folder"
OWNER = "data-dir"
ROOT = Path(__file__).resolve().parents[2]


def find_data_folder(wanted: Path, *, shared: Path = SHARED_FOLDER, clone: Path = ROOT) -> Path:
    """The folder that is used for the DATA_DIR `wanted`; `wanted` itself where there is no other. Changes nothing.

    Raises ConfigurationError if `wanted` was copied together with the name of another clone's folder.
    """
    wanted = wanted.resolve()
    return _find(wanted, shared, clone) or wanted


def claim_data_folder(wanted: Path, *, shared: Path = SHARED_FOLDER, clone: Path = ROOT) -> tuple[Path, str | None]:
    """The same for `serve`, which makes the folder; and a sentence for the user where it is not `wanted`.

    Ask before `wanted` is made: a folder of mode 0700 is one that nobody else can enter.
    """
    wanted = wanted.resolve()
    found = _find(wanted, shared, clone)
    closed = _closed_part(wanted)
    if found == wanted or (found is None and closed is None):
        return wanted, None
    try:
        make_folders(shared)
        if found is None:
            _check_shared(shared, wanted, closed)
        with (shared / "clones.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = _find(wanted, shared, clone) or shared / f"clone-{secrets.token_hex(4)}"
            if not folder.exists():
                make_folders(folder.parent)
                folder.mkdir()
                folder.chmod(0o711)  # the server's account passes; nobody else lists it
            _write(folder / OWNER, wanted)
            wanted.mkdir(parents=True, exist_ok=True)
            _write(wanted / POINTER, folder)
    except OSError as error:
        message = (
            f"{wanted} cannot be prepared: {error.strerror}: {error.filename}. Set it to a folder that can be written"
        )
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)]) from None
    sentence = f"Keeping the database in {folder}. Set DATA_DIR to choose another folder."
    if closed is not None:
        name = account_for(wanted / "postgres").name
        sentence = (
            f"Keeping the database in {folder}: Postgres runs as the account {name}, which cannot enter {closed}. "
            "Set DATA_DIR to choose another folder."
        )
    if found is None and (shared / "postgres").exists():
        sentence += f" The database in {shared} is not used: set DATA_DIR={shared} if it is yours."
    return folder, sentence


def _check_shared(shared: Path, wanted: Path, closed: Path | None) -> None:
    """Write nothing into a `shared` that the server's account cannot enter: with deploy/systemd, it is the service's.

    Raises ConfigurationError.
    """
    account = account_for(wanted / "postgres")
    if not account.may("-x", shared):
        message = (
            f"{wanted} cannot be used: Postgres runs as the account {account.name}, which can enter neither {closed}"
            f" nor {shared}. Move the clone to a folder that this account can enter, or start it as an ordinary user"
        )
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)])


def _find(wanted: Path, shared: Path, clone: Path) -> Path | None:
    """The folder that `wanted` uses already; None: none yet."""
    try:
        if (wanted / "postgres").exists():
            return wanted
    except OSError as error:
        message = f"{wanted} cannot be entered: {error.strerror}. Run this as the account that owns it"
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)]) from None
    named = _read(wanted / POINTER)
    if named is not None:
        owner = _read(named / OWNER)
        # A clone that was moved is known by its pointer, and the place that it left has none any more.
        if owner is not None and owner != wanted and _read(owner / POINTER) == named and not _same(owner, wanted):
            message = (
                f"{wanted} was copied from {owner}, which uses {named}. Remove {wanted / POINTER} to start with an"
                " empty database, or set another folder"
            )
            raise ConfigurationError([Fault("DATA_DIR", "unusable", message)])
        return named
    if wanted == clone / "var" and _closed_part(wanted) is not None and _is_from_release_1_0(shared, clone):
        return shared
    return None


def _closed_part(wanted: Path) -> Path | None:
    """The part of `wanted` that the server's account cannot enter; None: it can, or the server runs as ourselves."""
    account = account_for(wanted / "postgres")
    if account.uid is None:
        return None
    nearest = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    return None if account.may("-x", nearest) else nearest


def _is_from_release_1_0(shared: Path, clone: Path) -> bool:
    """Whether `shared` holds a database of release 1.0.0 that this clone has made, as far as can be known.

    `make run` makes the virtualenv, and then the database. So a virtualenv that is younger than the database belongs to
    another clone.
    """
    if (shared / OWNER).exists():
        return False
    try:
        made_at = (shared / "postgres" / "PG_VERSION").stat().st_mtime
    except OSError:
        return False
    return _installed_at(clone) < made_at


def _installed_at(clone: Path) -> float:
    """When the virtualenv of a clone was made; without one, when the clone was.

    Times of change are used: unlike times of modification, unpacking does not set them back.
    """
    environment = clone / ".venv"
    if environment.is_symlink():
        return environment.lstat().st_ctime
    with suppress(OSError):
        return (environment / "pyvenv.cfg").stat().st_ctime
    return min((path.stat().st_ctime for path in (clone / "migrations").glob("*.sql")), default=math.inf)


def _read(path: Path) -> Path | None:
    try:
        return Path(path.read_text().strip())
    except OSError:
        return None


def _write(path: Path, named: Path) -> None:
    if _read(path) != named:
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(f"{named}\n")
        fresh.replace(path)


def _same(one: Path, other: Path) -> bool:
    """Whether both are one folder, as with a bind mount."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
