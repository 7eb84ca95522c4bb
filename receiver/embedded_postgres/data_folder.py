"""Choose another folder for DATA_DIR if the account of the embedded server cannot enter it.

If root starts Postgres, it runs as another account, which cannot enter a clone under `/root`. Then each DATA_DIR gets
its own folder under SHARED_FOLDER. Two files connect both, so that two clones never use the same folder:

    DATA_DIR/data-folder    the folder in use; this file moves with the clone
    FOLDER/data-dir         the DATA_DIR that uses the folder

Release 1.0.0 used SHARED_FOLDER itself for every clone, without these files.
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
    """The folder that is used instead of the DATA_DIR `wanted`, or `wanted` itself. Changes nothing.

    Raises ConfigurationError if `wanted` is a copy of another clone's DATA_DIR, and contains the name of its folder.
    """
    wanted = wanted.resolve()
    return _find(wanted, shared, clone) or wanted


def claim_data_folder(wanted: Path, *, shared: Path = SHARED_FOLDER, clone: Path = ROOT) -> tuple[Path, str | None]:
    """As `find_data_folder`, for `serve`: create the folder, and return a sentence for the user if it is not `wanted`.

    Call this before `wanted` is created: a folder of mode 0700 would be one that the account cannot enter.
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
                folder.chmod(0o711)  # other accounts can enter it, but not list it
            _write(folder / OWNER, wanted)
            wanted.mkdir(parents=True, exist_ok=True)
            _write(wanted / POINTER, folder)
    except OSError as error:
        message = (
            f"{wanted} cannot be prepared: {error.strerror}: {error.filename}. Set it to a folder that can be written"
        )
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)]) from None
    reason = ""
    if closed is not None:
        name = account_for(wanted / "postgres").name
        reason = f": Postgres runs as the account {name}, which cannot enter {closed}"
    sentence = f"Keeping the database in {folder}{reason}. Set DATA_DIR to choose another folder."
    if found is None and (shared / "postgres").exists():
        sentence += f" The database in {shared} is not used: set DATA_DIR={shared} if it is yours."
    return folder, sentence


def _check_shared(shared: Path, wanted: Path, closed: Path | None) -> None:
    """Raise ConfigurationError if the server's account cannot enter `shared`.

    Then nothing must be written into it: with deploy/systemd, it belongs to the service.
    """
    account = account_for(wanted / "postgres")
    if not account.may("-x", shared):
        message = (
            f"{wanted} cannot be used: Postgres runs as the account {account.name}, which can enter neither {closed}"
            f" nor {shared}. Move the clone to a folder that this account can enter, or start it as an ordinary user"
        )
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)])


def _find(wanted: Path, shared: Path, clone: Path) -> Path | None:
    """The folder that `wanted` already uses. None: there is none yet."""
    try:
        if (wanted / "postgres").exists():
            return wanted
    except OSError as error:
        message = f"{wanted} cannot be entered: {error.strerror}. Run this as the account that owns it"
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)]) from None
    named = _read(wanted / POINTER)
    if named is not None:
        owner = _read(named / OWNER)
        # A moved clone keeps its file `data-folder`, and its old place has none.
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
    """The nearest existing folder of `wanted` if the server's account cannot enter it. None: it can."""
    account = account_for(wanted / "postgres")
    if account.uid is None:
        return None
    nearest = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    return None if account.may("-x", nearest) else nearest


def _is_from_release_1_0(shared: Path, clone: Path) -> bool:
    """Whether `shared` probably contains a database that this clone created with release 1.0.0.

    `make run` creates the virtualenv, and then the database. So if the virtualenv is newer than the database, another
    clone created the database.
    """
    if (shared / OWNER).exists():
        return False
    try:
        made_at = (shared / "postgres" / "PG_VERSION").stat().st_mtime
    except OSError:
        return False
    return _installed_at(clone) < made_at


def _installed_at(clone: Path) -> float:
    """When the virtualenv of a clone was created, or without one, when the clone was created.

    This is a time of change (ctime), because unpacking sets the time of modification to an earlier value.
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
    """Whether both are the same folder, for example by a bind mount."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
