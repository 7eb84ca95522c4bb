"""`serve`: everything on one machine, started in order, watched, and stopped together.

A child that dies is started again; one that keeps dying ends the service with its reason. While a database that is
not ours is away, results are taken all the same, and the worker awaits its return.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

from receiver import __version__
from receiver.changes.audit import SYSTEM, record_change
from receiver.config import Config
from receiver.database.api_keys import create_key, find_key, revoke_key
from receiver.database.location import claim_database
from receiver.database.migrations import migrate
from receiver.database.pool import DatabaseUnavailable, connect, naming_outages
from receiver.database.reconnect import Return, is_away
from receiver.embedded_postgres.server import EmbeddedPostgres, EmbeddedPostgresError
from receiver.errors import NotFound
from receiver.intake.signing_keys import check_signing_keys
from receiver.logs import about
from receiver.results.retention import count_simulated
from receiver.server.startup_checks import CannotStart, check_address, check_data_dir
from receiver.simulator.store import STATE_FILE
from receiver.summary.gauges import count_workers
from receiver.supervisor.children import DEATHS, DEATHS_SECONDS, Child, after_orphans, keep_coming, stop_all
from receiver.supervisor.ports import free_port

READY_SECONDS = 20.0
WATCH_SECONDS = 0.2
KEY_NAME = "serve"
SIMULATOR_LOGIN = "simulator"

PASSED_TO_SIMULATOR = re.compile(
    "PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|PYTHON.*|VIRTUAL_ENV|LD_LIBRARY_PATH|SSL_CERT_(FILE|DIR)"
)
"""Names of what the simulator takes from our environment. It plays a stranger, and needs no secret of ours."""

log = logging.getLogger("receiver.supervisor.serve")


def serve(config: Config) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    config, notice = claim_database(config)
    if notice is not None:
        print(notice, flush=True)
    with ExitStack() as stack:
        check_data_dir(config.data_dir)
        stack.enter_context(_only_one(config.data_dir))
        lock = stack.enter_context(after_orphans(config.data_dir))
        check_address(config.bind, config.port)
        server = None
        if config.database_url is None:
            server = EmbeddedPostgres(config.data_dir)
            stack.enter_context(server)
            config = replace(config, database_url=server.conninfo)
        assert config.database_url is not None  # noqa: S101 set just now where it was not given
        key, away = _prepare(config, config.database_url)
        children, provider = _children(config, lock.fileno())
        stack.callback(stop_all, children)
        for child in children:
            if away is None or not child.needs_database:
                child.start()
        # With the worker, where it can work: whoever is greeted may queue, and ask `doctor`, at once.
        _wait_until_ready(config.port, config.database_url if away is None else None, children, stop)
        if not stop.is_set():
            beside = _simulated(config.database_url) if away is None and not config.simulated else ""
            _greet(config, key, provider, beside)
        return _watch(children, server or config.database_url, stop, away)


def _prepare(config: Config, database_url: str) -> tuple[str, Return | None]:
    """Bring the database to this release's schema; returns the API key, and what is awaited where it is away.

    A machine that starts again while it is away must take results: nobody sends them again. At a first start the
    address is more likely wrong, and somebody is there to be told: raises DatabaseUnavailable. Raises
    ConfigurationError where results are expected that SECRET_KEY cannot verify.
    """
    try:
        migrate(database_url, report=_say)
        with naming_outages(), connect(database_url, name="receiver serve", autocommit=True) as conn:
            check_signing_keys(conn, config)
        return _serving_key(database_url, config.data_dir), None
    except DatabaseUnavailable as error:
        path = config.data_dir / "api-key"
        if not path.exists():
            raise
        log.error("%s Results go to the spool until it returns.", error, extra=about("database_away"))
        return path.read_text().strip(), Return(database_url, _say)


def _say(line: str) -> None:
    print(line, flush=True)


def _watch(children: list[Child], database: EmbeddedPostgres | str, stop: threading.Event, away: Return | None) -> int:
    """`database`: the server that is ours to keep running, or the address of one that is not."""
    restarts: list[tuple[float, Child]] = []
    database_deaths: deque[float] = deque()
    while not stop.wait(WATCH_SECONDS):
        if isinstance(database, EmbeddedPostgres) and not database.is_running():
            _start_again(database, database_deaths)
        if away is not None and away.is_complete():
            away = None
            restarts += [(0.0, child) for child in children if child.needs_database]
        for child in children:
            status = child.died()
            if status is None:
                continue
            if child.needs_database and isinstance(database, str) and is_away(database):
                log.error("%s ended while the database is unavailable", child.name, extra=about("database_away"))
                child.started = None
                away = away or Return(database, _say)
                continue
            if keep_coming(child.deaths):
                log.error(
                    "%s keeps ending (exit status %d): giving up; see its last output above",
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
            # While it recovers from the death of one of its processes, a child would only die once more.
            if not isinstance(database, EmbeddedPostgres) or database.accepts_connections():
                restarts.remove(due)
                due[1].start()
    log.info("stopping", extra=about("stopping"))
    return 0


def _start_again(server: EmbeddedPostgres, deaths: deque[float]) -> None:
    """Start the database server, which ended. Raises EmbeddedPostgresError where it does so again and again.

    A start that fails is one more such end: the server may have been killed in the middle of it.
    """
    if keep_coming(deaths):
        raise EmbeddedPostgresError(
            f"The database server keeps ending: {DEATHS} times within {DEATHS_SECONDS:.0f} seconds. "
            f"See its last output in {server.cluster / 'log'}."
        )
    log.error("the database server ended; starting it again", extra=about("database_ended"))
    try:
        server.start()
    except EmbeddedPostgresError as error:
        log.error("%s", error, extra=about("database_not_started"))


def _children(config: Config, lock: int) -> tuple[list[Child], str]:
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
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        provider = f"simulator at {url}; nobody is called. Set PLUM_USER and PLUM_KEY for the real provider"
        environment |= {"PLUM_URL": url, "PLUM_USER": SIMULATOR_LOGIN, "PLUM_KEY": SIMULATOR_LOGIN}
        environment["PLUM_SIMULATED"] = "1"
        # The web processes may start after it, and stop before it: what they did not take is tried again.
        state = config.data_dir / STATE_FILE
        simulate = [python, "-m", "receiver", "simulate", "--port", str(port), "--state", str(state), "--retry", "20"]
        surroundings = {name: value for name, value in os.environ.items() if PASSED_TO_SIMULATOR.fullmatch(name)}
        surroundings |= {"DATA_DIR": str(config.data_dir), "PYTHONUNBUFFERED": "1"}
        children.append(Child("simulator", simulate, surroundings, False, lock))
    gunicorn = [python, "-m", "gunicorn", "-c", "python:receiver.server.gunicorn_conf", "app:asgi"]
    children.append(Child("web", gunicorn, environment, False, lock))
    children.append(Child("worker", [python, "-m", "receiver", "work"], environment, True, lock))
    return children, provider


def _only_one(data_dir: Path) -> IO[str]:
    """The lock of this DATA_DIR, held while the file is open. Raises CannotStart."""
    lock = (data_dir / "serve.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise CannotStart(
            f"Another `serve` is running on {data_dir}. Stop it, or set DATA_DIR and PORT to run a second one."
        ) from None
    return lock


def _serving_key(database_url: str, data_dir: Path) -> str:
    """The admin key in `data_dir`/api-key, which only its owner can read; made where it is missing or was revoked."""
    path = data_dir / "api-key"
    with connect(database_url, name="receiver serve") as conn:
        if path.exists() and find_key(conn, key := path.read_text().strip()) is not None:
            return key
        try:
            revoke_key(conn, KEY_NAME)
            record_change(conn, SYSTEM, "revoke_key", details={"name": KEY_NAME})
        except NotFound:
            pass
        key = create_key(conn, KEY_NAME, "admin")
        record_change(conn, SYSTEM, "make_key", details={"name": KEY_NAME, "scope": "admin"})
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key + "\n")
    return key


def _wait_until_ready(port: int, database_url: str | None, children: list[Child], stop: threading.Event) -> None:
    """Until web processes answer and a worker works, one of the children dies, or READY_SECONDS are over.

    `database_url` None: it is away, and no worker is waited for. `/readyz` is not asked: its 503 would be logged and
    counted, though nothing is wrong.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and all(child.died() is None for child in children):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                if database_url is None or _has_worker(database_url):
                    return
        except (urllib.error.URLError, OSError, DatabaseUnavailable):
            pass
        if stop.wait(0.05):
            return


