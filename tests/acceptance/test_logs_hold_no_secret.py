"""A complete run with the most detailed logs: they contain no phone number, token, key or password."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.cookiejar
import json
import os
import re
import signal
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service import Service, ask
from tests.waiting import eventually

pytestmark = pytest.mark.long

NUMBERS = ["6175593812", "6175593824", "6175593835", "6175593846"]
CALLER_ID = "8009957586"
STRANGER = "4159593858"
"""A number that is not in a CSV, so its callback is unmatched."""

LOGIN, DEVELOPER_KEY = "ana.campaigns@example.com", "developer-key-of-the-provider"
SECRET, METRICS_KEY = "secret-that-signs-7f3a-tokens-and-sessions", "metrics-are-asked-with-this"
WRONG_KEY = "rr_abcdEFGH_" + "Wr0ng" * 8 + "xyz"
FORGED = "1-1." + "F0rged" * 7 + "A"

SPELLINGS = (
    "{0}",
    "+1{0}",
    "'{0}'",
    "1-{1}-{2}-{3}",
    "({1}) {2}-{3}",
    "{1}.{2}.{3}",
    "{1} {2}{3}",
    "tel:+1{0};ani=8009957586",
)


def spelled(number: str) -> list[str]:
    return [each.format(number, number[:3], number[3:6], number[6:]) for each in SPELLINGS]


class EchoingProvider:
    """Accepts the batches of application 7. Its answers to other applications repeat the request in several ways."""

    def __init__(self) -> None:
        self.result_urls: list[str] = []
        self.asked = 0
        provider = self

        class Echoing(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                found = re.search(r'name="result_url"\r\n\r\n(\S+)\r\n', body)
                assert found is not None
                provider.asked += 1
                credentials = base64.b64decode(self.headers["Authorization"].partition(" ")[2]).decode()
                secret_text = " ".join(
                    (self.headers["Authorization"], credentials, found[1], body, *spelled(NUMBERS[0]))
                )
                application = self.path.split("/")[3]
                if application == "7":
                    provider.result_urls.append(found[1])
                    self._answer(200, json.dumps({"calls_queued": 4, "echo": secret_text}))
                elif application == "8":
                    self._answer(400, json.dumps({"error": f"cannot call {secret_text}"}))
                elif application == "9":
                    self._answer(500, f"<html><h1>Database error</h1>{secret_text}</html>")
                elif application == "10":
                    self._answer(302, secret_text, ("Location", f"http://127.0.0.1:9/{DEVELOPER_KEY}?to={NUMBERS[0]}"))
                elif application == "11":
                    self.wfile.write(f"HTTP/1.1 {secret_text}\r\n".encode())  # not a valid status line
                self.close_connection = True

            def _answer(self, status: int, text: str, *headers: tuple[str, str]) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Echoing)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[EchoingProvider]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def sign_in_and_open_pages(service: Service) -> list[str]:
    """Sign in as a browser does, with a wrong key and with the right one. Returns the cookies that were set."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    seen: list[str] = []

    def get(path: str, **form: str) -> str:
        content = urllib.parse.urlencode(form).encode() if form else None
        try:
            with opener.open(urllib.request.Request(service.url + path, content), timeout=30) as answer:  # noqa: S310 http, to this machine
                text: str = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
        seen.extend(cookie.value or "" for cookie in jar)
        return text

    def token(page: str) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', page)
        assert found is not None
        seen.append(found[1])
        return found[1]

    for key in (WRONG_KEY, service.key):
        get("/login?next=/", csrf_token=token(get("/login")), key=key)
    assert "Sign out" in get("/")
    for number in NUMBERS:
        for text in spelled(number):
            get(f"/numbers?phone_number={urllib.parse.quote(text)}")
            get(f"/calls?phone_number={urllib.parse.quote(text)}")
            get(f"/{urllib.parse.quote(text, safe='')}")
    get("/keys", csrf_token=token(get("/keys")), name="made on a page", scope="read", own_key=service.key)
    get("/callbacks?state=any")
    return seen


