"""nginx with the configuration of deploy/nginx, and senders of callbacks that continue during restarts."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from receiver.supervisor.ports import free_port
from tests.waiting import eventually
from tests.web.asking import SECRET, results_path

SITE = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "receiver.conf"


@contextmanager
def nginx(folder: Path, backends: Sequence[int], intakes: Sequence[int] | None = None) -> Iterator[int]:
    """Run nginx with the site's configuration, but other ports and paths and shorter timeouts. Yields its TLS port.

    Without `intakes`, the backends receive the callbacks.
    """
    for program in ("nginx", "openssl"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/bin:/usr/local/bin") is None:
            pytest.skip(f"{program} is not installed (Debian: apt-get install nginx-light openssl)")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    port, plain_port = free_port(), free_port()
    site = SITE.read_text()
    for pattern, replacement in (
        (r"listen \[::\].*", ""),
        (r"listen 80;", f"listen 127.0.0.1:{plain_port};"),
        (r"listen 443 ", f"listen 127.0.0.1:{port} "),
        (r"/etc/letsencrypt/\S*fullchain.pem", str(certificate)),
        (r"/etc/letsencrypt/\S*privkey.pem", str(key)),
        (r"/var/log/nginx/", f"{folder}/"),
        (r"\$request_id';", "$request_id $http_x_mark';"),
        (r"client_body_timeout   15s", "client_body_timeout 2s"),
        (r"server 127\.0\.0\.1:8000 (.*);", _servers(backends)),
        (r"server 127\.0\.0\.1:8001 (.*);", _servers(backends if intakes is None else intakes)),
    ):
        site, times = re.subn(pattern, replacement, site)
        assert times > 0, f"the site's configuration has no {pattern}"
    (folder / "site.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 512; }\n"
        f"http {{ access_log off; {temporary} include {folder}/site.conf; }}\n"
    )
    folder.chmod(0o755)
    command = ["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, env={"PATH": "/usr/sbin:/usr/bin:/bin"}) as process:
        try:
            eventually(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None, (folder / "error.log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _servers(ports: Sequence[int]) -> str:
    return " ".join(rf"server 127.0.0.1:{port} \1;" for port in ports)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def trusting(folder: Path) -> ssl.SSLContext:
    """A context that trusts the certificate of `nginx` in this folder."""
    return ssl.create_default_context(cafile=str(folder / "certificate.pem"))


class Senders:
    """Threads that post callbacks until the context ends. Half of them keep their connections.

    Each callback has its own content type, by which `count_stored` identifies it.

    `failures`: a text for each request that was not answered 200. `stored`: how many were answered 200.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None, number: int = 6, secret: str = SECRET) -> None:
        self.failures: list[str] = []
        self.stored = 0
        self._port, self._context = port, context
        self._path = results_path(secret=secret)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(each,)) for each in range(number)]

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_progress(self) -> None:
        """Return when so many more were stored that every sender has stored some."""
        before = self.stored
        eventually(lambda: self.stored > before + 50)

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        return http.client.HTTPSConnection("127.0.0.1", self._port, timeout=60, context=self._context)

    def _send(self, sender: int) -> None:
        keeps, conn, names = sender % 2 == 0, self._connect(), count()
        while not self._stop.is_set():
            try:
                content_type = {"Content-Type": f"application/json; name={sender}-{next(names)}"}
                conn.request("POST", self._path, b'{"status": "completed"}', content_type)
                answer = conn.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{'kept' if keeps else 'new'} connection: {error!r}")
                conn.close()
                continue
            if answer.status != 200:
                self.failures.append(f"answered {answer.status}")
            with self._lock:
                self.stored += answer.status == 200
            if not keeps or answer.will_close:
                conn.close()
        conn.close()


def count_stored(database_url: str) -> int:
    """How many callbacks are in the journal. A callback that nginx sent to a second process counts once."""
    with psycopg.connect(database_url) as conn:
        row = conn.execute("select count(distinct content_type) from callback").fetchone()
    assert row is not None
    return int(row[0])


def ask(
    port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """Send a request over TLS from 127.0.0.2. Returns status and body."""
    conn = http.client.HTTPSConnection("127.0.0.1", port, timeout=120, context=context, source_address=("127.0.0.2", 0))
    with closing(conn):
        conn.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = conn.getresponse()
        return answer.status, answer.read()
