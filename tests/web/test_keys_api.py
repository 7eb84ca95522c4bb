"""Keys that the command line creates and the API accepts."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from receiver.cli import main
from receiver.database.api_keys import list_keys
from receiver.database.pool import Connection
from tests.web.asking import SECRET, problem_of

Keys = Callable[..., tuple[int, str]]


@pytest.fixture
def keys(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Keys:
    """Run `keys …`. Returns the exit status and the output without the line about the database."""
    for name, text in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "SECRET_KEY": SECRET}.items():
        monkeypatch.setenv(name, text)

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["keys", *arguments])
        printed = capsys.readouterr()
        return status, printed.out + "".join(printed.err.splitlines(keepends=True)[1:])

    return run


def ask(client: FlaskClient, key: str) -> int:
    return client.get("/api/v1/batches", headers={"Authorization": f"Bearer {key}"}).status_code


def test_key_with_an_expiry_is_valid_until_then(keys: Keys, stranger: FlaskClient, conn: Connection) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    status, printed = keys("create", "reports", "--scope", "read", "--expires-at", end.isoformat())
    assert status == 0
    assert f"valid until {end:%Y-%m-%dT%H:%M:%SZ}" in printed
    key = printed.splitlines()[-1]
    assert [key.expires_at for key in list_keys(conn)] == [end]
    assert ask(stranger, key) == 200
    conn.execute("update api_key set expires_at = now()")
    conn.commit()
    answer = stranger.get("/api/v1/batches", headers={"Authorization": f"Bearer {key}"})
    assert "expired" in problem_of(answer, 401, "unauthorized")["detail"]


@pytest.mark.parametrize("end", ["yesterday", "", "2026-01-01", "2020-01-01T00:00:00Z", "0", "NaN"])
def test_wrong_or_past_expiry_makes_no_key(keys: Keys, conn: Connection, end: str) -> None:
    status, printed = keys("create", "reports", "--scope", "read", "--expires-at", end)
    assert status == 2
    assert "--expires-at" in printed
    assert list_keys(conn) == []


def test_list_shows_prefix_expiry_and_last_use_but_no_key(keys: Keys, stranger: FlaskClient) -> None:
    end = "2099-12-31T00:00:00Z"
    key = keys("create", "reports", "--scope", "read", "--expires-at", end)[1].splitlines()[-1]
    keys("create", "dialer", "--scope", "queue")
    header, dialer, reports = keys("list")[1].splitlines()
    assert header.split() == ["NAME", "SCOPE", "PREFIX", "CREATED", "EXPIRES", "LAST", "USED"]
    assert dialer.split()[-2:] == ["never", "never"]
    assert reports.split()[2] == key[:11]
    assert reports.split()[-2:] == [end, "never"]
    assert key[12:] not in reports
    assert ask(stranger, key) == 200
    reports = keys("list")[1].splitlines()[2]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", reports.split()[-1])


def test_use_is_recorded_once_a_minute(keys: Keys, stranger: FlaskClient, conn: Connection) -> None:
    key = keys("create", "reports", "--scope", "read")[1].splitlines()[-1]

    def version() -> object:
        row = conn.execute("select xmin::text, last_used_at from api_key").fetchone()
        conn.commit()
        return row

    assert ask(stranger, key) == 200
    noted = version()
    assert [ask(stranger, key) for _ in range(5)] == [200] * 5
    assert version() == noted
    conn.execute("update api_key set last_used_at = now() - interval '2 minutes'")
    conn.commit()
    assert ask(stranger, key) == 200
    (stored,) = list_keys(conn)
    assert stored.last_used_at is not None
    assert datetime.now(UTC) - stored.last_used_at < timedelta(minutes=1)
