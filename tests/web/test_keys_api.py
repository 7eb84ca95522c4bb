"""Keys that the command line and the API create and the API accepts."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.cli import main
from receiver.database.api_keys import list_keys
from receiver.database.pool import Connection
from tests.web.asking import SECRET, faults_of, problem_of
from tests.web.conftest import ClientFor

Keys = Callable[..., tuple[int, str]]


@pytest.fixture
def keys(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Keys:
    """Run `keys …`. Returns the exit status and the output without the line about the database."""
    for name, text in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "SECRET_KEY": SECRET}.items():
        monkeypatch.setenv(name, text)

    def run(*arguments: str) -> tuple[int, str]:
        try:
            status = main(["keys", *arguments])
        except SystemExit as ended:  # a wrong argument
            status = int(ended.code or 0)
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


PATH = "/api/v1/keys"


def test_key_made_over_rest_is_listed_works_and_ends_when_it_is_revoked(
    client_for: ClientFor, stranger: FlaskClient, conn: Connection
) -> None:
    admin = client_for("admin")
    made = admin.post(PATH, json={"name": "nightly job/1", "scope": "read", "expires_at": "2099-12-01T22:00:00Z"})
    assert made.status_code == 201, made.text
    content = made.get_json()
    key = content.pop("key")
    assert key.startswith(f"rr_{content['prefix']}_")
    assert content.pop("created_at").endswith("Z")
    shown = {"name": "nightly job/1", "scope": "read", "expires_at": "2099-12-01T22:00:00Z", "last_used_at": None}
    assert content == shown | {"prefix": content["prefix"]}
    assert ask(stranger, key) == 200

    listed = admin.get(PATH).get_json()
    assert [each["name"] for each in listed["keys"]] == ["nightly job/1", "admin key"]
    assert listed["keys"][0]["last_used_at"] is not None and "key" not in listed["keys"][0]
    first = admin.get(f"{PATH}?limit=1").get_json()
    rest = admin.get(f"{PATH}?limit=1&cursor={first['next_cursor']}").get_json()
    assert first["keys"] + rest["keys"] == listed["keys"] and rest["next_cursor"] is None

    assert admin.delete(made.headers["Location"]).status_code == 204
    assert ask(stranger, key) == 401
    problem_of(admin.delete(made.headers["Location"]), 404, "not_found")
    problem_of(admin.delete(f"{PATH}/a%00b"), 404, "not_found")
    changes = [
        (change.actor, change.action, change.details["name"]) for change in list_changes(conn, ChangeFilter(), 9)
    ]
    assert changes == [("admin key", "revoke_key", "nightly job/1"), ("admin key", "make_key", "nightly job/1")]


def test_key_over_rest_needs_a_free_name_a_scope_and_a_later_expiry(client_for: ClientFor) -> None:
    admin = client_for("admin")
    problem_of(admin.post(PATH, json={"name": "admin key", "scope": "read"}), 409, "key_name_taken")
    faults = faults_of(admin.post(PATH, json={"name": "\u200b", "scope": "root", "owner": "Ana"}))
    assert sorted(faults) == [("owner", "unknown_field"), ("scope", "invalid")]
    assert faults_of(admin.post(PATH, json={"name": "\u200b", "scope": "read"})) == [("name", "invalid")]
    late = admin.post(PATH, json={"name": "late", "scope": "read", "expires_at": "2020-01-01T00:00:00Z"})
    assert faults_of(late) == [("expires_at", "in_the_past")]
    problem_of(client_for("queue").get(PATH), 403, "forbidden")
