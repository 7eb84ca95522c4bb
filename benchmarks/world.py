"""What every measurement stands on: one Postgres with the product's own settings, our processes, the peers'.

fsync and synchronous_commit are on for everybody. Each side has a database of its own in the same server.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bodies import AREA, contact_rows
from receiver.database.migrations import migrate
from receiver.database.pool import connect
from receiver.embedded_postgres.server import EmbeddedPostgres
from receiver.intake.token import ResultTokens
from receiver.model import SubmissionKey
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from receiver.release.answer import Answer
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.supervisor.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a benchmark needs no secret; only one long enough"  # noqa: S105 it protects nothing
WEB_PROCESSES = 2
SUBMISSION_ROWS = 10_000
_TICKS = os.sysconf("SC_CLK_TCK")


class World:
    """A server and a folder for the time of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = EmbeddedPostgres(folder)
        self.tokens = ResultTokens([SECRET])

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        with connect(self.server.conninfo, name="benchmark", autocommit=True) as conn:
            conn.execute(f"drop database if exists {name} with (force)")
            conn.execute(f"create database {name}")
        return self.server.conninfo.replace("/receiver?", f"/{name}?")

    def receiver_database(self, name: str) -> str:
        """The address of a new database with our schema."""
        url = self.database(name)
        migrate(url)
        return url

    def peer_database(self, name: str, rows: int) -> str:
        """The address of a new database as the peers need it, with calls for the numbers of `contact_rows`."""
        url = self.database(name)
        with connect(url, name="benchmark") as conn:
            conn.execute((ROOT / "benchmarks" / "peers" / "schema.sql").read_text())
            conn.execute("insert into batch (token) values ('1')")
            conn.execute(
                "insert into call (batch_id, phone_number) select 1, (%s + row)::text from generate_series(1, %s) row",
                (AREA, rows),
            )
        return url

    def batch(self, url: str, rows: int) -> int:
        """A batch of `rows` calls, accepted as the API does; returns its id."""
        csv = io.BytesIO("".join(contact_rows(rows)).encode())
        with connect(url, name="benchmark") as conn:
            return accept(conn, csv, BatchParameters(1, 1), Limits(SUBMISSION_ROWS, 3600)).batch_id

    def sent_batch(self, url: str, rows: int) -> int:
        """A batch of `rows` calls that the provider has accepted, as it is before callbacks arrive; returns its id.

        With unsent submissions, settling would also mark them as accepted, and a worker would try to send them.
        """
        batch_id = self.batch(url, rows)
        with connect(url, name="benchmark") as conn:
            worker_id = register_worker(conn, "benchmark", 1)
            while (outgoing := claim_submission(conn, worker_id)) is not None:
                record_answer(conn, outgoing, Answer("accepted", 200, outgoing.calls))
                conn.commit()
        return batch_id

    def result_paths(self, batch_id: int, rows: int) -> list[str]:
        """The path of each submission's result_url, in the order of their rows."""
        submissions = -(-rows // SUBMISSION_ROWS)
        return [f"/results/{self.tokens.sign(SubmissionKey(batch_id, no))}" for no in range(1, submissions + 1)]

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """The environment of our own processes."""
        return {
            **os.environ,
            "DATABASE_URL": url,
            "SECRET_KEY": SECRET,
            "DATA_DIR": str(self.folder / "spool"),
            "WEB_CONCURRENCY": str(WEB_PROCESSES),
            "PLUM_USER": "benchmark",
            "PLUM_KEY": "benchmark",
            "PLUM_URL": "http://127.0.0.1:9",
            "PYTHONPATH": str(ROOT),
            "LOG_LEVEL": "warning",
            **more,
        }

    @contextmanager
    def web(self, url: str, application: str = "app:asgi", *options: str, root: Path = ROOT) -> Iterator[int]:
        """Our gunicorn settings, and more `options`, around our application, or another; gives the port.

        `root`: the folder of another version's code.
        """
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "python:receiver.web.gunicorn_conf",
            *options,
            application,
        ]
        with running(command, self.environment(url, PORT=str(port), PYTHONPATH=str(root)), root):
            wait_for(port)
            yield port

    @contextmanager
    def worker(self, url: str, **more: str) -> Iterator[int]:
        """Our worker; gives its process id."""
        with running([sys.executable, "-m", "receiver", "work"], self.environment(url, **more)) as process:
            yield process.pid

    @contextmanager
    def noop(self, url: str) -> Iterator[int]:
        """A plain server around an application that does nothing."""
        with self._uvicorn(url, "benchmarks.peers.noop:app") as port:
            yield port

    @contextmanager
    def fastapi(self, url: str) -> Iterator[int]:
        with self._uvicorn(url, "benchmarks.peers.fastapi_asyncpg:app") as port:
            yield port

    @contextmanager
    def _uvicorn(self, url: str, application: str) -> Iterator[int]:
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "--workers", str(WEB_PROCESSES), "--port", str(port)]
        command += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]
        with running([*command, application], self.environment(url, PORT=str(port))):
            wait_for(port)
            yield port


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Start the server; end it, and whatever is in the folder stays."""
    made = World(folder)
    with made.server:
        yield made


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], folder: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    process = subprocess.Popen(command, env=environment, cwd=folder)  # noqa: S603 commands of this package
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settle_down(*urls: str) -> None:
    """Do what Postgres would otherwise do about freshly loaded rows during the measurement of one side."""
    for url in urls:
        with connect(url, name="benchmark", autocommit=True) as conn:
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")


def wait_for(port: int, seconds: float = 300) -> None:
    """Return when something answers HTTP there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def memory_mib(pid: int) -> float:
    """Resident memory of a process and all below it."""
    return sum(_status_kib(each) for each in family(pid)) / 1024


class Peak:
    """The highest memory of some processes, and all below them, while the block runs, in MiB."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.mib = 0.0

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.mib = max(self.mib, sum(memory_mib(pid) for pid in self._pids))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def web_pids(port: int) -> list[int]:
    """The processes that serve this port: those with PORT in their environment, without their parent."""
    wanted = f"PORT={port}".encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append((int(process.name), int(_stat(process)[1])))
        except OSError:
            continue
    pids = {pid for pid, _ in found}
    return [pid for pid, parent in found if parent in pids] or list(pids)


def cpu_seconds(port: int) -> float:
    """CPU time that the processes which serve this port have taken."""
    return cpu_of(web_pids(port))


def cpu_of(pids: Iterable[int]) -> float:
    """CPU time that these processes have taken."""
    times = [_stat(Path(f"/proc/{pid}"))[11:13] for pid in pids]
    return sum(int(time) for pair in times for time in pair) / _TICKS


def cpu_milliseconds(pids: Iterable[int]) -> float:
    """CPU time that these processes have taken, exactly; of their threads, those that live."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


def _stat(process: Path) -> list[str]:
    """What `/proc/PID/stat` says behind the name, beginning with the state."""
    return (process / "stat").read_text().rsplit(")", 1)[1].split()


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def _status_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
