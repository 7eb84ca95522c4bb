"""The callback endpoint in its own processes is small, starts quickly, and does nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from receiver.database.pool import connect
from receiver.supervisor.ports import free_port
from tests.acceptance.service import ask
from tests.waiting import eventually
from tests.web.asking import SECRET, results_path
from tests.web.gunicorn import ROOT, Sender, gunicorn_process

MEMORY_MIB = 60
START_SECONDS = 1.0

TRIES = 3
"""Attempts on a busy machine."""


def test_it_imports_neither_flask_nor_the_web() -> None:
    script = (
        "import sys, receiver.intake.asgi;"
        " found = [name for name in sys.modules if name.split('.')[0] == 'flask' or name.startswith('receiver.web')];"
        " sys.exit(', '.join(found) or None)"
    )
    environment = {"PATH": os.environ["PATH"]}
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_it_stores_callbacks_shows_metrics_and_stays_small(session_folder: Path, database_url: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point="intake alone") as (parent, port):
        sender = Sender(port)
        for index in range(200):
            body = b'{"status": "completed", "number": %d}' % index
            head = f"POST {results_path()} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            assert sender.send(head.encode(), body).answer().body == b'{"status": "stored"}'
        assert sender.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").answer().status == 404
        assert sender.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").answer().status == 200

        def counted() -> bool:
            metrics = sender.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").answer().body.decode()
            counts = re.findall(r'receiver_web_callbacks_total\{answer="(?:stored|spooled)"\} ([0-9.]+)', metrics)
            return sum(map(float, counts)) == 200 and "\nreceiver_database_up 1.0" in metrics

        eventually(counted)
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        status = Path(f"/proc/{child}/status").read_text()
        resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024
        assert resident < MEMORY_MIB, resident
        sender.close()
    with connect(database_url, name="test") as conn:
        eventually(lambda: conn.execute("select count(*) from callback").fetchone() == (200,))


def test_it_reports_that_callbacks_go_to_the_spool_while_the_database_is_unavailable(session_folder: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    nowhere = f"postgresql://receiver@127.0.0.1:{free_port()}/receiver"
    with gunicorn_process(folder, nowhere, entry_point="intake alone", METRICS_KEY="a kéy") as (_, port):
        url = f"http://127.0.0.1:{port}"
        assert ask(url + results_path(), "POST", b"{}").json == {"status": "stored"}
        ready = ask(url + "/readyz")
        assert (ready.status, ready.json["status"], ready.json["spooled"]) == (503, "not ready", 1)
        assert ask(url + "/metrics").status == 401
        metrics = (
            ask(url + "/metrics", headers={"Authorization": "Bearer a kéy".encode().decode("latin-1")})
            .body.decode()
            .splitlines()
        )
        for line in ("receiver_database_up 0.0", "receiver_web_spool_usable 1.0", "receiver_web_spool_callbacks 1.0"):
            assert line in metrics


@pytest.mark.long
def test_it_uses_the_secret_of_an_embedded_database(session_folder: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    (folder / "postgres").mkdir()
    (folder / "secret-key").write_text(SECRET)
    with gunicorn_process(folder, "", entry_point="intake alone", SECRET_KEY="") as (_, port):
        assert ask(f"http://127.0.0.1:{port}{results_path()}", "POST", b"{}").json == {"status": "stored"}


def test_invalid_http_is_logged_in_the_configured_form_and_seldom(session_folder: Path, database_url: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point="intake alone") as (_, port):
        for _ in range(20):
            sender = Sender(port)
            assert sender.send(b"no HTTP\r\n\r\n").answer().status == 400
            sender.close()
    lines = [json.loads(line) for line in (folder / "gunicorn.log").read_text().splitlines()]
    assert 1 <= [line["message"] for line in lines].count("Invalid HTTP request received.") < 20


def test_it_is_ready_once_the_database_can_store(session_folder: Path, database_url: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point="intake alone") as (_, port):
        ready = {"status": "ready", "database": "ok", "spooled": 0}
        eventually(lambda: ask(f"http://127.0.0.1:{port}/readyz").json == ready)


@pytest.mark.long
def test_it_starts_within_a_second(session_folder: Path, database_url: str) -> None:
    """Measured in processor time, because the machine may be busy."""

    def seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    durations: list[float] = []
    while not durations or (min(durations) >= START_SECONDS and len(durations) < TRIES):
        folder = Path(tempfile.mkdtemp(dir=session_folder))
        with gunicorn_process(folder, database_url, entry_point="intake alone") as (parent, _):
            (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            durations.append(seconds(parent.pid) + seconds(int(child)))
    assert min(durations) < START_SECONDS, durations


def test_wrong_setting_ends_the_start_with_its_name(database_url: str) -> None:
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "PORT": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "python:receiver.server.gunicorn_conf", "receiver.intake.asgi:app"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 2 and "SECRET_KEY" in ran.stderr
