"""`RESULT_SOURCES`: who may post results, with and without proxies, and the answer to others."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver import doctor
from receiver.config import Config
from receiver.database.pool import connect
from receiver.environment import read_config
from receiver.errors import ConfigurationError
from receiver.intake.proxies import Proxies
from receiver.intake.senders import Senders
from tests.test_doctor import only, served
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.conftest import app_that_has_no_database
from tests.web.gunicorn import EACH, OURS, ROOT, Sender, gunicorn_process

PROVIDER = tuple(ip_network(text) for text in ("192.0.2.0/28", "198.51.100.7/32", "2001:db8:1::/48"))
INSIDE = ["192.0.2.1", "192.0.2.15", "198.51.100.7", "::ffff:192.0.2.3", "2001:db8:1:ffff::9"]
OUTSIDE = [
    "192.0.2.16",
    "198.51.100.8",
    "2001:db8:2::1",
    "203.0.113.5",
    "127.0.0.1",
    "::1",
    "",
    "unix:",
    "fe80::1%eth0",
]
FORBIDDEN = (403, b'{"status": "forbidden"}')
BODY = b'{"status": "completed"}'

AppWith = Callable[..., Flask]


@pytest.fixture
def app_with(tmp_path: Path) -> Iterator[AppWith]:
    """Create apps without a database."""
    with ExitStack() as apps:

        def make(sources: tuple[IPv4Network | IPv6Network, ...] = PROVIDER) -> Flask:
            return apps.enter_context(app_that_has_no_database(tmp_path, result_sources=sources))

        yield make


def post(client: FlaskClient, peer: str, path: str = "", method: str = "POST", **headers: str) -> tuple[int, bytes]:
    answer = client.open(
        path or results_path(),
        method=method,
        data=BODY,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
        environ_base={"REMOTE_ADDR": peer},
    )
    return answer.status_code, answer.data


def test_only_listed_networks_may_post(app_with: AppWith) -> None:
    client = app_with().test_client()
    for _ in range(2):  # the decision is cached
        for peer in INSIDE:
            assert post(client, peer) == (200, b'{"status": "stored"}'), peer
        for peer in OUTSIDE:
            assert post(client, peer) == FORBIDDEN, peer


def test_refused_request_stores_nothing(app_with: AppWith, tmp_path: Path) -> None:
    """Nothing is in the spool, where a stored callback would be, and no query is made."""
    app = app_with()
    assert post(app.test_client(), "203.0.113.5") == FORBIDDEN
    assert not (tmp_path / "spool.sqlite3").exists()
    assert post(app.test_client(), "192.0.2.1")[0] == 200
    assert (tmp_path / "spool.sqlite3").exists()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
def test_refusal_reveals_nothing_about_the_token(app_with: AppWith, method: str) -> None:
    client = app_with().test_client()
    forged = results_path(secret="the secret of somebody else")
    answers = {
        post(client, "203.0.113.5", path, method) for path in (results_path(), forged, "/results/", "/results/x")
    }
    assert answers == {(403, b"" if method == "HEAD" else FORBIDDEN[1])}


def test_other_addresses_are_open_to_everybody(app_with: AppWith) -> None:
    client = app_with().test_client()
    for path, status in (("/healthz", 200), ("/login", 200), ("/openapi.json", 200), ("/api/v1/batches", 401)):
        assert post(client, "203.0.113.5", path, "GET")[0] == status, path


@pytest.mark.parametrize(
    ("peer", "hops", "status"),
    [
        ("127.0.0.1", "192.0.2.1", 200),
        ("127.0.0.1", "203.0.113.5", 403),
        ("127.0.0.1", "192.0.2.1, 203.0.113.5", 403),  # the client invented the first
        ("127.0.0.1", "203.0.113.5, 192.0.2.1", 200),
        ("127.0.0.1", "192.0.2.1:4711", 200),
        ("127.0.0.1", "[2001:db8:1::5]:80", 200),
        ("127.0.0.1", "nonsense", 403),
        ("127.0.0.1", "", 403),
        ("203.0.113.5", "192.0.2.1", 403),  # not a trusted proxy
        ("192.0.2.1", "203.0.113.5", 200),
    ],
)
def test_address_behind_trusted_proxies_is_the_clients(app_with: AppWith, peer: str, hops: str, status: int) -> None:
    assert post(app_with().test_client(), peer, X_Forwarded_For=hops)[0] == status


def test_without_networks_everybody_may_post(app_with: AppWith) -> None:
    client = app_with(()).test_client()
    assert {post(client, peer)[0] for peer in (*INSIDE, *OUTSIDE)} == {200}


def test_memory_for_addresses_is_bounded() -> None:
    senders = Senders(Proxies([ip_network("127.0.0.1")]), PROVIDER)
    assert senders._is_source is not None
    for number in range(5000):
        other_address = f"203.0.{number >> 8}.{number & 255}"
        assert not senders.admit(other_address, "")
        assert not senders.admit("127.0.0.1", f"{'x' * number}, {other_address}")
    kept = senders._is_source.cache_info()
    assert kept.currsize == kept.maxsize == 4096


@pytest.mark.long
@pytest.mark.parametrize("entry_point", EACH)
def test_refusals_are_counted_and_sometimes_logged_with_the_address(
    session_folder: Path, database_url: str, entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    variables = {"RESULT_SOURCES": "192.0.2.0/28, 2001:db8::/32", "LOG_FORMAT": "json"}
    with gunicorn_process(folder, database_url, entry_point=entry_point, **variables) as (_, port):

        def ask(forwarded: str, method: str = "POST", path: str = "") -> tuple[int, bytes]:
            sender = Sender(port)
            head = f"{method} {path or results_path()} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {forwarded}\r\n"
            sender.send(f"{head}Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n".encode(), BODY)
            answer = sender.answer()
            sender.close()
            return answer.status, answer.body

        assert [ask("203.0.113.77")[0] for _ in range(30)] == [403] * 30
        assert ask("192.0.2.14") == (200, b'{"status": "stored"}')
        metrics = ask("203.0.113.77", "GET", "/metrics")[1].decode()
        assert 'receiver_web_callbacks_total{answer="forbidden"} 30.0' in metrics

        def stored() -> int:
            with connect(database_url, name="test") as conn:
                (row,) = conn.execute("select count(*) from callback").fetchall()
            return int(row[0])

        eventually(lambda: stored() == 1)
    lines = [line for line in (folder / "gunicorn.log").read_text().splitlines() if "forbidden" in line]
    assert 1 <= len(lines) <= 3, "thirty were refused; a line each would let strangers fill the disk"
    if entry_point in OURS:  # another server has its own log
        line = json.loads(lines[0])
        assert (line["event"], line["address"]) == ("callback_forbidden", "203.0.113.77")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        (" 192.0.2.7/24 ,, 2001:db8::/32 ", "192.0.2.0/24 2001:db8::/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.9", "192.0.2.9/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("", ""),
        (" ", ""),
    ],
)
def test_networks_are_read_in_all_usual_formats(text: str, expected: str) -> None:
    found = read_config({"RESULT_SOURCES": text}).result_sources
    assert " ".join(str(network) for network in found) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("192.0.2.300", "'192.0.2.300'"),
        ("192.0.2.0/33", "'192.0.2.0/33'"),
        ("192.0.2.1, provider.example, 10.0.0.0/8, ::1/129", "'provider.example', '::1/129'"),
        ("192.0.2.1-192.0.2.9", "'192.0.2.1-192.0.2.9'"),
        ("192.0.2.1 192.0.2.2", "'192.0.2.1 192.0.2.2'"),
        ("3221225985", "'3221225985'"),
        (",", "is empty"),
        ("*", "'*'"),
    ],
)
def test_wrong_network_is_a_fault_that_names_it(text: str, named: str) -> None:
    """Otherwise the service would accept every sender, or refuse every result."""
    for name in ("RESULT_SOURCES", "TRUSTED_PROXIES"):
        with pytest.raises(ConfigurationError) as raised:
            read_config({name: text})
        (fault,) = raised.value.faults
        assert fault.where == name and named in fault.message and "192.168.0.0/24" in fault.message


def test_wrong_value_stops_the_start_with_status_2() -> None:
    for command in (
        ["-m", "receiver", "serve"],
        ["-m", "gunicorn", "-c", "python:receiver.server.gunicorn_conf", "app:asgi"],
    ):
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "RESULT_SOURCES": "192.0.2.300"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 2
        assert "RESULT_SOURCES" in ended.stderr and "'192.0.2.300'" in ended.stderr and "Traceback" not in ended.stderr


# `doctor` -------------------------------------------------------------------------------------------


def test_doctor_says_that_it_is_on(config: Config) -> None:
    found = {each.subject: each for each in doctor.check_configuration(replace(config, result_sources=PROVIDER))}
    assert found["RESULT_SOURCES"].level == "ok" and "2001:db8:1::/48" in found["RESULT_SOURCES"].message
    assert "RESULT_SOURCES" not in {each.subject for each in doctor.check_configuration(config)}


def test_doctor_distinguishes_our_refusal_from_a_proxys(
    app_with: AppWith, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SLOW_SECONDS", 60)
    with served(app_with()) as url:
        asked = replace(config, public_url=url, result_sources=PROVIDER)
        found = only(doctor.check_public_url(asked))
        assert found.level == "warning" and "is not in RESULT_SOURCES" in found.message
        found = only(doctor.check_public_url(replace(asked, result_sources=())))
        assert found.level == "failure" and "the proxy in front" in found.message
    with served(app_with((ip_network("127.0.0.1"),))) as url:
        found = only(doctor.check_public_url(replace(asked, public_url=url)))
        assert (found.level, found.message) == ("ok", f"{url} answers as a result_url must")