def post_callbacks(url: str) -> None:
    """Post valid and broken callbacks, unmatched ones, and some with a wrong token, method or size."""
    forged, address = url.rpartition("/")[0] + "/" + FORGED, urllib.parse.urlsplit(url)
    for number in NUMBERS:
        for text in spelled(number):
            whole = {"phone_number": text, "status": "completed", "attempts": "1", "token": url}
            ask(url, "POST", json.dumps(whole).encode())
            ask(url, "POST", json.dumps(whole).encode()[:-9])
            ask(url, "POST", f"{text} \x00 {DEVELOPER_KEY}".encode(), {"Content-Type": text})
            ask(f"{url}?phone_number={urllib.parse.quote(text)}", "POST", b"<xml>" + text.encode())
            ask(f"{forged}?n={urllib.parse.quote(text)}", "POST", text.encode())
    ask(url, "POST", json.dumps({"phone_number": STRANGER, "status": "completed"}).encode())
    ask(url, "DELETE")
    ask(url, "POST", b"x" * 70_000)
    for request in (
        f"POST {address.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{NUMBERS[1]}",
        f"POST {address.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{NUMBERS[1]}\r\n",
        f"POST {address.path} HTTP/1.1\r\nHost: x\r\n{NUMBERS[1]}\r\n\r\n",
        f"POST {address.path}\x00 HTTP/9.9\r\nHost: x\r\nX: Bearer {WRONG_KEY} for {NUMBERS[2]}\r\n\r\n",
    ):
        connection = http.client.HTTPConnection(address.netloc, timeout=30)
        connection.connect()
        connection.sock.sendall(request.encode())
        connection.sock.shutdown(1)
        while connection.sock.recv(4096):
            pass
        connection.close()


def ask_the_api(service: Service) -> None:
    for number in (*NUMBERS, STRANGER):
        for text in spelled(number):
            service.ask(f"/api/v1/calls?phone_number={urllib.parse.quote(text)}")
            service.ask(f"/api/v1/batches?name={urllib.parse.quote(text)}&nonsense={urllib.parse.quote(text)}")
            service.ask(f"/api/v1/{urllib.parse.quote(text, safe='')}")
    service.ask("/api/v1/callbacks/replay", "POST", NUMBERS[0].encode(), {"Content-Type": "application/json"})
    ask(f"{service.url}/api/v1/batches?key={WRONG_KEY}", headers={"Authorization": f"Bearer {WRONG_KEY}"})
    ask(f"{service.url}/metrics", headers={"Authorization": f"Bearer {METRICS_KEY}"})
    ask(f"{service.url}/metrics", headers={"Authorization": f"Bearer {METRICS_KEY}x"})


def disturb_the_database(service: Service) -> None:
    """End the server's processes under load. Its own log then has messages about this."""
    for process in service.processes():
        if re.search(r"postgres: receiver-\w+: receiver receiver ", process.command):
            with contextlib.suppress(ProcessLookupError):  # its client may have disconnected
                os.kill(process.pid, signal.SIGTERM)


def run_everything(service: Service, result_url: str) -> list[str]:
    post_callbacks(result_url)
    ask_the_api(service)
    seen = sign_in_and_open_pages(service)
    made = service.run("keys", "create", "reader", "--scope", "read").stdout.split()[-1]
    service.run("verify")
    disturb_the_database(service)
    # Callbacks that were posted during this went to the spool, or to the database when it was available again.
    assert ask(result_url, "POST", json.dumps({"phone_number": NUMBERS[3], "status": "failed"}).encode()).status == 200
    eventually(lambda: service.ask("/api/v1/callbacks?state=waiting").json.get("callbacks") == [])
    assert service.run("erase", NUMBERS[1], "--yes").returncode == 0
    return [*seen, made, service.key]


