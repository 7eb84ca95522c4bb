"""deploy/'s nginx with a separate intake: callbacks go to the intake, and to web while the intake is stopped."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from receiver.supervisor.ports import free_port
from tests.acceptance.service import ask as ask_directly
from tests.deploy.serving import Senders, ask, count_stored, nginx, trusting
from tests.deploy.test_restart import children
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import gunicorn_process

pytestmark = pytest.mark.long

INTAKE, WEB = "intake alone", "whole service"


class Site:
    """An intake and a web process behind nginx. They share a data folder, as on one machine."""

    def __init__(self, folder: Path, database_url: str, stack: ExitStack) -> None:
        self.ports = {INTAKE: free_port(), WEB: free_port()}
        self.parents: dict[str, subprocess.Popen[bytes]] = {}
        self._folder, self._database_url = folder, database_url
        for part in self.ports:
            (folder / part).mkdir()
        self._running = {part: stack.enter_context(ExitStack()) for part in self.ports}
        for part in self.ports:
            self.start(part)
        self.tls_port = stack.enter_context(nginx(folder, [self.ports[WEB]], [self.ports[INTAKE]]))
        self.context: ssl.SSLContext = trusting(folder)

    def start(self, part: str) -> None:
        log_folder, port = self._folder / part, str(self.ports[part])
        process = gunicorn_process(
            log_folder, self._database_url, entry_point=part, DATA_DIR=str(self._folder), PORT=port, STOP_SECONDS="8"
        )
        self.parents[part], _ = self._running[part].enter_context(process)

    def stop(self, part: str) -> None:
        self._running[part].close()

    def stored(self, part: str) -> int:
        """How many callbacks it has stored."""
        metrics = ask_directly(f"http://127.0.0.1:{self.ports[part]}/metrics").body.decode()
        counts = re.findall(r'receiver_web_callbacks_total\{answer="(?:stored|spooled)"\} ([0-9.]+)', metrics)
        return int(sum(map(float, counts)))

    def post(self) -> int:
        return ask(self.tls_port, self.context, "POST", results_path(), b"{}")[0]

    def page(self) -> int:
        return ask(self.tls_port, self.context, "GET", "/login")[0]


@pytest.fixture
def site(session_folder: Path, database_url: str) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(Path(tempfile.mkdtemp(dir=session_folder)), database_url, stack)


def test_callbacks_need_no_web_process_and_pages_need_no_intake(site: Site) -> None:
    assert [site.post() for _ in range(20)] == [200] * 20 and site.page() == 200
    eventually(lambda: (site.stored(INTAKE), site.stored(WEB)) == (20, 0))

    site.stop(WEB)
    assert site.post() == 200 and site.page() == 502
    site.start(WEB)

    site.stop(INTAKE)
    assert site.page() == 200
    assert site.post() == 200, "web stores it"
    eventually(lambda: site.stored(WEB) == 1)


def test_web_and_intake_are_replaced_one_after_the_other_and_no_callback_is_refused(
    site: Site, database_url: str
) -> None:
    with Senders(site.tls_port, site.context) as senders:
        for part in (INTAKE, WEB, INTAKE, WEB):
            senders.await_progress()
            site.stop(part)
            senders.await_progress()
            site.start(part)
        senders.await_progress()
    assert senders.failures == []
    eventually(lambda: count_stored(database_url) == senders.stored)
    assert site.stored(INTAKE) > 0


def test_callback_that_the_intake_does_not_answer_is_sent_to_web(site: Site) -> None:
    """An intake that hangs still accepts connections. When it continues, it may store the callback a second time."""
    (child,) = map(int, children(site.parents[INTAKE]))
    os.kill(child, signal.SIGSTOP)
    try:
        assert site.post() == 200
    finally:
        os.kill(child, signal.SIGCONT)
    eventually(lambda: site.stored(WEB) == 1)
