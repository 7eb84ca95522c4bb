"""gunicorn's settings: `gunicorn -c python:receiver.server.gunicorn_conf app:asgi`.

This runs in the parent process, so nothing here may import an application or make a metric: its processes would share
them. `app:app` is served as `app:asgi` is; `receiver.intake.asgi:app` is the callback endpoint alone.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from receiver import __version__, metric_files
from receiver.database.location import find_database
from receiver.environment import read_config
from receiver.errors import ConfigurationError, ReceiverError
from receiver.gc_tuning import spare_long_lived
from receiver.logs import about, logging_config
from receiver.server.in_progress import shared_counts
from receiver.server.served import served
from receiver.server.startup_checks import (
    HANDOVER_SECONDS,
    check_address,
    check_data_dir,
    check_keys,
    print_refusal,
)

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


def _refuse(error: ReceiverError) -> NoReturn:
    print_refusal(error)
    raise SystemExit(2) from None


try:
    _config = read_config()
except ConfigurationError as _error:
    _refuse(_error)

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
workers = _config.web_concurrency
worker_class = "receiver.server.worker.LoopWorker"
# Each takes a file descriptor (`on_starting`). Slow clients are disconnected (receiver.server.protocol).
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
logger_class = "receiver.server.worker.ErrorLog"
errorlog = "-"
loglevel = "info" if _config.log_level == "debug" else "warning"
logconfig_dict = logging_config(_config.log_level, _config.log_format, _config.secrets)
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 gunicorn's advice: a heartbeat file must not wait for a disk
proc_name = "receiver"
# Whom to believe is TRUSTED_PROXIES' to say (receiver.intake.proxies): gunicorn believes nobody.
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
    metric_files.start()


def _check_prerequisites(server: Arbiter) -> None:
    """Say in one line why we cannot start, and end: a worker that cannot would be started again and again."""
    try:
        config, database_url = find_database(_config, signs=True)
        check_data_dir(config.data_dir)
        check_keys(config, database_url)
        if not {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():  # else the address was handed to us, open
            for host, port in (address for address in server.address if isinstance(address, tuple)):
                check_address(host, port, patience_seconds=HANDOVER_SECONDS)
    except ReceiverError as error:
        _refuse(error)


def when_ready(server: Arbiter) -> None:
    """Say that the web processes start, and where: their parent logs only what goes wrong."""
    # Not `bind`: systemd may have handed over an open port.
    address = ", ".join(str(listener).removeprefix("http://") for listener in server.LISTENERS)
    logging.getLogger("receiver.web").info(
        "release %s listens on %s; starting %d web processes", __version__, address, server.num_workers,
        extra=about("web_started", address=address, processes=server.num_workers),
    )  # fmt: skip


def pre_fork(server: Arbiter, worker: Worker) -> None:
    worker.slot = metric_files.reserve(worker)


def post_fork(server: Arbiter, worker: Worker) -> None:
    metric_files.claim(worker.slot)
    shared_counts.claim(worker.slot)
    # The parent kills what is left after its own graceful_timeout. A child needs up to a second to begin and to end.
    worker.cfg.set("graceful_timeout", max(1, worker.cfg.graceful_timeout - 1))


def post_worker_init(worker: Worker) -> None:
    spare_long_lived()
    # The database may be away at a start, and is waited for. That is told once, by the first of the processes.
    report = getattr(served(worker.app.callable), "report_database", None)
    if worker.age == 1 and report is not None:
        threading.Thread(target=report, daemon=True).start()


def child_exit(server: Arbiter, worker: Worker) -> None:
    metric_files.release(worker)
    shared_counts.clear(worker.slot)


def on_exit(server: Arbiter) -> None:
    metric_files.stop()
