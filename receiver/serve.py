"""`serve`: everything on one machine, started in order, watched, and stopped together.

A child that dies is started again; one that keeps dying ends the service with its reason. Children
live in sessions of their own, so that Ctrl-C reaches only us, and the kernel ends them should we be killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from receiver import __version__
from receiver.config import Config
from receiver.database.api_keys import create_key, find_key, revoke_key
from receiver.database.embedded import EmbeddedPostgres
from receiver.database.location import settle_config
from receiver.database.migrations import migrate
from receiver.database.pool import connect
from receiver.errors import NotFound, ReceiverError
from receiver.logs import about

STOP_SECONDS = 7.0
"""How long children may take to end before they are killed; with the database's stop, within ten."""

ORPHAN_SECONDS = 20.0
"""How long the children of a `serve` that was killed may take to end."""

DEATHS, DEATHS_SECONDS = 5, 60.0
"""A child that died this often in this time will not live."""

READY_SECONDS = 20.0
WATCH_SECONDS = 0.2
KEY_NAME = "serve"
SIMULATOR_LOGIN = "simulator"

log = logging.getLogger("receiver.serve")


class CannotServe(ReceiverError):
    """The service cannot start here, for a reason that the user can change."""

    code = "invalid_parameters"  # exit status 2: it lies in the configuration


@dataclass(slots=True)
class _Child:
    """A process of the service, and when it died lately."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    lock: int
    """A file descriptor that is locked for as long as any child has it (`_after_orphans`)."""
    started: subprocess.Popen[bytes] | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS))

    def start(self) -> None:
        self.started = subprocess.Popen(  # noqa: S603 arguments are this module's own
            self.arguments,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[self.lock],
            preexec_fn=_end_with_parent,
        )

    def died(self) -> int | None:
        """The exit status of a process that has ended, else None."""
        return None if self.started is None else self.started.poll()

    def keeps_dying(self) -> bool:
        self.deaths.append(time.monotonic())
        return len(self.deaths) == DEATHS and self.deaths[-1] - self.deaths[0] < DEATHS_SECONDS


def serve(config: Config) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    config, notice = settle_config(config)
    if notice is not None:
        print(notice, flush=True)
    with ExitStack() as stack:
        stack.enter_context(_only_one(config.data_dir))
        lock = stack.enter_context(_after_orphans(config.data_dir))
        _check_port(config.port)
        server = None
        if config.database_url is None:
            server = EmbeddedPostgres(config.data_dir)
            stack.enter_context(server)
            config = replace(config, database_url=server.conninfo)
        assert config.database_url is not None  # noqa: S101 set just now where it was not given
        migrate(config.database_url, report=lambda line: print(line, flush=True))
        key = _serving_key(config.database_url, config.data_dir)
        children, provider = _children(config, lock.fileno())
        stack.callback(_stop, children)
        for child in children:
            child.start()
        _wait_until_ready(config.port, children, stop)
        if not stop.is_set():
            _greet(config, key, provider)
        return _watch(children, server, stop)


def _watch(children: list[_Child], server: EmbeddedPostgres | None, stop: threading.Event) -> int:
    restarts: list[tuple[float, _Child]] = []
    while not stop.wait(WATCH_SECONDS):
        if server is not None and not server.is_running():
            log.error("the database server ended; starting it again", extra=about("database_ended"))
            server.start()
        for child in children:
            status = child.died()
            if status is None:
                continue
            if child.keeps_dying():
                log.error(
                    "%s keeps ending (exit status %d): giving up; its last words stand above",
                    child.name,
                    status,
                )
                return 1
            log.error(
                "%s ended (exit status %d); starting it again", child.name, status,
                extra=about("child_ended", child=child.name, exit_status=status),
            )  # fmt: skip
            child.started = None
            restarts.append((time.monotonic() + 0.2 * 2 ** len(child.deaths), child))
        for due in [entry for entry in restarts if entry[0] <= time.monotonic()]:
            restarts.remove(due)
            due[1].start()
    log.info("stopping", extra=about("stopping"))
    return 0


def _children(config: Config, lock: int) -> tuple[list[_Child], str]:
    """The processes to run, and where calls are sent, in words."""
    environment = {
        **os.environ,
        "DATABASE_URL": config.database_url or "",
        "DATA_DIR": str(config.data_dir),
        "SECRET_KEY": ",".join(config.secret_keys),
        "PORT": str(config.port),
        "PYTHONUNBUFFERED": "1",
        "STOP_SECONDS": "5",  # with the rest of stopping, within STOP_SECONDS of our own
    }
    python = sys.executable
    children = []
    provider = f"{config.plum_url}, as {config.plum_user}"
    if not config.has_provider:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        provider = f"simulator at {url}; nobody is called. Set PLUM_USER and PLUM_KEY for the real one"
        environment |= {"PLUM_URL": url, "PLUM_USER": SIMULATOR_LOGIN, "PLUM_KEY": SIMULATOR_LOGIN}
        simulate = [python, "-m", "receiver", "simulate", "--port", str(port)]
        children.append(_Child("simulator", simulate, environment, lock))
    gunicorn = [python, "-m", "gunicorn", "-c", "python:receiver.web.gunicorn_conf", "app:app"]
    children.append(_Child("web", gunicorn, environment, lock))
    children.append(_Child("worker", [python, "-m", "receiver", "work"], environment, lock))
    return children, provider


def _stop(children: list[_Child]) -> None:
    """End all at once: they need nothing of each other to stop."""
    running = [child.started for child in children if child.started is not None and child.started.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _only_one(data_dir: Path) -> IO[str]:
    """The lock of this DATA_DIR, held while the file is open. Raises CannotServe."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = (data_dir / "serve.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise CannotServe(
            f"Another `serve` is running on {data_dir}. Stop it, or set DATA_DIR and PORT to run a second one."
        ) from None
    return lock


