"""gunicorn's settings: `gunicorn -c python:receiver.server.gunicorn_conf app:asgi`.

This runs in the parent process. Nothing here may import an application or create a metric, because the web processes
would share them. `app:app` is served like `app:asgi`; `receiver.intake.asgi:app` is the callback endpoint alone.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from receiver import __version__, metric_files
from receiver.database.location import find_database
from receiver.environment import read_config
from receiver.errors import ConfigurationError, ReceiverError
from receiver.gc_tuning import spare_long_lived
from receiver.intake.signing_keys import check_keys_at_start
from receiver.logs import about, logging_config
from receiver.server.in_progress import shared_counts
from receiver.server.startup_checks import HANDOVER_SECONDS, check_address, check_data_dir

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


def _refuse(error: ReceiverError) -> NoReturn:
    """Print why the start is refused, one line for each fault of a configuration, and end."""
    faults = error.faults if isinstance(error, ConfigurationError) else ()
    for line in [f"{fault.where} {fault.message}" for fault in faults] or [str(error)]:
        print(f"receiver: {line}", file=sys.stderr)
    raise SystemExit(2) from None


try:
    _config = read_config()
except ConfigurationError as _error:
    _refuse(_error)

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
workers = _config.web_concurrency
worker_class = "receiver.server.worker.LoopWorker"
# Each connection needs a file descriptor (`on_starting`). receiver.server.protocol disconnects slow clients.
worker_connections = 4000
backlog = 4096
# Longer than a proxy keeps an idle connection. Otherwise we could close one while a request arrives.
keepalive = 75
# A callback takes two seconds at most; an upload or an export may take longer.
graceful_timeout = _config.stop_seconds
timeout = 60
control_socket_disable = True
# Requests are never logged here: the token in a path is a credential, and a query may contain phone numbers.
# `receiver.web.access` logs them, because it knows which parts are secret.
accesslog = None
errorlog = "-"
loglevel = "info" if _config.log_level == "debug" else "warning"
logconfig_dict = logging_config(_config.log_level, _config.log_format, _config.secrets)
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 gunicorn's advice: a heartbeat must not wait for a disk
proc_name = "receiver"
# gunicorn itself must not trust any proxy: receiver.intake.proxies evaluates TRUSTED_PROXIES.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}


def on_starting(server: Arbiter) -> None:
    """Raise the limit of open files to the number of connections: most systems allow 1,024 by default."""
    wanted = worker_connections + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    _check_start(server)
    metric_files.start()


def _check_start(server: Arbiter) -> None:
    """End if the service cannot start here. Otherwise gunicorn would start failing web processes again and again."""
    try:
        config, database_url = find_database(_config, signs=True)
        check_data_dir(config.data_dir)
        check_keys_at_start(config, database_url)
        if not {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():  # else the port was passed to us, already open
            for host, port in (address for address in server.address if isinstance(address, tuple)):
                check_address(host, port, patience_seconds=HANDOVER_SECONDS)
    except ReceiverError as error:
        _refuse(error)


def when_ready(server: Arbiter) -> None:
    """Log that the processes start, and on which address. gunicorn itself logs only errors here."""
    # Not `bind`: systemd may have passed an open port.
    address = ", ".join(str(listener).removeprefix("http://") for listener in server.LISTENERS)
    logging.getLogger("receiver.web").info(
        "release %s listens on %s; starting %d processes", __version__, address, server.num_workers,
        extra=about("web_started", address=address, processes=server.num_workers),
    )  # fmt: skip


def pre_fork(server: Arbiter, worker: Worker) -> None:
    worker.slot = metric_files.reserve(worker)


def post_fork(server: Arbiter, worker: Worker) -> None:
    metric_files.claim(worker.slot)
    shared_counts.claim(worker.slot)
    # After its own graceful_timeout the parent kills what is left. A child needs up to a second to begin and to end.
    worker.cfg.set("graceful_timeout", max(1, worker.cfg.graceful_timeout - 1))


def post_worker_init(worker: Worker) -> None:
    spare_long_lived()


def child_exit(server: Arbiter, worker: Worker) -> None:
    metric_files.release(worker)
    shared_counts.clear(worker.slot)


def on_exit(server: Arbiter) -> None:
    metric_files.stop()
