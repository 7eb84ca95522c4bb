"""A complete service of real processes, used as users use it: by commands, HTTP and signals."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.embedded_postgres.server import EmbeddedPostgres
from receiver.supervisor.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "samples"
START_SECONDS = 120.0
OURS = (
    "DATABASE_URL",
    "DATA_DIR",
    "PORT",
    "PUBLIC_URL",
    "SECRET_KEY",
    "SECRET_KEY_LOSS",
    "WEB_CONCURRENCY",
    "DEFAULT_REGION",
)
"""Environment variables that would change what a test starts, in addition to all that begin with PLUM_."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: str
    """In ticks of the kernel. Together with the pid, it always identifies the same process."""
    parent: int
    uid: int
    command: str
    environment: str


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment without the service's configuration, and with these changes."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("PLUM_")}
    return kept | changes


@dataclass(frozen=True, slots=True)
class Runner:
    """The interpreter and the account for `python -m receiver`. `account` None: the current account."""

    python: str = sys.executable
    account: pwd.struct_passwd | None = None

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        if self.account is not None:
            options |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return subprocess.Popen([self.python, "-m", "receiver", *arguments], cwd=ROOT, **options)


DEFAULT_RUNNER = Runner()


def without_database_line(error_output: str) -> str:
    """Standard error without the line in which every command names its database."""
    return re.sub(r"^receiver: using the .*\n", "", error_output, flags=re.MULTILINE)


def run_command(
    *arguments: str, environment: Mapping[str, str], runner: Runner = DEFAULT_RUNNER
) -> subprocess.CompletedProcess[str]:
    """Run `python -m receiver …` and wait for its end. The line that names the database is left out."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with runner.start(*arguments, env=environment, text=True, **pipes) as process:
        try:
            output, error_output = process.communicate(timeout=180)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, output, without_database_line(error_output))


class Service:
    """`python -m receiver serve` on a free port, with its own DATA_DIR under `folder`.

    A context manager: at its end, all processes that it started are killed, even if the test failed.
    """

    def __init__(self, folder: Path, *, runner: Runner = DEFAULT_RUNNER, **environment: str) -> None:
        self.data_dir = folder / "var"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = clean_environment(DATA_DIR=str(self.data_dir), PORT=str(self.port), **environment)
        self.log = folder / "serve.log"
        self.key = ""
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                self.stop()
        finally:
            for process in self.processes():
                os.kill(process.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it reports that it is running, and answers. Reads its API key from the file in its output."""
        log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = self._runner.start(
                "serve", env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        eventually(lambda: self._is_running(log_start), START_SECONDS, lambda: self.log.read_text()[log_start:])

    def _is_running(self, log_start: int) -> bool:
        assert self._process is not None
        text = self.log.read_text()[log_start:]
        assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{text}"
        if found := re.search(r"^ +API key +in (\S+)$", text, re.MULTILINE):
            self.key = Path(found[1]).read_text().strip()
        return found is not None and self._answers()

    def _answers(self) -> bool:
        """On a slow machine, it reports that it is running before its web processes listen."""
        try:
            return self.ask("/healthz").status == 200
        except OSError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal to `serve` only. Returns its exit status and the seconds until it ended."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(how)
        return self._process.wait(60), time.monotonic() - began

    def processes(self) -> list[Process]:
        """Every living process of this service: its command or environment contains the DATA_DIR, or it descends
        from such a process.
        """
        everything = list_processes()
        mark = str(self.data_dir)
        own = {each.pid for each in everything if mark in each.command or f"DATA_DIR={mark}\0" in each.environment}
        own.discard(os.getpid())
        while more := {each.pid for each in everything if each.parent in own} - own:
            own |= more
        return [each for each in everything if each.pid in own]

    @property
    def embedded_database_url(self) -> str:
        """The URL of its embedded Postgres."""
        return EmbeddedPostgres(self.data_dir).conninfo

    @property
    def simulator_url(self) -> str:
        """The URL of the simulator that it started."""
        return str(re.findall(r"simulator at (http://\S+?);", self.log.read_text())[-1])

    def process(self, *texts: str, parent: int | None = None) -> Process:
        """The process whose command contains these words."""
        return next(
            each
            for each in self.processes()
            if all(text in each.command for text in texts) and parent in (None, each.parent)
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's environment."""
        return run_command(*arguments, environment=self.environment, runner=self._runner)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request with the service's key."""
        return ask(self.url + path, method, body, {"Authorization": f"Bearer {self.key}", **(headers or {})})

    def is_ready(self) -> bool:
        """Whether the web process that answers reports this; another one may still be starting."""
        return bool(self.ask("/readyz").json["status"] == "ready")

    def batch(self, batch_id: int) -> dict[str, Any]:
        """The batch, after a check of its balance."""
        answer = self.ask(f"/api/v1/batches/{batch_id}")
        assert answer.status == 200, answer
        batch = answer.json
        counts, callbacks = batch["counts"], batch["callbacks"]
        assert counts["rows"] == sum(counts[name] for name in ("skipped", "refused", "pending", "overdue", "final"))
        assert counts["final"] == sum(counts[name] for name in ("completed", "failed", "canceled", "rejected", "other"))
        states = ("waiting", "applied", "duplicate", "conflict", "unmatched", "unreadable")
        assert callbacks["received"] == sum(callbacks[name] for name in states)
        return batch

    def queue(self, csv: Path, *headers: str, **fields: str) -> Answer:
        """POST a batch with curl, if it is installed."""
        fields = {"application_id": "7", "deployment_id": "3", **fields}
        headers = (f"Authorization: Bearer {self.key}", *headers)
        if shutil.which("curl") is None:
            return self._queue_without_curl(csv, headers, fields)
        command = ["curl", "--silent", "--show-error", "--include", "--max-time", "120", "-H", "Expect:"]
        command += [argument for header in headers for argument in ("-H", header)]
        command += ["-F", f"csv=@{csv}"]
        command += [argument for name, text in fields.items() for argument in ("--form-string", f"{name}={text}")]
        ran = subprocess.run([*command, f"{self.url}/api/v1/batches"], capture_output=True, check=True, timeout=130)
        head, _, body = ran.stdout.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return Answer(int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body)

    def _queue_without_curl(self, csv: Path, headers: Sequence[str], fields: Mapping[str, str]) -> Answer:
        boundary = secrets.token_hex(16)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
            for name, text in fields.items()
        ]
        disposition = f'form-data; name="csv"; filename="{csv.name}"'
        parts.append(f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + csv.read_bytes())
        body = b"".join([*parts, f"\r\n--{boundary}--\r\n".encode()])
        given = dict(header.split(": ", 1) for header in headers)
        given["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        return ask(f"{self.url}/api/v1/batches", "POST", body, given, timeout=120)


def ask(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> Answer:
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310 http, to this machine
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 as above
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def list_processes() -> list[Process]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name in brackets can contain any text; numbers follow it (proc(5): /proc/[pid]/stat).
            status = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            uid = folder.stat().st_uid
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended, or belongs to another user
        if status[0] != "Z":
            found.append(Process(int(folder.name), status[19], int(status[1]), uid, command, environment))
    return found
