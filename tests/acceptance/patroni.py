"""A Patroni cluster of two Postgres servers, with etcd: both as Debian packages them (`patroni`, `etcd-server`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from receiver.supervisor.ports import free_port
from tests.acceptance.postgres import DATABASE, Postgres
from tests.waiting import eventually

is_installed = shutil.which("patroni") is not None and shutil.which("etcd") is not None

_CONFIGURATION = """\
scope: receiver
name: {name}
restapi: {{listen: "127.0.0.1:{rest}", connect_address: "127.0.0.1:{rest}"}}
etcd3: {{host: "127.0.0.1:{etcd}"}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 3
    synchronous_mode: true
    postgresql: {{use_pg_rewind: false, use_slots: true}}
  initdb: [{{encoding: UTF8}}, {{locale: C.UTF-8}}, {{auth: trust}}]
postgresql:
  listen: "127.0.0.1:{port}"
  connect_address: "127.0.0.1:{port}"
  data_dir: {folder}
  bin_dir: {programs}
  use_unix_socket: false
  authentication: {{superuser: {{username: receiver}}, replication: {{username: receiver}}}}
  parameters: {{unix_socket_directories: "", fsync: "off", shared_buffers: 32MB, max_connections: "60"}}
  pg_hba: ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
"""


class Member(Postgres):
    """One of the servers. Patroni starts and stops Postgres."""

    def __init__(self, home: Path, name: str, etcd: int) -> None:
        super().__init__(home)
        self._own(home)
        self._rest, self._name = free_port(), name
        self._file = home / "patroni.yaml"
        self._file.write_text(
            _CONFIGURATION.format(
                name=name, rest=self._rest, etcd=etcd, port=self.port, folder=self.folder, programs=self._programs
            )
        )
        self._file.chmod(0o644)
        self._patroni: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        with (self._home / "patroni.log").open("ab") as log:
            self._patroni = subprocess.Popen(
                ["patroni", str(self._file)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}, **self._account_options(),
            )  # fmt: skip

    def end(self) -> None:
        """End Patroni and Postgres at once, as if the machine had lost its power."""
        if self._patroni is not None:
            self._patroni.kill()
            self._patroni.wait()
            self._patroni = None
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def log(self) -> str:
        return (self._home / "patroni.log").read_text(errors="replace")[-4000:]

    def is_(self, role: str) -> bool:
        """Whether Patroni says that this server is `primary`, or `sync`: a standby that has every commit."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._rest}/{role}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[Member, Member]]:
    """The primary, and its synchronous standby."""
    client, peer = free_port(), free_port()
    here = f"http://127.0.0.1:{peer}"
    etcd = subprocess.Popen(
        ["etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", f"http://127.0.0.1:{client}",
         "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", here,
         "--initial-advertise-peer-urls", here, "--initial-cluster", f"default={here}", "--log-level", "error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    members = []
    try:
        for name in ("a", "b"):
            home = folder / name
            home.mkdir()
            members.append(Member(home, name, client))
        first, second = members
        first.begin()
        eventually(lambda: first.is_("primary"), 300, first.log)
        first.execute(f"create database {DATABASE}", database="postgres")
        second.begin()
        eventually(lambda: second.is_("sync"), 300, second.log)
        yield first, second
    finally:
        for member in members:
            member.end()
        etcd.kill()
        etcd.wait()
