"""`doctor` with an app, a database, a disk and a provider, in order and with faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from receiver import doctor
from receiver.cli import main
from receiver.config import Config
from receiver.database.pool import Connection, connect
from receiver.doctor import Finding
from receiver.intake.callback_rules import NOT_FOUND, OK
from receiver.intake.journal import Group
from receiver.intake.spool import Spool
from receiver.intake.token import ResultTokens
from receiver.release.presence import register_worker
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.supervisor.ports import free_port
from tests.factories import UNKNOWN, answer_submissions, make_batch, make_callback
from tests.waiting import eventually
from tests.web.asking import SECRET
from tests.web.conftest import app, config

__all__ = ["app", "config"]


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextmanager
def served(wsgi: Any) -> Iterator[str]:
    """Serve a WSGI app, and return its address."""
    server = make_server("127.0.0.1", 0, wsgi, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def only(findings: Iterator[Finding]) -> Finding:
    found = list(findings)
    assert len(found) == 1, found
    return found[0]


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


# PUBLIC_URL --------------------------------------------------------------------------------------


def test_served_app_answers_as_a_result_url_must_and_nothing_is_stored(
    app: Flask, config: Config, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SLOW_SECONDS", 60)
    with served(app) as url:
        found = only(doctor.check_public_url(replace(config, public_url=url)))
    assert (found.level, found.message) == ("ok", f"{url} answers as a result_url must")
    assert conn.execute("select count(*) from callback").fetchone() == (0,)


def test_public_url_receives_no_token_that_could_be_used(config: Config) -> None:
    asked: list[str] = []

    @Request.application
    def stranger(request: Request) -> Response:
        asked.append(request.path.removeprefix("/results/"))
        return Response(OK.body if len(asked) < 4 else NOT_FOUND.body, 200 if len(asked) < 4 else 404)

    with served(stranger) as url:
        list(doctor.check_public_url(replace(config, public_url=url)))
    assert len(asked) == 4
    assert {ResultTokens(config.secret_keys).read(token) for token in asked} == {None}


def test_different_secret_is_reported(app: Flask, config: Config) -> None:
    with served(app) as url:
        found = only(doctor.check_public_url(replace(config, public_url=url, secret_keys=("x" * 40,))))
    assert found.level == "failure" and "another SECRET_KEY" in found.message


@pytest.mark.parametrize(
    ("status", "hint"),
    [(301, "to its target"), (401, "requires a login"), (502, "see the logs"), (200, "instead of this service")],
)
def test_proxy_that_answers_itself_is_reported(config: Config, status: int, hint: str) -> None:
    @Request.application
    def in_front(request: Request) -> Response:
        return Response("", status, {"Location": "https://www.example.com/results/"})

    with served(in_front) as url:
        found = only(doctor.check_public_url(replace(config, public_url=url)))
    assert found.level == "failure" and hint in found.message
    assert "/results/1-1" not in found.message, "a message must not contain a token"


def test_unreachable_address_is_reported(config: Config) -> None:
    found = only(doctor.check_public_url(replace(config, public_url=f"http://127.0.0.1:{free_port()}")))
    assert found.level == "failure" and "cannot be reached" in found.message


# Database ----------------------------------------------------------------------------------------


@pytest.fixture
def looking(database_url: str) -> Iterator[Connection]:
    with connect(database_url, name="receiver doctor", autocommit=True) as conn:
        yield conn


def test_settings_that_can_lose_data_are_failures(looking: Connection) -> None:
    looking.execute("set synchronous_commit = off")
    looking.execute("set default_transaction_read_only = on")
    found = [finding for finding in doctor.check_database(looking) if finding.subject == "settings"]
    levels = {finding.message.split(" is ")[0]: finding.level for finding in found}
    # The tests' server does not sync, and the doctor reports that.
    assert levels.items() >= {"fsync": "failure", "synchronous_commit": "failure"}.items()
    assert levels["transaction_read_only"] == "failure"
    assert "server_encoding" not in levels and "TimeZone" not in levels


def test_running_worker_is_ok_and_a_missing_one_is_a_failure(looking: Connection, conn: Connection) -> None:
    assert levels(doctor.check_database(looking))["worker"] == "failure"
    register_worker(conn, "here", 1)
    conn.commit()
    found = levels(doctor.check_database(looking))
    assert (found["worker"], found["callbacks"], found["migrations"], found["clock"]) == ("ok",) * 4


def test_worker_that_has_ended_is_not_counted(looking: Connection, database_url: str) -> None:
    for _ in range(2):
        with connect(database_url, name="worker", autocommit=True) as ended:
            register_worker(ended, "here", 1)
    eventually(lambda: levels(doctor.check_database(looking))["worker"] == "failure")
    with connect(database_url, name="worker", autocommit=True) as other:
        register_worker(other, "here", 1)
        (found,) = [each for each in doctor.check_database(looking) if each.subject == "worker"]
        assert found.message.startswith("1 seen")


def test_unknown_submissions_and_old_callbacks_are_reported(looking: Connection, conn: Connection) -> None:
    make_batch(conn, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    conn.execute("insert into waiting values (1, 1, now() - interval '1 hour')")
    conn.commit()
    found = levels(doctor.check_database(looking))
    assert (found["submissions"], found["callbacks"]) == ("warning", "warning")


def test_missing_migration_is_reported_with_the_command(
    empty_database_url: str, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "DATABASE_URL": empty_database_url,
        "SECRET_KEY": SECRET,
        "DATA_DIR": str(config.data_dir),
        "PORT": "9",
    }
    for name in ("PUBLIC_URL", "PLUM_URL", "PLUM_USER", "PLUM_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("failure  database") and "receiver migrate" in line for line in lines)
    assert any(line.startswith("ok       disk") for line in lines), "one failure does not hide the rest"
    assert lines[-1].endswith(" failures.")


def test_every_fault_of_the_configuration_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("DATABASE_URL", "mysql://u:sesame@h/d")
    assert main(["doctor"]) == 2
    printed = capsys.readouterr().out
    assert printed.count("failure  configuration") == 3 and "sesame" not in printed


# Configuration, disk, provider -------------------------------------------------------------------


def test_loopback_public_url_with_a_real_provider_is_a_failure(config: Config) -> None:
    real = replace(config, plum_user="u", plum_key="k", metrics_key="m", secret_keys=("x" * 40,))
    expected = {"http://127.0.0.1:8000": "failure", "http://r.example": "warning", "https://r.example": "ok"}
    for url, level in expected.items():
        assert only(doctor.check_configuration(replace(real, public_url=url))).level == level
    warned = list(doctor.check_configuration(replace(real, public_url="https://r.example", metrics_key=None)))
    assert [finding.level for finding in warned] == ["warning"] and "METRICS_KEY" in warned[0].message


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"plum_url": "http://provider.example"}, "PLUM_URL"),
        ({"database_url": "postgresql://u:sesame@db.example/d?sslmode=require"}, "DATABASE_URL reaches db.example"),
        ({"database_url": "postgresql://u:sesame@127.0.0.1,db.example/d"}, "DATABASE_URL reaches db.example"),
        ({"database_url": "host=192.0.2.7 dbname=d password=sesame"}, "DATABASE_URL reaches 192.0.2.7"),
        ({"database_replica_url": "postgresql://u:sesame@db.example/d"}, "DATABASE_REPLICA_URL reaches db.example"),
    ],
)
def test_connection_that_others_can_read_is_reported(config: Config, changes: dict[str, Any], hint: str) -> None:
    (found,) = doctor.check_configuration(_in_earnest(config, **changes))
    assert found.level == "warning" and hint in found.message
    assert "sesame" not in found.message


@pytest.mark.parametrize(
    "changes",
    [
        {"plum_url": "http://127.0.0.1:8100"},
        {"plum_url": "http://[::1]:8100"},
        {"database_url": "postgresql://u:p@db.example/d?sslmode=verify-full"},
        {"database_url": "host=db.example sslmode=verify-full dbname=d"},
        {"database_url": "postgresql://u:p@localhost/d"},
        {"database_url": "postgresql:///d?host=/run/postgresql"},
        {"database_url": "dbname=d"},
    ],
)
def test_encrypted_or_local_connection_is_ok(config: Config, changes: dict[str, Any]) -> None:
    assert only(doctor.check_configuration(_in_earnest(config, **changes))).level == "ok"


def _in_earnest(config: Config, **changes: Any) -> Config:
    usual = {"plum_user": "u", "plum_key": "k", "metrics_key": "m", "secret_keys": ("x" * 40,)}
    return replace(config, **{**usual, "public_url": "https://r.example", **changes})


def test_disk_too_small_for_the_spool_is_reported(config: Config) -> None:
    assert levels(doctor.check_disk(config)) == {"disk": "ok", "spool": "ok"}
    assert levels(doctor.check_disk(replace(config, spool_max_bytes=1 << 50)))["disk"] == "warning"


def test_folder_that_cannot_be_written_is_reported(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert only(doctor.check_disk(replace(config, data_dir=tmp_path / "file"))).level == "failure"


def test_spool_with_callbacks_and_broken_spool_are_reported(config: Config) -> None:
    spool = Spool(config.data_dir / "spool.sqlite3", config.spool_max_bytes)
    batch = make_callback(1)
    spool.append(Group(uuid4(), 1, (batch, batch)))
    spool.close()
    found = {finding.subject: finding for finding in doctor.check_disk(config)}
    assert found["spool"].level == "warning" and "contains 2 callbacks" in found["spool"].message
    for path in config.data_dir.glob("spool.sqlite3*"):
        path.write_bytes(b"not a database" * 100)
    assert levels(doctor.check_disk(config))["spool"] == "failure"


def test_provider_is_checked_without_queueing_a_call(config: Config) -> None:
    assert only(doctor.check_provider(replace(config, plum_user=None, plum_key=None))).level == "warning"
    settings = Settings()
    with Simulator(settings) as simulator:
        asked = replace(config, plum_url=simulator.url, plum_user=settings.user, plum_key=settings.key)
        assert only(doctor.check_provider(replace(asked, plum_key="another"))).level == "failure"
        assert only(doctor.check_provider(asked)).level == "ok"
    found = only(doctor.check_provider(asked))
    assert found.level == "failure" and "cannot be reached" in found.message


@pytest.mark.parametrize(("status", "level"), [(401, "failure"), (403, "ok"), (404, "ok"), (302, "warning")])
def test_answer_of_the_provider_shows_whether_the_credentials_are_right(
    config: Config, status: int, level: str
) -> None:
    asked: list[tuple[str, str]] = []

    @Request.application
    def provider(request: Request) -> Response:
        asked.append((request.method, request.path))
        return Response('{"error": "no: the-key"}', status, content_type="application/json")

    with served(provider) as url:
        found = only(doctor.check_provider(replace(config, plum_url=url, plum_user="u", plum_key="the-key")))
    assert (found.level, asked) == (level, [("GET", "/api/outbound/0")])
    assert "the-key" not in found.message
