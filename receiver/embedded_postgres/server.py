"""The embedded Postgres under DATA_DIR, for a machine without a DATABASE_URL.

    DATA_DIR/postgres          the database folder (the cluster), with its log in postgres/log/
    DATA_DIR/postgres.conf     its settings, written at every start; `alter system` wins over them
    DATA_DIR/postgres.lock     held by the server itself for as long as any of its processes lives
    DATA_DIR/postgres.users    held, shared, by every process that uses the server

The server and its child processes inherit the lock of the process that starts them. Only a process that gets the lock
may start a server, and the lock is free only when no process of an earlier server is alive. This also works for two
containers that share a disk, which see different process ids.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from receiver.embedded_postgres.account import Account, EmbeddedPostgresError, account_for, error_in
from receiver.embedded_postgres.cluster import PORT, SOCKET, create_cluster, make_private, socket_folder, write_settings
from receiver.embedded_postgres.installation import MAJOR_VERSION, make_folders, programs_for
from receiver.embedded_postgres.postmaster import is_postmaster_of, read_pid

START_SECONDS = 120.0
"""Longest start, including the recovery after a crash, and the wait for processes of a killed server to end."""
SOCKET_FOLDER_SECONDS = 2.0
"""Longest wait until the folder of the socket can be removed."""


class EmbeddedPostgres:
    """The server of `data_dir`. The first process that needs it starts it, and the last one that leaves stops it.

    Several processes, and several objects in one process, may use the same folder. All methods raise
    EmbeddedPostgresError. Not safe to use from two threads at once.
    """

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.cluster = self.data_dir / "postgres"
        digest = hashlib.sha256(os.fsencode(self.cluster)).hexdigest()[:12]
        self._name = f"receiver-{digest}"  # appears in the titles of its processes
        self.socket_dir = socket_folder(self.cluster, self._name)
        self._settings = settings or {}
        self._use: IO[str] | None = None

    def start(self) -> None:
        """Return when the server is ready: use a running one, or create the database and start it.

        The first start takes about 1 s, later ones 0.1 s, longer after a crash, and at most START_SECONDS.
        """
        deadline = time.monotonic() + START_SECONDS
        account = account_for(self.cluster)
        self._check_folder(account)
        if self._use is None:
            self._use = self._lock_file("users")
            # Waits only while the last user stops the server.
            _wait(lambda: _locked(self._use, fcntl.LOCK_SH), deadline, f"{self.data_dir} is in use.")
        with self._lock_file("lock") as lock:
            while not (self.is_running() and self.accepts_connections()):
                if self.postmaster_pid() is None and _locked(lock, fcntl.LOCK_EX):
                    self._launch(account, lock.fileno(), deadline)
                    continue
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"The database in {self.cluster} is used by another process and did not become "
                        f"ready within {START_SECONDS:.0f} seconds. Processes of a killed server may still compute, "
                        "or another container may use this folder. Find them with "
                        f"`fuser {self.data_dir / 'postgres.lock'}` and stop them, or set DATABASE_URL."
                    )
                time.sleep(0.05)

    def stop(self, *, fast_seconds: float = 20.0) -> None:
        """Stop the server even if others use it: a fast shutdown, and after `fast_seconds` an immediate one.

        Open transactions are aborted, and nothing committed is lost. After an immediate shutdown the next start
        recovers from the log.
        """
        pid = self.postmaster_pid()
        for how, seconds in ((signal.SIGINT, fast_seconds), (signal.SIGQUIT, 20.0)):
            if pid is not None and is_postmaster_of(pid, self.cluster):
                # It ended, and its id may belong to another account.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, how)
                ended_by = time.monotonic() + seconds
                while is_postmaster_of(pid, self.cluster) and time.monotonic() < ended_by:
                    time.sleep(0.02)
        if pid is not None and is_postmaster_of(pid, self.cluster):
            raise EmbeddedPostgresError(f"The database server {pid} of {self.cluster} does not stop.")
        if self.socket_dir != self.cluster and self.socket_dir.exists():
            # The process that writes the log ends a moment after the server. Skip this if another server starts.
            with self._lock_file("lock") as lock, suppress(EmbeddedPostgresError, OSError):
                _wait(lambda: _locked(lock, fcntl.LOCK_EX), time.monotonic() + SOCKET_FOLDER_SECONDS, "in use")
                self.socket_dir.rmdir()  # fails if a killed server left its socket; the next start replaces it

    def close(self) -> None:
        """Stop using the server. The last process that does so stops it. Without `start`, does nothing.

        A killed process no longer counts as a user: the kernel releases its lock.
        """
        if self._use is None:
            return
        with self._use as use:
            self._use = None
            if _locked(use, fcntl.LOCK_EX):
                self.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def is_running(self) -> bool:
        """Whether a server of this folder is alive. It may still be starting."""
        return self.postmaster_pid() is not None

    def accepts_connections(self) -> bool:
        """Whether it accepts connections. It does not while it starts, or recovers from the crash of a process."""
        # Imported here: gunicorn's parent process imports this module, and must not import psycopg.
        from psycopg.pq import PGconn, Ping

        return PGconn.ping(f"{self.conninfo}&connect_timeout=3".encode()) == Ping.OK

    def postmaster_pid(self) -> int | None:
        """The process id of this folder's server, which may still be starting. None: no server is alive."""
        pid = read_pid(self.cluster)
        return pid if pid is not None and is_postmaster_of(pid, self.cluster) else None

    @property
    def conninfo(self) -> str:
        """A libpq URL of the database `receiver`, for root and for the account that the server runs as."""
        return f"postgresql://receiver@/receiver?host={quote(str(self.socket_dir), safe='')}&port={PORT}"

    def _check_folder(self, account: Account) -> None:
        """Create DATA_DIR. Check that the account can enter it and may run the database in it."""
        try:
            make_folders(self.data_dir)
        except OSError as error:
            raise EmbeddedPostgresError(f"DATA_DIR {self.data_dir} cannot be created: {error.strerror}.") from error
        if not account.may("-x", self.data_dir):
            raise EmbeddedPostgresError(
                f"Postgres runs as {account.name}, which cannot enter DATA_DIR {self.data_dir}."
            )
        if not self.cluster.exists():
            return
        if account.uid is None and self.cluster.stat().st_uid != os.geteuid():
            raise EmbeddedPostgresError(
                f"The database in {self.cluster} belongs to another user: start the receiver as that user "
                "or as root, or set DATA_DIR to another folder."
            )
        try:
            version = (self.cluster / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.cluster} does not contain a database ({error.strerror}: PG_VERSION): "
                "move it away, or set DATA_DIR to another folder."
            ) from error
        if version != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"The database in {self.cluster} was made by Postgres {version}, and this release brings "
                f"Postgres {MAJOR_VERSION}. Dump it with the release that created it and restore it into a new "
                "DATA_DIR, or set DATABASE_URL.",
                code="database_version",
            )

    def _launch(self, account: Account, lock: int, deadline: float) -> None:
        """Start the server, which inherits `lock`. The caller holds it, so no other server of this folder is alive."""
        programs = programs_for(account)
        if not self.cluster.exists():
            create_cluster(self.cluster, self._settings, account, programs)
        if self.socket_dir != self.cluster:
            make_private(self.socket_dir, account)
        # Files of a killed server. Postgres would refuse to start if their process id now belongs to another process
        # of the account, or to a zombie.
        for stale in (self.cluster / "postmaster.pid", self.socket_dir / f"{SOCKET}.lock"):
            stale.unlink(missing_ok=True)
        settings = {
            **self._settings,
            "port": PORT,
            "cluster_name": self._name,
            "unix_socket_directories": '"' + str(self.socket_dir).replace('"', '""') + '"',
        }
        configuration = self.data_dir / "postgres.conf"
        write_settings(configuration, settings)
        seconds = max(int(deadline - time.monotonic()), 1)
        options = f"-c config_file={shlex.quote(str(configuration))}"
        start_log = self.data_dir / "postgres-start.log"
        with start_log.open("wb") as output:
            command: list[str | Path] = [programs / "pg_ctl", "start", "-w", "-t", str(seconds)]
            command += ["-D", self.cluster, "-o", options]
            result = account.run(command, timeout=seconds + 10, output=output, pass_fds=[lock])
        if result.returncode != 0:
            logs = sorted(self.cluster.glob("log/*.log"), key=lambda log: log.stat().st_mtime)[-1:]
            tail = [line for log in (start_log, *logs) for line in log.read_text(errors="replace").splitlines()[-8:]]
            raise EmbeddedPostgresError(
                f"The database in {self.cluster} does not start: {error_in(chr(10).join(tail))}. See {start_log} and"
                f" {self.cluster / 'log'}."
            )

    def _lock_file(self, name: str) -> IO[str]:
        path = self.data_dir / f"postgres.{name}"
        try:
            # Mode 0600: an account that can read the file could lock it, and so prevent the server from starting.
            return open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))
        except OSError as error:
            raise EmbeddedPostgresError(f"{path} cannot be written: {error.strerror}.") from error


def _locked(file: IO[str] | None, how: int) -> bool:
    """Try to lock an open file, without waiting."""
    if file is None:
        return False
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(condition: Callable[[], bool], deadline: float, message: str) -> None:
    while not condition():
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(message)
        time.sleep(0.02)
