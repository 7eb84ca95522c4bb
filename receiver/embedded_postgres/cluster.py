"""Create and configure a database folder, and choose the folder of its socket."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from receiver.embedded_postgres.account import Account, EmbeddedPostgresError, error_in

PORT = "5432"  # only a part of the socket's name: the server does not listen on TCP
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_LENGTH = 100
"""Maximum length of a socket's path, in bytes. The limits of the kernels are 108 (Linux) and 104 (macOS, BSD)."""

SETTINGS = Path(__file__).with_name("postgresql.conf")
"""The settings of the server, in its own format."""


def create_cluster(cluster: Path, settings: Mapping[str, str], account: Account, programs: Path) -> None:
    """Create the folder `cluster` with an empty database `receiver`, completely or not at all.

    It is created under a temporary name and then renamed. The caller holds the start lock, so a folder with such a name
    is left from a start that was killed. Raises EmbeddedPostgresError.
    """
    for abandoned in cluster.parent.glob(".postgres-*"):
        shutil.rmtree(abandoned)
    fresh = Path(tempfile.mkdtemp(prefix=".postgres-", dir=cluster.parent))
    account.own(fresh)
    # C.UTF-8 of the builtin provider sorts by code point, as C does, and is the same on every system. Unlike with C,
    # lower() and ilike work for letters outside of ASCII (names of batches).
    initdb: list[str | Path] = [programs / "initdb", "-D", fresh, "--username=receiver", "--encoding=UTF8"]
    initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
    # Only the account itself and root can use the socket, which is in a folder of mode 0700.
    initdb += ["--auth-local=trust", "--auth-host=reject"]
    single: list[str | Path] = [programs / "postgres", "--single", "-D", fresh, "-c", "exit_on_error=true"]
    if settings.get("fsync") == "off":
        initdb.append("--no-sync")
        single += ["-c", "fsync=off"]
    single.append("postgres")
    for command, stdin in ((initdb, ""), (single, "create database receiver\n")):
        result = account.run(command, timeout=120, stdin=stdin)
        if result.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedPostgresError(
                f"No database can be created in {cluster.parent}: {error_in(result.stdout)}. Fix this, or set DATA_DIR"
                " to another folder."
            )
    fresh.rename(cluster)
    folder = os.open(cluster.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def socket_folder(cluster: Path, name: str) -> Path:
    """The folder of the socket: the cluster, which is private, or `name` in `/tmp` if that path is too long."""
    fits = len(os.fsencode(cluster / SOCKET)) < SOCKET_PATH_LENGTH
    return cluster if fits else Path("/tmp") / name  # noqa: S108 - make_private refuses another's folder


def make_private(folder: Path, account: Account) -> None:
    """Create a folder that only the account can use. Others may have created one with this name before."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.uid}:
        raise EmbeddedPostgresError(
            f"{folder} is meant for the database's socket and belongs to someone else. "
            "Remove it, or set DATA_DIR to a shorter path."
        )
    folder.chmod(0o700)
    account.own(folder)


def write_settings(path: Path, settings: Mapping[str, str]) -> None:
    """Write a configuration file that the account can read: SETTINGS, and after them `settings`, which win."""
    lines = [SETTINGS.read_text()]
    for name, value in settings.items():
        escaped = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{escaped}'\n")
    fresh = path.with_suffix(".conf.new")
    fresh.write_text("".join(lines))
    fresh.chmod(0o644)
    fresh.replace(path)