def secrets_in(logs: dict[str, str], secrets: list[str]) -> list[str]:
    """Each line that contains a secret, or more than the last two digits of a number."""
    found = []
    tails = {number[3:8] for number in (*NUMBERS, STRANGER, CALLER_ID)}
    for name, text in logs.items():
        for line in text.splitlines():
            digits = re.sub(r"[\s().+'-]", "", urllib.parse.unquote(line))
            if any(tail in digits for tail in tails) or any(secret in line for secret in secrets):
                found.append(f"{name}: {line[:500]}")
    return found


@contextmanager
def service_that_did_everything(
    server_dir: Path, provider: EchoingProvider, **variables: str
) -> Iterator[tuple[Service, list[str]]]:
    """A service after the complete run, and the secrets that it issued."""
    contacts = server_dir / "contacts.csv"
    rows = [
        *NUMBERS[:2],
        f"tel:+1{NUMBERS[2]};ani={CALLER_ID}",
        f"({NUMBERS[3][:3]}) {NUMBERS[3][3:6]}-{NUMBERS[3][6:]}",
    ]
    contacts.write_text("destination,name\n" + "".join(f"{row},Person {row}\n" for row in rows))
    faulty = server_dir / "faulty.csv"
    faulty.write_text(f"destination,name\n{NUMBERS[0]}99999,x\n{NUMBERS[1]},{NUMBERS[2]},{NUMBERS[3]}\n")
    settings: dict[str, Any] = {
        "PLUM_URL": provider.url,
        "PLUM_USER": LOGIN,
        "PLUM_KEY": DEVELOPER_KEY,
        "SECRET_KEY": SECRET,
        "METRICS_KEY": METRICS_KEY,
        "LOG_LEVEL": "debug",
        "WEB_CONCURRENCY": "1",
        **variables,
    }
    with provider.running(), Service(server_dir, **settings) as service:
        for application in ("7", "8", "9", "10", "11"):
            name, twice = f"call {NUMBERS[0]} with {WRONG_KEY}", f"Idempotency-Key: {NUMBERS[0]}-{application}"
            service.queue(contacts, "Prefer: wait=10", twice, application_id=application, name=name)
        service.queue(faulty, "Prefer: wait=0")
        eventually(
            lambda: provider.asked >= 5 and len(provider.result_urls) == 1,
            60,
            lambda: (provider.asked, provider.result_urls),
        )
        yield service, run_everything(service, provider.result_urls[0])


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_log_contains_a_number_token_key_or_password(server_dir: Path, log_format: str) -> None:
    provider = EchoingProvider()
    with service_that_did_everything(server_dir, provider, LOG_FORMAT=log_format) as (service, seen):
        # The answers that repeated everything are stored in full in the database.
        assert NUMBERS[0] in service.ask("/api/v1/batches?state=refused").body.decode()
    greeted = re.compile(r"^  Results .+\n  Provider .+$", re.MULTILINE)
    log = service.log.read_text()
    assert len(greeted.findall(log)) == 1, "which is what `serve` is asked for"
    logs = {"serve": greeted.sub("", log)}
    logs |= {path.name: path.read_text(errors="replace") for path in (service.data_dir / "postgres" / "log").iterdir()}
    assert "refused: not_found" in log and "GET /calls" in log and len(logs) > 1
    token = provider.result_urls[0].rpartition(".")[2]
    secrets = [
        LOGIN,
        DEVELOPER_KEY,
        SECRET,
        METRICS_KEY,
        WRONG_KEY[-43:],
        FORGED[4:],
        service.key[-43:],
        token,
        *(text[-24:] for text in seen),
    ]
    secrets += [base64.b64encode(f"{LOGIN}:{DEVELOPER_KEY}".encode()).decode()]
    found = secrets_in(logs, secrets)
    assert found == [], "\n".join(found)
    # Prove that the search finds a number and a token if they are there.
    assert len(secrets_in({"": f"x ({NUMBERS[0][:3]}) {NUMBERS[0][3:6]}-{NUMBERS[0][6:]}\ny {token}\nz"}, secrets)) == 2
