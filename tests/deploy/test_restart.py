"""A release: processes are replaced under load. No callback is lost, and no request fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from receiver.database.api_keys import create_key
from receiver.database.pool import connect
from receiver.supervisor.ports import free_port
from tests.deploy.serving import Senders, ask, count_stored, nginx, trusting
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import OURS, Sender, gunicorn_process

pytestmark = pytest.mark.long


def children(parent: subprocess.Popen[bytes]) -> set[str]:
    return set(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())


@pytest.mark.parametrize("entry_point", OURS)
def test_hup_loses_no_callback_and_fails_no_request(session_folder: Path, database_url: str, entry_point: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    variables = {"WEB_CONCURRENCY": "2", "STOP_SECONDS": "60"}
    with gunicorn_process(folder, database_url, entry_point=entry_point, **variables) as (parent, port):
        with Senders(port) as senders:
            senders.await_progress()
            before = children(parent)
            slow = Sender(port).send(
                f"POST {results_path()} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n".encode(), b'{"a"'
            )
            os.kill(parent.pid, signal.SIGHUP)
            eventually(lambda: len(children(parent) - before) == 2 and len(children(parent) & before) == 1)
            # Both old processes got the signal to stop. The other one has ended; this one waits for the slow request.
            assert slow.send(b":1").answer().status == 200
            slow.close()
            eventually(lambda: not children(parent) & before and len(children(parent)) == 2)
            senders.await_progress()
        assert senders.failures == []
    eventually(lambda: count_stored(database_url) == senders.stored + 1)


@pytest.mark.parametrize("grace", ["3", "300"])
def test_idle_connection_is_closed_without_an_answer(session_folder: Path, database_url: str, grace: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, STOP_SECONDS=grace) as (parent, port):
        idle = Sender(port).send(f"GET {results_path()} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert idle.answer().status == 200
        parent.send_signal(signal.SIGTERM)
        assert idle.answer().status == 0, "a proxy would use a 500 as the answer to its next request"
        idle.close()
        assert parent.wait(60) == 0
    log = (folder / "gunicorn.log").read_text()
    # With a long grace, the process ends at once instead of waiting for connections that a proxy keeps open.
    assert grace == "3" or "graceful timeout" not in log
    errors = [line for line in log.splitlines() if '"level": "error"' in line]
    # gunicorn may send SIGKILL less than a second after the grace. That makes no difference for clients.
    assert [line for line in errors if "was sent SIGKILL" not in line] == []


@pytest.mark.parametrize("entry_point", OURS)
def test_instances_behind_nginx_are_replaced_one_by_one_without_a_failed_request(
    session_folder: Path, database_url: str, entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    sides = {free_port(): Path(tempfile.mkdtemp(dir=session_folder)) for _ in range(2)}
    with ExitStack() as stack:
        running = {port: stack.enter_context(ExitStack()) for port in sides}

        def start(port: int) -> None:
            variables = {"PORT": str(port), "STOP_SECONDS": "8"}
            running[port].enter_context(
                gunicorn_process(sides[port], database_url, entry_point=entry_point, **variables)
            )

        for port in sides:
            start(port)
        tls_port = stack.enter_context(nginx(folder, list(sides)))
        with Senders(tls_port, trusting(folder)) as senders:
            for port in sides:
                senders.await_progress()
                running[port].close()
                senders.await_progress()
                start(port)
        assert senders.failures == []
        eventually(lambda: count_stored(database_url) == senders.stored)


def logged_request(log: Path, method: str, path: str) -> dict[str, Any]:
    """The log entry of a request. Waits for it, because it is written after the answer."""
    found: list[dict[str, Any]] = []

    def is_logged() -> bool:
        lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found[:] = [line for line in lines if (line.get("method"), line.get("path")) == (method, path)]
        return bool(found)

    eventually(is_logged, otherwise=lambda: f"{method} {path} is not in the log")
    return found[0]


def test_site_of_nginx_passes_only_permitted_requests(session_folder: Path, database_url: str) -> None:
    folder, side = (Path(tempfile.mkdtemp(dir=session_folder)) for _ in range(2))
    with connect(database_url, name="test") as conn:
        key = create_key(conn, "test", "queue")
    with gunicorn_process(side, database_url) as (_, port), nginx(folder, [port]) as tls_port:
        context = trusting(folder)
        signed, forged = results_path(), results_path(secret="the secret of another service")

        # Callbacks pass up to the size limit.
        assert ask(tls_port, context, "POST", signed, b"x" * 65536) == (200, b'{"status": "stored"}')
        assert ask(tls_port, context, "POST", signed, b"x" * 65537)[0] == 413
        assert ask(tls_port, context, "POST", forged, b"{}") == (404, b'{"status": "not_found"}')
        assert ask(tls_port, context, "GET", signed) == (200, b'{"status": "ok"}')
        assert [ask(tls_port, context, "POST", signed, b"{}")[0] for _ in range(200)] == [200] * 200, "never limited"

        # The connection of a very slow sender is closed.
        with (
            socket.create_connection(("127.0.0.1", tls_port)) as line,
            context.wrap_socket(line, server_hostname="127.0.0.1") as slow,
        ):
            slow.sendall(f"POST {signed} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
            slow.settimeout(60)
            assert slow.recv(1000) == b""

        # A large upload passes. The service reads it, and refuses it because no row is valid.
        upload = "--B\r\nContent-Disposition: form-data; name=csv; filename=c.csv\r\n\r\ndestination,n\n"
        body = (upload + "555,xxxxxxxx\n" * 400_000 + "\r\n--B--\r\n").encode()
        status, content = ask(
            tls_port, context, "POST", "/api/v1/batches", body,
            Content_Type="multipart/form-data; boundary=B", Authorization=f"Bearer {key}",
        )  # fmt: skip
        assert (status, json.loads(content)["code"]) == (422, "invalid_parameters")
        assert ask(tls_port, context, "POST", "/api/v1/callbacks/replay", b"x" * (2 << 20))[0] == 413

        # The real address of the client is logged, not the one in its header. Only this machine gets metrics.
        forged_headers = {"X_Forwarded_For": "198.51.100.9", "Authorization": f"Bearer {key}"}
        ask(tls_port, context, "GET", "/api/v1/batches?name=617", None, **forged_headers)
        request = logged_request(side / "gunicorn.log", "GET", "/api/v1/batches")
        assert (request["address"], request["status"]) == ("127.0.0.2", 200)
        assert len(request["request_id"]) == 32, "nginx creates the id, so that both logs contain it"
        assert ask(tls_port, context, "GET", "/metrics")[0] == 403

        # No log contains a token or a query.
        logs = "".join(path.read_text() for path in (*folder.glob("*.log"), side / "gunicorn.log"))
        assert "/results/... " in logs.replace('"', " ") and signed[-43:] not in logs and "name=617" not in logs
