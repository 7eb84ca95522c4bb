"""gunicorn's settings: `gunicorn -c python:receiver.web.gunicorn_conf app:app`.

Nothing here may import psycopg: this runs in the parent process, and the workers must patch the
standard library for gevent before psycopg looks at it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.config import Config
from receiver.errors import ConfigurationError

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

try:
    _config = Config.from_env()
except ConfigurationError as _error:
    raise SystemExit(f"receiver: {_error}") from None

bind = f"0.0.0.0:{_config.port}"
workers = _config.web_concurrency
worker_class = "gevent"
worker_connections = 4000
backlog = 4096
# Longer than a proxy keeps an idle connection, so that it is never us who close it under a request.
keepalive = 75
# A callback in flight takes two seconds at the very most.
graceful_timeout = 5
timeout = 60
control_socket_disable = True
# The token in the path is a credential, and numbers may stand in queries: nothing logs them.
accesslog = None
errorlog = "-"
loglevel = "warning"
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 gunicorn's advice: a heartbeat file must not wait for a disk
proc_name = "receiver"
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Store what the worker has taken, before it goes."""
    from receiver.web.app import close_app

    app = worker.app.callable
    if app is not None:
        close_app(app)
