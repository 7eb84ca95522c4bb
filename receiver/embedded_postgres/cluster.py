"""How a database folder is made and configured, and where its socket stands."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from receiver.embedded_postgres.account import Account, EmbeddedPostgresError, complaint

PORT = "5432"  # only part of the socket's name: no TCP is listened on
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_LENGTH = 100
"""A socket's path, in bytes, at most; the kernels' limits are 108 (Linux) and 104 (macOS, BSD)."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A callback is answered after its commit; without these two, "stored" would not survive a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    # For a small machine with an SSD.
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "maintenance_work_mem": "128MB",
    "work_mem": "8MB",
    "random_page_cost": "1.1",
    "jit": "off",  # compiling costs more than it saves in queries of milliseconds
    # A million rows at once: few, spread checkpoints. wal_compression stays off: the wheel is built
    # without lz4, and pglz costs the two cores more than the disk gains.
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    # A file for each weekday, emptied before its next use. A failed statement is told to the client,
    # which logs it; here its detail would repeat the phone numbers of people, and grow without bound.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgres-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_min_messages": "log",
    # What is told all the same (a connection that was ended, a process that was killed) is told without statement,
    # parameters, detail and context: the last two quote rows, such as the line of a CSV that was being stored.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}
"""What the server runs with; `EmbeddedPostgres(settings=…)` adds to and replaces these."""


def create_cluster(cluster: Path, settings: Mapping[str, str], account: Account, programs: Path) -> None:
    """Make the folder `cluster` with an empty database `receiver`, whole or not at all.

    The work is done under a temporary name beside it. The caller holds the start lock, so whatever has
    such a name already was left by a start that was killed. Raises EmbeddedPostgresError.
    """
    for abandoned in cluster.parent.glob(".postgres-*"):
        shutil.rmtree(abandoned)
    fresh = Path(tempfile.mkdtemp(prefix=".postgres-", dir=cluster.parent))
    account.own(fresh)
    # C.UTF-8 of the builtin provider: sorted by code point, as under C, and the same on every system,
    # but lower() and ilike know letters outside of ASCII (batch names), which under C they do not.
    initdb: list[str | Path] = [programs / "initdb", "-D", fresh, "--username=receiver", "--encoding=UTF8"]
    initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
    # Whoever reaches the socket, in a folder of mode 0700, is the account itself or root.
    initdb += ["--auth-local=trust", "--auth-host=reject"]
    if settings["fsync"] == "off":
        initdb.append("--no-sync")
    single: list[str | Path] = [programs / "postgres", "--single", "-D", fresh, "-c", "exit_on_error=true"]
    single += ["-c", f"fsync={settings['fsync']}", "postgres"]
    for command, stdin in ((initdb, ""), (single, "create database receiver\n")):
        result = account.run(command, timeout=120, stdin=stdin)
        if result.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedPostgresError(
                f"No database can be created in {cluster.parent}: {complaint(result.stdout)}. Fix this, or set DATA_DIR"
                " to another folder."
            )
    fresh.rename(cluster)
    folder = os.open(cluster.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def socket_folder(cluster: Path, name: str) -> Path:
    """Where the socket stands: in the cluster, which is private, or as `name` under a temporary folder.

    The second only where the first would make a path too long for a socket (SOCKET_PATH_LENGTH).
    """
    usual = (cluster, Path(tempfile.gettempdir()) / name)
    fitting = (folder for folder in usual if len(os.fsencode(folder / SOCKET)) < SOCKET_PATH_LENGTH)
    return next(fitting, Path("/tmp") / name)  # noqa: S108 - make_private refuses another's folder


def make_private(folder: Path, account: Account) -> None:
    """Make a folder for the account alone, in a place where anyone may have made one of this name before."""
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
    """Write a configuration file (Postgres manual: 19.1.2), readable to the account whatever our umask."""
    lines = ["# Written by the receiver at every start. To change a setting for good: alter system set ..."]
    for name, value in settings.items():
        escaped = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{escaped}'")
    fresh = path.with_suffix(".conf.new")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.chmod(0o644)
    fresh.replace(path)
