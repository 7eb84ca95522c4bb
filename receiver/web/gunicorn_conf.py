"""gunicorn's settings: `gunicorn -c python:receiver.web.gunicorn_conf app:app`.

Nothing here may import psycopg: this runs in the parent process, and the workers must patch the
standard library for gevent before psycopg looks at it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.config import Config
from receiver.errors import ConfigurationError
from receiver.logs import logging_config
from receiver.web.counts import counts

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

try:
    _config = Config.from_env()
except ConfigurationError as _error:
    for _fault in _error.faults:
        print(f"receiver: {_fault.where} {_fault.message}", file=sys.stderr)
    raise SystemExit(2) from None

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
workers = _config.web_concurrency
worker_class = "receiver.web.gunicorn_worker.OrderlyWorker"
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
errorlog = "-"
loglevel = "info" if _config.log_level == "debug" else "warning"
logconfig_dict = logging_config(_config.log_level, _config.log_format, _config.secrets)
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 gunicorn's advice: a heartbeat file must not wait for a disk
proc_name = "receiver"
# Whom to believe is TRUSTED_PROXIES' to say (receiver.web.proxies): gunicorn believes nobody.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}


def pre_fork(server: Arbiter, worker: Worker) -> None:
    worker.counts_slot = counts.reserve(worker)


def post_fork(server: Arbiter, worker: Worker) -> None:
    counts.claim(worker.counts_slot)
    # The parent kills what is left after its own graceful_timeout. The child begins up to a second later and needs
    # another to hang up; then `worker_exit` is to have its turn.
    worker.cfg.set("graceful_timeout", max(1, worker.cfg.graceful_timeout - 3))


def child_exit(server: Arbiter, worker: Worker) -> None:
    counts.release(worker)


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Store what the worker has taken, before it goes."""
    from receiver.web.app import close_app

    app = worker.app.callable
    # None where it failed to start; not ours where these settings serve something else (benchmarks/).
    if "receiver" in getattr(app, "extensions", {}):
        close_app(app)
