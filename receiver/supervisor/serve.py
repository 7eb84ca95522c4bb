"""`serve`: start everything on one machine in order, watch it, and stop it together.

A child that ends is started again. If it ends again and again, the service ends with the reason. While an external
database is unavailable, the service accepts results, and starts the worker when the database is back.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from receiver import __version__
from receiver.changes.audit import SYSTEM, record_change
from receiver.config import Config
from receiver.database.api_keys import create_key, find_key, revoke_key
from receiver.database.location import claim_database
from receiver.database.migrations import migrate
from receiver.database.pool import DatabaseUnavailable, connect
from receiver.embedded_postgres.account import EmbeddedPostgresError
from receiver.embedded_postgres.server import EmbeddedPostgres
from receiver.errors import NotFound
from receiver.intake.signing_keys import check_signing_keys
from receiver.logs import about
from receiver.release.presence import count_workers
from receiver.results.retention import count_simulated
from receiver.server.startup_checks import check_address, check_data_dir
from receiver.simulator.settings import STATE_FILE
from receiver.supervisor.children import DEATHS, DEATHS_SECONDS, Child, is_one_too_many, lock_file, stop_all
from receiver.supervisor.outage import Outage, is_unavailable
from receiver.supervisor.ports import free_port

READY_SECONDS = 20.0
"""If the start takes longer, `serve` says so."""
WATCH_SECONDS = 0.2
HANDOVER_SECONDS = 5.0
"""How long a child that was forked just before `serve` was killed may keep its lock: until its program starts."""
ORPHAN_SECONDS = 20.0
"""How long the children of a killed `serve` may take to end."""

KEY_NAME = "serve"
SIMULATOR_LOGIN = "simulator"

PASSED_TO_SIMULATOR = re.compile(
    "PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|PYTHON.*|VIRTUAL_ENV|LD_LIBRARY_PATH|SSL_CERT_(FILE|DIR)"
)
"""The variables that the simulator gets. It simulates an external service, so it must not get our secrets."""

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
        data_dir = config.data_dir
        check_data_dir(data_dir)
        refusal = f"Another `serve` is running on {data_dir}. Stop it, or set DATA_DIR and PORT to run a second one."
        stack.enter_context(lock_file(data_dir / "serve.lock", refusal, HANDOVER_SECONDS))
        # The children inherit this lock. So it is free when those of a killed `serve` have ended, and left the port.
        file = data_dir / "serve.children"
        orphans = f"Processes of an earlier `serve` on {data_dir} do not end."
        refusal = f"{orphans} Find them with `fuser {file}`, and end them."
        lock = stack.enter_context(lock_file(file, refusal, ORPHAN_SECONDS))
        check_address(config.bind, config.port)
        server = None
        if config.database_url is None:
            server = EmbeddedPostgres(config.data_dir)
            stack.enter_context(server)
            config = replace(config, database_url=server.conninfo)
        assert config.database_url is not None  # noqa: S101 set above if it was not given
        key, outage = _prepare(config, config.database_url)
        children, provider = _children(config, lock.fileno())
        stack.callback(stop_all, children)
        for child in children:
            if outage is None or not child.needs_database:
                child.start()
        # After the greeting, `queue` and `doctor` must work. So this waits for the worker, too.
        database = server or config.database_url
        _wait_until_ready(config.port, database if outage is None else None, children, stop)
        if not stop.is_set():
            simulated = _describe_simulated(config.database_url) if outage is None and not config.simulated else ""
            _greet(config, key, provider, simulated)
        return _watch(children, database, stop, outage)


def _prepare(config: Config, database_url: str) -> tuple[str, Outage | None]:
    """Migrate the database. Returns the API key, and an `Outage` if the database is unavailable.

    A machine that restarts while the database is unavailable must accept results, because nobody sends them again. At
    the first start the address is probably wrong: raises DatabaseUnavailable. Raises ConfigurationError if SECRET_KEY
    cannot verify results that are expected.
    """
    try:
        migrate(database_url, report=_print_line)
        with connect(database_url, name="receiver serve", autocommit=True) as conn:
            check_signing_keys(conn, config)
        return _serving_key(database_url, config.data_dir), None
    except DatabaseUnavailable as error:
        path = config.data_dir / "api-key"
        if not path.exists():
            raise
        log.error("%s Results go to the spool until it returns.", error, extra=about("database_away"))
        return path.read_text().strip(), Outage(database_url, _print_line)


def _print_line(line: str) -> None:
    print(line, flush=True)


def _watch(
    children: list[Child], database: EmbeddedPostgres | str, stop: threading.Event, outage: Outage | None
) -> int:
    """Run until `stop`. `database`: the embedded server, which is kept running, or the address of an external one."""
    restarts: list[tuple[float, Child]] = []
    database_deaths: deque[float] = deque()
    while not stop.wait(WATCH_SECONDS):
        if isinstance(database, EmbeddedPostgres) and not database.is_running():
            _start_again(database, database_deaths)
        if outage is not None and outage.is_over():
            outage = None
            restarts += [(0.0, child) for child in children if child.needs_database]
        for child in children:
            status = child.exit_status()
            if status is None:
                continue
            if child.needs_database and isinstance(database, str) and is_unavailable(database):
                log.error("%s ended while the database is unavailable", child.name, extra=about("database_away"))
                child.started = None
                outage = outage or Outage(database, _print_line)
                continue
            if is_one_too_many(child.deaths):
                log.error("%s keeps ending (exit status %d): giving up; see its last output above", child.name, status)
                return 1
            log.error(
                "%s ended (exit status %d); starting it again", child.name, status,
                extra=about("child_ended", child=child.name, exit_status=status),
            )  # fmt: skip
            child.started = None
            restarts.append((time.monotonic() + 0.2 * 2 ** len(child.deaths), child))
        for due in [entry for entry in restarts if entry[0] <= time.monotonic()]:
            # A child would end again while the server recovers from the crash of one of its processes.
            if not isinstance(database, EmbeddedPostgres) or database.accepts_connections():
                restarts.remove(due)
                due[1].start()
    log.info("stopping", extra=about("stopping"))
    return 0


def _start_again(server: EmbeddedPostgres, deaths: deque[float]) -> None:
    """Start the database server, which ended. Raises EmbeddedPostgresError if it has ended too often.

    A failed start counts as a death: the server may have been killed while it started.
    """
    if is_one_too_many(deaths):
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
    """The processes to run, and a description of the provider for the greeting."""
    environment = {
        **os.environ,
        "DATABASE_URL": config.database_url or "",
        "DATA_DIR": str(config.data_dir),
        "SECRET_KEY": ",".join(config.secret_keys),
        "PORT": str(config.port),
        "PYTHONUNBUFFERED": "1",
        "STOP_SECONDS": "5",  # so that a complete stop takes less than children.STOP_SECONDS
    }
    python = sys.executable
    children = []
    provider = f"{config.plum_url}, as {config.plum_user}"
    if not config.has_provider:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        provider = f"simulator at {url}; nobody is called. Set PLUM_USER and PLUM_KEY for the real provider"
        login = {"PLUM_USER": SIMULATOR_LOGIN, "PLUM_KEY": SIMULATOR_LOGIN}
        environment |= {"PLUM_URL": url, "PLUM_SIMULATED": "1", **login}
        # The web processes may start after it, and stop before it. So it repeats callbacks that were not accepted.
        state = config.data_dir / STATE_FILE
        simulate = [python, "-m", "receiver", "simulate", "--port", str(port), "--state", str(state), "--retry", "20"]
        passed = {name: value for name, value in os.environ.items() if PASSED_TO_SIMULATOR.fullmatch(name)}
        passed |= {"DATA_DIR": str(config.data_dir), "PYTHONUNBUFFERED": "1"}
        children.append(Child("simulator", simulate, passed, False, lock))
    gunicorn = [python, "-m", "gunicorn", "-c", "python:receiver.server.gunicorn_conf", "app:asgi"]
    children.append(Child("web", gunicorn, environment, False, lock))
    children.append(Child("worker", [python, "-m", "receiver", "work"], environment, True, lock))
    return children, provider


def _serving_key(database_url: str, data_dir: Path) -> str:
    """The admin key in `data_dir`/api-key, which only its owner can read. Creates one if it is missing or revoked."""
    path = data_dir / "api-key"
    with connect(database_url, name="receiver serve") as conn:
        if path.exists() and find_key(conn, key := path.read_text().strip()) is not None:
            return key
        with suppress(NotFound):
            revoke_key(conn, KEY_NAME)
            record_change(conn, SYSTEM, "revoke_key", details={"name": KEY_NAME})
        key = create_key(conn, KEY_NAME, "admin")
        record_change(conn, SYSTEM, "make_key", details={"name": KEY_NAME, "scope": "admin"})
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key + "\n")
    return key


def _wait_until_ready(
    port: int, database: EmbeddedPostgres | str | None, children: list[Child], stop: threading.Event
) -> None:
    """Wait until the web processes answer and a worker runs, or a child ends.

    `database`: as in `_watch`; None: it is unavailable, so no worker is expected. This does not request `/readyz`: its
    503 would be logged and counted as a fault.
    """
    told_at = time.monotonic()
    database_deaths: deque[float] = deque()
    database_url = database.conninfo if isinstance(database, EmbeddedPostgres) else database
    while all(child.exit_status() is None for child in children):
        if isinstance(database, EmbeddedPostgres) and not database.is_running():
            _start_again(database, database_deaths)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                if database_url is None or _has_worker(database_url):
                    return
        except (OSError, DatabaseUnavailable):
            pass
        if time.monotonic() > told_at + READY_SECONDS:
            _print_line("The service is still starting: its web processes do not answer, or no worker runs yet.")
            told_at = time.monotonic()
        if stop.wait(0.05):
            return


def _has_worker(database_url: str) -> bool:
    with connect(database_url, name="receiver serve") as conn:
        return count_workers(conn) > 0


def _greet(config: Config, key: str, provider: str, simulated: str) -> None:
    if not sys.stdout.isatty():  # captured output may be stored, and read by others
        key = f"in {config.data_dir / 'api-key'}"
    print(
        f"\nresult_url receiver {__version__} is running; Ctrl-C stops it.\n"
        f"  Dashboard  http://127.0.0.1:{config.port}/\n"
        f"  API key    {key}\n"
        f"  Results    {config.public_url}/results/...\n"
        f"  Provider   {provider}\n{simulated}",
        flush=True,
    )
    if config.loses_results:
        print(
            f"  WARNING    The provider cannot reach {config.public_url}: every result of a call made now is lost.\n"
            "             Stop the service and set PUBLIC_URL to a public address of this service.\n",
            flush=True,
        )


def _describe_simulated(database_url: str) -> str:
    """For the greeting: the batches of the simulator in this database, and how to remove them."""
    with connect(database_url, name="receiver serve") as conn:
        simulated = count_simulated(conn)
    if not simulated.batches:
        return ""
    return (
        f"  Simulated  batches {simulated.batches}, calls {simulated.calls}: made with the simulator, counted in all"
        " figures.\n"
        "             Remove them with: python -m receiver purge --simulated\n"
    )
