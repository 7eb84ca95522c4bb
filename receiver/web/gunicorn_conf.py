"""gunicorn's settings: `gunicorn -c python:receiver.web.gunicorn_conf app:app`.

Nothing here may import psycopg: this runs in the parent process, and the workers must patch the
standard library for gevent before psycopg looks at it.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from receiver import __version__
from receiver.collector import spare_long_lived
from receiver.config import Config
from receiver.database.location import find_database
from receiver.errors import ConfigurationError, ReceiverError
from receiver.logs import about, logging_config
from receiver.web.counts import counts
from receiver.web.in_progress import shared_counts
from receiver.web.prerequisites import (
    HANDOVER_SECONDS,
    check_address,
    check_data_dir,
    check_keys_apart,
    print_refusal,
)

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


def _refuse(error: ReceiverError) -> NoReturn:
    print_refusal(error)
    raise SystemExit(2) from None


try:
    _config = Config.from_env()
except ConfigurationError as _error:
    _refuse(_error)

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
workers = _config.web_concurrency
worker_class = "receiver.web.gunicorn_worker.OrderlyWorker"
# Each takes a file descriptor (`on_starting`). Who dawdles on one is hung up on (receiver.web.paced_socket).
worker_connections = 4000
backlog = 4096
# Longer than a proxy keeps an idle connection, so that it is never us who close it under a request.
keepalive = 75
# A callback in flight takes two seconds at the very most; an upload or an export may want more.
graceful_timeout = _config.stop_seconds
timeout = 60
control_socket_disable = True
# The token in the path is a credential, and numbers may stand in queries: nothing logs them.
accesslog = None
logger_class = "receiver.web.gunicorn_worker.ErrorLog"
errorlog = "-"
loglevel = "info" if _config.log_level == "debug" else "warning"
logconfig_dict = logging_config(_config.log_level, _config.log_format, _config.secrets)
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 gunicorn's advice: a heartbeat file must not wait for a disk
proc_name = "receiver"
# Whom to believe is TRUSTED_PROXIES' to say (receiver.web.proxies): gunicorn believes nobody.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}


def on_starting(server: Arbiter) -> None:
    """Let each process open as many files as it takes connections: most systems allow 1,024 until one asks for more."""
    wanted = worker_connections + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    _check_prerequisites(server)


def _check_prerequisites(server: Arbiter) -> None:
    """Say in one line why we cannot start, and end: a worker that cannot would be started again and again."""
    try:
        config, database_url = find_database(_config, signs=True)
        check_data_dir(config.data_dir)
        check_keys_apart(config, database_url)
        if not {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():  # else the address was handed to us, open
            for host, port in (address for address in server.address if isinstance(address, tuple)):
                check_address(host, port, patience_seconds=HANDOVER_SECONDS)
    except ReceiverError as error:
        _refuse(error)


def when_ready(server: Arbiter) -> None:
    """Say that the web processes start, and where: their parent logs only what goes wrong."""
    logging.getLogger("receiver.web").info(
        "release %s listens on %s; starting %d web processes", __version__, bind, server.num_workers,
        extra=about("web_started", address=bind, processes=server.num_workers),
    )  # fmt: skip


def pre_fork(server: Arbiter, worker: Worker) -> None:
    worker.counts_slot = counts.reserve(worker)


def post_fork(server: Arbiter, worker: Worker) -> None:
    counts.claim(worker.counts_slot)
    shared_counts.claim(worker.counts_slot)
    # The parent kills what is left after its own graceful_timeout. The child begins up to a second later and needs
    # another to hang up; then `worker_exit` is to have its turn.
    worker.cfg.set("graceful_timeout", max(1, worker.cfg.graceful_timeout - 3))


def post_worker_init(worker: Worker) -> None:
    spare_long_lived()
    # The database may be away at a start, and is waited for. That is told once, by the first of the processes.
    app = worker.app.callable
    if worker.age == 1 and "receiver" in getattr(app, "extensions", {}):
        from receiver.web.health import tell_of_database

        threading.Thread(target=tell_of_database, args=[app], daemon=True).start()


def child_exit(server: Arbiter, worker: Worker) -> None:
    counts.release(worker)
    shared_counts.clear(worker.counts_slot)


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Store what the worker has taken, before it goes."""
    from receiver.web.app import close_app

    app = worker.app.callable
    # None where it failed to start; not ours where these settings serve something else (benchmarks/).
    if "receiver" in getattr(app, "extensions", {}):
        close_app(app)
