"""A port that systemd holds (deploy/systemd/receiver-web.socket): a restart refuses no connection."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.deploy.serving import Senders, count_stored
from tests.waiting import eventually
from tests.web.asking import SECRET
from tests.web.gunicorn import ENTRY_POINTS, GUNICORN, ROOT

pytestmark = pytest.mark.long

HAND_OVER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3);"
    " os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Does the same as systemd (sd_listen_fds(3)): the started process gets the socket as file descriptor 3."""


@contextmanager
def activated(listener: socket.socket, folder: Path, database_url: str) -> Iterator[None]:
    """Run the whole service on a socket that is already open, like a unit of systemd. Stopped at the end."""
    command = [sys.executable, "-c", HAND_OVER, str(listener.fileno()), *GUNICORN, *ENTRY_POINTS["whole service"]]
    environment = {"DATABASE_URL": database_url, "DATA_DIR": str(folder), "SECRET_KEY": SECRET, "WEB_CONCURRENCY": "1"}
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def test_restart_refuses_no_connection_and_loses_no_callback(session_folder: Path, database_url: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with closing(socket.create_server(("127.0.0.1", 0), backlog=4096)) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        with Senders(port) as senders:  # their first connections wait for the first start
            for _ in range(2):
                with activated(listener, folder, database_url):
                    senders.await_progress()
            stack.enter_context(activated(listener, folder, database_url))
            senders.await_progress()
    assert senders.failures == []
    eventually(lambda: count_stored(database_url) == senders.stored)
    log = (folder / "log").read_text()
    assert log.count('"event": "web_started"') == 3 and f'"address": "127.0.0.1:{port}"' in log
