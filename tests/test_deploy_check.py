"""`doctor --deploy`: each check, with the right and with a wrong setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from flask import Flask
from psycopg import sql
from psycopg.conninfo import make_conninfo
from werkzeug.wrappers import Request, Response

from receiver import deploy_check
from receiver.cli import main
from receiver.config import Config
from receiver.database.pool import Connection, connect
from receiver.intake.journal import Group
from receiver.intake.signing_keys import fingerprint
from receiver.intake.spool import Spool
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.supervisor.ports import free_port
from receiver.web.app import close_app, create_app
from tests.factories import make_batch, make_callback
from tests.test_doctor import levels, only, served
from tests.web.asking import SECRET
from tests.web.conftest import app, config

__all__ = ["app", "config"]

OTHER = "the secret of another service"


@pytest.fixture
def looking(database_url: str) -> Iterator[Connection]:
    with connect(database_url, name="receiver doctor", autocommit=True) as conn:
        yield conn


def send(conn: Connection, key: str = SECRET) -> None:
    """Make a batch that expects results. Its token was signed with the key."""
    make_batch(conn, send=False)
    worker_id = register_worker(conn, "test", 1, fingerprint(key))
    assert claim_submission(conn, worker_id, signing_key=fingerprint(key)) is not None
    conn.commit()


# Journal -----------------------------------------------------------------------------------------


def test_journal_is_written_and_rolled_back(looking: Connection) -> None:
    assert levels(deploy_check.check_journal(looking))["journal"] in ("ok", "warning")
    for table in ("callback", "waiting", "journal_writer", "batch_count"):
        assert looking.execute(sql.SQL("select from {}").format(sql.Identifier(table))).fetchone() is None, table
    assert looking.execute("select nextval(pg_get_serial_sequence('callback', 'callback_id'))").fetchone() == (2,)


def test_read_only_database_is_a_failure_that_names_the_setting(looking: Connection) -> None:
    looking.execute("set default_transaction_read_only = on")
    found = only(deploy_check.check_journal(looking))
    assert found.level == "failure" and "DATABASE_URL" in found.message and "read-only" in found.message


def test_role_that_may_not_store_is_a_failure(looking: Connection, database_url: str) -> None:
    role = f"reader_{uuid4().hex}"
    looking.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    try:
        looking.execute(sql.SQL("grant select on all tables in schema public to {}").format(sql.Identifier(role)))
        url = make_conninfo(database_url, user=role)
        with connect(url, name="receiver doctor", autocommit=True) as reader:
            found = only(deploy_check.check_journal(reader))
        assert found.level == "failure" and "permission denied" in found.message
    finally:
        looking.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
        looking.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def test_session_that_does_not_commit_durably_is_a_failure(looking: Connection) -> None:
    looking.execute("set synchronous_commit = off")
    assert only(deploy_check.check_journal(looking)).level == "failure"


# Spool -------------------------------------------------------------------------------------------


def test_spool_in_use_keeps_its_callbacks_and_its_count(config: Config) -> None:
    spool = Spool(config.data_dir / "spool.sqlite3", config.spool_max_bytes)
    first, second = (Group(uuid4(), 1, (make_callback(1, b"a"), make_callback(1, b"b"))) for _ in range(2))
    spool.append(first)
    assert deploy_check.check_spool(config).level == "ok"
    spool.append(second)
    assert spool.depth() == 4
    assert [group for _, group in spool.oldest(10)] == [first, second]
    spool.close()


def test_check_creates_no_spool_that_another_account_could_not_use(config: Config) -> None:
    before = set(config.data_dir.rglob("*"))
    assert deploy_check.check_spool(config).level == "ok"
    assert set(config.data_dir.rglob("*")) == before


def test_full_spool_and_unwritable_folder_name_the_setting(config: Config, tmp_path: Path) -> None:
    found = deploy_check.check_spool(replace(config, spool_max_bytes=1))
    assert found.level == "failure" and "SPOOL_MAX_BYTES" in found.message
    (tmp_path / "file").write_text("")
    found = deploy_check.check_spool(replace(config, data_dir=tmp_path / "file"))
    assert found.level == "failure" and "DATA_DIR" in found.message


# Keys --------------------------------------------------------------------------------------------


def test_key_of_expected_results_must_be_configured(conn: Connection, config: Config) -> None:
    assert deploy_check.check_keys(conn, config).level == "ok"
    send(conn, OTHER)
    found = deploy_check.check_keys(conn, config)
    assert found.level == "failure" and found.message.startswith("SECRET_KEY lacks the key")
    assert deploy_check.check_keys(conn, replace(config, accepts_key_loss=True)).level == "warning"
    assert deploy_check.check_keys(conn, replace(config, secret_keys=(SECRET, OTHER))).level == "ok"


# PUBLIC_URL --------------------------------------------------------------------------------------


def receiver_level(config: Config, url: str, *, expects: bool = True, earlier: bool = False) -> str:
    found = list(deploy_check.check_receiver(replace(config, public_url=url), expects=expects, earlier=earlier))
    assert all(finding.subject == "PUBLIC_URL" for finding in found)
    found = [
        each for each in found if not each.message.endswith("the provider may not wait that long")
    ]  # the machine was busy
    assert len(found) == 1
    return found[0].level


def test_receiver_with_the_same_keys_is_ok_and_one_with_others_is_a_failure(app: Flask, config: Config) -> None:
    other = replace(config, secret_keys=(OTHER,))
    with served(app) as url:
        for expects in (True, False):
            assert receiver_level(config, url, expects=expects) == "ok"
            assert receiver_level(other, url, expects=expects) == "failure"
        assert receiver_level(replace(config, secret_keys=(SECRET, OTHER)), url) == "ok", "the next key verifies"
        assert receiver_level(replace(other, accepts_key_loss=True), url) == "warning"
        assert receiver_level(other, url, earlier=True) == "warning", "1.0.0 does not know the token"


@pytest.mark.parametrize(
    ("status", "expecting", "first"),
    [
        (404, "failure", "warning"),
        (502, "failure", "warning"),
        (503, "failure", "warning"),
        (200, "failure", "warning"),
        (301, "failure", "failure"),
        (401, "failure", "failure"),
    ],
)
def test_page_of_another_service_is_a_failure_if_results_are_expected(
    config: Config, status: int, expecting: str, first: str
) -> None:
    @Request.application
    def platform(request: Request) -> Response:
        return Response("<h1>There is nothing here yet</h1>", status, {"Location": "https://www.example.com/"})

    with served(platform) as url:
        assert receiver_level(config, url, expects=True) == expecting
        assert receiver_level(config, url, expects=False) == first


def test_receiver_that_forbids_this_machine_is_a_warning_and_another_403_is_a_failure(
    config: Config, database_url: str
) -> None:
    sources = replace(config, result_sources=(ip_network("192.0.2.0/24"),))
    forbidding = create_app(sources, database_url)
    try:
        with served(forbidding) as url:
            assert receiver_level(sources, url) == "warning"
    finally:
        close_app(forbidding)
    with served(Response("<h1>No</h1>", 403)) as url:
        assert receiver_level(sources, url) == "failure"


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_address_without_a_server_is_a_failure_if_results_are_expected(config: Config, host: str) -> None:
    url = f"http://{host}:{free_port()}"
    assert receiver_level(config, url, expects=True) == "failure"
    assert receiver_level(config, url, expects=False) == "warning"


# All of it ---------------------------------------------------------------------------------------


@pytest.fixture
def environment(config: Config, database_url: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    variables = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET, "DATA_DIR": str(config.data_dir), "PORT": "9"}
    for name in ("PUBLIC_URL", "PLUM_URL", "PLUM_USER", "PLUM_KEY", "SECRET_KEY_LOSS", "RESULT_SOURCES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def run(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["doctor", "--deploy"])
    return status, capsys.readouterr().out


def test_first_deploy_passes_before_anything_runs(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run(capsys)
    assert status == 0 and "0 failures" in output, output


def test_wrong_settings_fail_and_the_message_names_them(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], conn: Connection, database_url: str, app: Flask
) -> None:
    send(conn)
    with served(app) as url:
        environment.setenv("PUBLIC_URL", url)
        assert run(capsys)[0] == 0
        environment.setenv("SECRET_KEY", OTHER)
        status, output = run(capsys)
        assert status == 1 and "failure  keys           SECRET_KEY lacks the key" in output
        environment.setenv("SECRET_KEY_LOSS", "accept")
        assert run(capsys)[0] == 0
        environment.setenv("SECRET_KEY", f"{SECRET},{OTHER}")
        environment.setenv("PUBLIC_URL", f"http://127.0.0.1:{free_port()}")
        status, output = run(capsys)
        assert status == 1 and "failure  PUBLIC_URL" in output
    environment.setenv("DATABASE_URL", make_conninfo(database_url, dbname="missing"))
    status, output = run(capsys)
    assert status == 1 and "failure  journal        DATABASE_URL" in output
    environment.setenv("PUBLIC_URL", "nonsense")
    status, output = run(capsys)
    assert status == 2 and "PUBLIC_URL" in output


def test_database_that_was_not_migrated_is_a_failure(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], empty_database_url: str
) -> None:
    environment.setenv("DATABASE_URL", empty_database_url)
    status, output = run(capsys)
    assert status == 1 and "receiver migrate" in output


def test_server_that_is_not_durable_is_a_warning(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    with psycopg.connect(database_url) as conn:
        hurried = conn.execute("show fsync").fetchone() == ("off",)
    assert ("fsync is off" in run(capsys)[1]) == hurried