def _after_orphans(data_dir: Path) -> IO[str]:
    """The lock that our children inherit: whoever gets it knows that those of a killed `serve` have ended, which
    they are told when it is killed, and that the port is theirs no more. Raises CannotServe.
    """
    lock = (data_dir / "serve.children").open("a")
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise CannotServe(
                    f"Processes of an earlier `serve` on {data_dir} do not end. Look for them with"
                    f" `fuser {data_dir / 'serve.children'}`, and end them."
                ) from None
            time.sleep(WATCH_SECONDS)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise CannotServe(
                f"Port {port} cannot be used: {error.strerror}. Stop what uses it, or set PORT to another."
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serving_key(database_url: str, data_dir: Path) -> str:
    """The admin key that is printed at each start, kept beside the data; made where it is missing or was revoked."""
    path = data_dir / "api-key"
    with connect(database_url, name="receiver serve") as conn:
        if path.exists() and find_key(conn, key := path.read_text().strip()) is not None:
            return key
        try:
            revoke_key(conn, KEY_NAME)
        except NotFound:
            pass
        key = create_key(conn, KEY_NAME, "admin")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def _wait_until_ready(port: int, children: list[_Child], stop: threading.Event) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and all(child.died() is None for child in children):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if stop.wait(0.05):
                return


def _greet(config: Config, key: str, provider: str) -> None:
    print(
        f"\nresult_url receiver {__version__} is running; Ctrl-C stops it.\n"
        f"  Dashboard  http://127.0.0.1:{config.port}/\n"
        f"  API key    {key}\n"
        f"  Results    {config.public_url}/results/...\n"
        f"  Provider   {provider}\n",
        flush=True,
    )


def _end_with_parent() -> None:
    """In the child: be told to end when the parent is gone, however it went (Linux; elsewhere nothing)."""
    if _prctl is not None:
        _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _load_prctl() -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return found


_prctl = _load_prctl()
