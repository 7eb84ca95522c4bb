"""Deployments with a wrong setting, under load: the check fails, no process is replaced, and no result is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from receiver.database.pool import connect
from receiver.intake.signing_keys import fingerprint
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.supervisor.ports import free_port
from tests.acceptance.calling import AcceptingProvider
from tests.acceptance.outages import NUMBERS
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import ROOT, clean_environment, run_command
from tests.acceptance.test_full_disk import fill, small_disk
from tests.deploy.serving import Senders, count_stored, nginx, trusting
from tests.deploy.test_restart import children
from tests.factories import make_batch
from tests.waiting import eventually
from tests.web.asking import SECRET
from tests.web.gunicorn import ENTRY_POINTS, GUNICORN, OURS, gunicorn_process

pytestmark = pytest.mark.long

OTHER = "a secret that signed no token"

Settings = dict[str, str]


class Site:
    """Two machines behind nginx that receive callbacks, and a worker that has sent a batch, so results are expected."""

    def __init__(
        self, folder: Path, postgres: Postgres, provider: AcceptingProvider, stack: ExitStack, entry_point: str
    ) -> None:
        self.postgres = postgres
        self._entry_point = entry_point
        self._folders = {free_port(): Path(tempfile.mkdtemp(dir=folder)) for _ in range(2)}
        self._settings: Settings = {
            "DATABASE_URL": postgres.url,
            "SECRET_KEY": SECRET,
            "PLUM_URL": provider.url,
            "PLUM_USER": "user",
            "PLUM_KEY": "key",
            "STOP_SECONDS": "3",
            "SSL_CERT_FILE": str(folder / "certificate.pem"),
        }
        assert self._run("migrate").returncode == 0
        self._running = {port: stack.enter_context(ExitStack()) for port in self._folders}
        self._parents: dict[int, subprocess.Popen[bytes]] = {}
        for port in self._folders:
            self._start(port)
        self.tls_port = stack.enter_context(nginx(folder, list(self._folders)))
        self._settings["PUBLIC_URL"] = f"https://127.0.0.1:{self.tls_port}"
        log = stack.enter_context((folder / "worker.log").open("wb"))
        work, environment = [sys.executable, "-m", "receiver", "work"], self._environment(DATA_DIR=str(folder))
        worker = stack.enter_context(subprocess.Popen(work, cwd=ROOT, env=environment, stdout=log, stderr=log))
        stack.callback(worker.terminate)
        contacts = folder / "contacts.csv"
        contacts.write_text("\n".join(("destination", *NUMBERS, "")))
        queued = self._run("queue", str(contacts), "--application", "7", "--deployment", "3")
        assert queued.returncode == 0, queued.stderr
        eventually(lambda: postgres.execute("select state from submission") == [("accepted",)])

    def deploy(self, senders: Senders, **changes: str) -> str:
        """Run the check with the new settings on each machine. If all pass, restart one machine after the other.

        Returns the output of the checks.
        """
        senders.await_progress()
        checks = [
            self._run("doctor", "--deploy", **{"DATA_DIR": str(folder), **changes}) for folder in self._folders.values()
        ]
        senders.await_progress()
        if all(check.returncode == 0 for check in checks):
            self._settings |= changes
            for port in self._folders:
                self._running[port].close()
                senders.await_progress()
                self._start(port)
                senders.await_progress()
        return "".join(check.stdout for check in checks)

    def processes(self) -> list[int]:
        return [parent.pid for parent in self._parents.values() if parent.poll() is None]

    def restart_without_check(self, senders: Senders, **changes: str) -> list[tuple[int, str]]:
        """On each machine, replace the processes by new ones with these changes, which end; then restart the old ones.

        Returns the exit status and the error output of the new ones.
        """
        ended = []
        for port, folder in self._folders.items():
            self._running[port].close()
            environment = self._environment(DATA_DIR=str(folder), PORT=str(port), **changes)
            command = [*GUNICORN, *ENTRY_POINTS[self._entry_point]]
            ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
            senders.await_progress()
            self._start(port)
            ended.append((ran.returncode, ran.stderr))
        return ended

    def callbacks(self) -> int:
        return count_stored(self.postgres.url)

    def _start(self, port: int) -> None:
        given = {name: text for name, text in self._settings.items() if name not in ("DATABASE_URL", "PORT")}
        process = gunicorn_process(
            self._folders[port], self.postgres.url, entry_point=self._entry_point, PORT=str(port), **given
        )
        self._parents[port], _ = self._running[port].enter_context(process)

    def _environment(self, **changes: str) -> Settings:
        return clean_environment(**{**self._settings, **changes})

    def _run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, environment=self._environment(**changes))


@pytest.fixture(params=OURS)
def site(server_dir: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with Postgres(server_dir) as postgres, AcceptingProvider() as provider, ExitStack() as stack:
        yield Site(server_dir, postgres, provider, stack, request.param)


@contextmanager
def load(site: Site, folder: Path) -> Iterator[Senders]:
    """Post results during the test. None may be refused, and at the end each must be in the journal once."""
    with Senders(site.tls_port, trusting(folder), 3) as senders:
        yield senders
    assert senders.failures == []
    eventually(lambda: site.callbacks() == senders.stored, 60, lambda: f"{site.callbacks()} of {senders.stored}")


def test_deploy_with_a_wrong_setting_replaces_nothing_and_loses_no_result(site: Site, server_dir: Path) -> None:
    unused_url, before = f"https://127.0.0.1:{free_port()}", site.processes()
    assert len(before) == 2
    with load(site, server_dir) as senders:

        def check_refused(message: str, **changes: str) -> None:
            output = site.deploy(senders, **changes)
            assert f"failure  {message}" in output, output
            assert site.processes() == before

        check_refused("keys           SECRET_KEY lacks the key", SECRET_KEY=OTHER)
        # The other processes do not accept tokens of the new key yet.
        check_refused("PUBLIC_URL     https://", SECRET_KEY=f"{OTHER},{SECRET}")
        check_refused("PUBLIC_URL     https://", PUBLIC_URL=unused_url)
        site.postgres.configure(default_transaction_read_only="on")
        check_refused("journal        no callback can be stored in the database of DATABASE_URL")
        site.postgres.configure(default_transaction_read_only=None)
        on_full_disk(server_dir, lambda disk: check_refused("spool          DATA_DIR", DATA_DIR=str(disk)))

        # Both steps of a change to a new key pass the check.
        for secret_key in (f"{SECRET},{OTHER}", f"{OTHER},{SECRET}"):
            earlier = set(site.processes())
            output = site.deploy(senders, SECRET_KEY=secret_key)
            assert " 0 failures" in output and not earlier & set(site.processes()), output


def on_full_disk(folder: Path, do: Callable[[Path], None]) -> None:
    """Skipped if no disk can be mounted."""
    with suppress(pytest.skip.Exception):
        with small_disk(folder / "full", 1) as disk:
            fill(disk)
            do(disk)


def test_process_with_a_wrong_key_does_not_start_and_the_other_machine_receives_all_results(
    site: Site, server_dir: Path
) -> None:
    with load(site, server_dir) as senders:
        for status, error_output in site.restart_without_check(senders, SECRET_KEY=OTHER):
            assert (status, error_output.count("\n")) == (2, 1), error_output
            assert error_output.startswith("receiver: SECRET_KEY lacks the key")


@pytest.mark.parametrize("entry_point", OURS)
def test_killed_web_process_is_restarted_although_another_key_is_now_needed(
    session_folder: Path, database_url: str, entry_point: str
) -> None:
    """A running service must continue to receive results although a worker used a key that it does not have."""
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point=entry_point) as (parent, port):
        (before,) = children(parent)
        with closing(connect(database_url, name="test")) as conn:
            make_batch(conn, send=False)
            signing_key = fingerprint(OTHER)
            worker_id = register_worker(conn, "test", 1, signing_key)
            assert claim_submission(conn, worker_id, signing_key=signing_key) is not None
            conn.commit()
        os.kill(int(before), signal.SIGKILL)
        eventually(lambda: len(children(parent) - {before}) == 1)
        with Senders(port, number=2) as senders:
            senders.await_progress()
        assert senders.failures == []