def _has_worker(database_url: str) -> bool:
    with connect(database_url, name="receiver serve") as conn:
        return count_workers(conn) > 0


def _greet(config: Config, key: str, provider: str, beside: str) -> None:
    if not sys.stdout.isatty():  # what is captured may be kept, and read by others
        key = f"in {config.data_dir / 'api-key'}"
    print(
        f"\nresult_url receiver {__version__} is running; Ctrl-C stops it.\n"
        f"  Dashboard  http://127.0.0.1:{config.port}/\n"
        f"  API key    {key}\n"
        f"  Results    {config.public_url}/results/...\n"
        f"  Provider   {provider}\n{beside}",
        flush=True,
    )
    if config.loses_results:
        print(
            f"  WARNING    The provider cannot reach {config.public_url}: every result of a call made now is lost.\n"
            "             Stop the service and set PUBLIC_URL to a public address of this service.\n",
            flush=True,
        )


def _simulated(database_url: str) -> str:
    """For the greeting: which demonstrations are beside the real batches, and how to remove them."""
    with connect(database_url, name="receiver serve") as conn:
        simulated = count_simulated(conn)
    if not simulated.batches:
        return ""
    return (
        f"  Simulated  batches {simulated.batches}, calls {simulated.calls}: made with the simulator, counted in all"
        " figures.\n"
        "             Remove them with: python -m receiver purge --simulated\n"
    )
