"""The callback endpoint, with and without a real database."""

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.intake import writer
from receiver.intake.journal import Callback
from receiver.intake.packing import unpack
from receiver.intake.token import ResultTokens
from receiver.web.app import close_app, create_app
from receiver.web.services import Services
from tests.web.asking import SECRET, config_for, results_path

BODY = b'{"status": "completed"}'


@pytest.fixture
def sender(app: Flask) -> FlaskClient:
    return app.test_client()


def stored(conn: Connection) -> list[tuple[int, int, str, str, bytes]]:
    rows = conn.execute(
        "select batch_id, submission_no, content_type, content_encoding, packing, body from callback"
        " order by callback_id"
    ).fetchall()
    waiting = conn.execute("select count(*) from waiting").fetchone()
    assert waiting == (len(rows),)
    conn.rollback()
    return [(*columns, unpack(packing, body)) for *columns, packing, body in rows]


def test_body_is_stored_byte_for_byte_before_the_answer(sender: FlaskClient, conn: Connection) -> None:
    body = bytes(range(256))
    answer = sender.post(
        results_path(42, 3), data=body, headers={"Content-Type": "image/png", "Content-Encoding": "gzip"}
    )
    assert (answer.status_code, answer.data, answer.content_type) == (200, b'{"status": "stored"}', "application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert stored(conn) == [(42, 3, "image/png", "gzip", body)]


def test_any_content_type_is_accepted_and_nothing_is_parsed(sender: FlaskClient, conn: Connection) -> None:
    content_types = ["", "application/json", "application/x-www-form-urlencoded", "multipart/form-data", "n\u00f8n/s;;"]
    for content_type in content_types:
        answer = sender.post(results_path(), data=b"{[<%", headers={"Content-Type": content_type})
        assert answer.json == {"status": "stored"}
    assert [(kept, body) for *_, kept, _, body in stored(conn)] == [(each, b"{[<%") for each in content_types]


def test_long_content_type_is_cut_and_not_refused(sender: FlaskClient, conn: Connection) -> None:
    assert sender.post(results_path(), data=BODY, headers={"Content-Type": "x" * 9000}).status_code == 200
    assert stored(conn)[0][2] == "x" * 255


def test_trailing_slashes_make_no_difference(sender: FlaskClient, conn: Connection) -> None:
    for slashes in ("", "/", "//"):
        answer = sender.post(results_path(5) + slashes, data=BODY)
        assert (answer.status_code, answer.json) == (200, {"status": "stored"})
    assert [row[0] for row in stored(conn)] == [5, 5, 5]


def test_accept_header_and_query_make_no_difference(sender: FlaskClient) -> None:
    answer = sender.post(f"{results_path()}?x=%00", data=BODY, headers={"Accept": "text/html;q=0.1, application/pdf"})
    assert answer.json == {"status": "stored"}


def test_probe_is_answered_and_stores_nothing(
    sender: FlaskClient, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    probe, forged = (f"/results/{ResultTokens([secret]).sign_probe()}" for secret in (SECRET, "another secret"))
    assert [sender.get(probe).status_code, sender.head(probe).status_code, sender.post(probe).status_code] == [200] * 3
    assert [sender.post(probe, data=BODY).status_code, sender.post(forged).status_code] == [404, 404]
    assert stored(conn) == []
    assert "refused" not in caplog.text, "it is ourselves who ask"


def test_empty_body_is_answered_and_not_stored(sender: FlaskClient, conn: Connection) -> None:
    for length in ("0", ""):
        answer = sender.post(results_path(), environ_overrides={"CONTENT_LENGTH": length})
        assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    assert stored(conn) == []


def test_get_and_head_are_answered_and_nothing_is_stored(sender: FlaskClient, conn: Connection) -> None:
    assert sender.get(results_path()).json == {"status": "ok"}
    answer = sender.head(results_path())
    assert (answer.status_code, answer.data) == (200, b"")
    assert sender.get(results_path(), data=BODY).status_code == 200
    assert stored(conn) == []


def test_other_methods_are_405_with_allow(sender: FlaskClient, conn: Connection) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = sender.open(results_path(), method=method, data=BODY)
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert stored(conn) == []


def test_body_of_64_kib_is_stored_and_one_byte_more_is_413(sender: FlaskClient, conn: Connection) -> None:
    assert sender.post(results_path(), data=b"x" * 65536).status_code == 200
    assert sender.post(results_path(), data=b"x" * 65537).status_code == 413
    assert [len(body) for *_, body in stored(conn)] == [65536]


def test_content_length_above_the_limit_is_413(sender: FlaskClient, conn: Connection) -> None:
    for length in ("65537", "9" * 40):
        answer = sender.post(results_path(), data=BODY, environ_overrides={"CONTENT_LENGTH": length})
        assert answer.status_code == 413
    assert stored(conn) == []


@pytest.mark.parametrize("length", ["0000000000000000001073741824", "9" * 4301, "0" * 4301 + "65537"])
def test_content_length_with_leading_zeros_is_413(sender: FlaskClient, length: str) -> None:
    class Unread:
        def read(self, size: int) -> bytes:
            raise AssertionError(f"{size} bytes of a body too large were asked for")

    answer = sender.post(results_path(), environ_overrides={"CONTENT_LENGTH": length, "wsgi.input": Unread()})
    assert answer.status_code == 413


def test_chunked_body_that_the_server_does_not_decode_is_not_answered_200(
    sender: FlaskClient, conn: Connection
) -> None:
    """PEP 3333 has no chunked bodies: a server that does not decode them sets no `wsgi.input_terminated`."""
    undecoded = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": False, "CONTENT_LENGTH": ""}
    answer = sender.post(results_path(), data=BODY, environ_overrides=undecoded)
    assert (answer.status_code, answer.json) == (400, {"status": "incomplete"})
    assert stored(conn) == []


def test_body_shorter_than_its_content_length_is_not_stored(sender: FlaskClient, conn: Connection) -> None:
    assert len(BODY) == 23
    for length in ("24", "100", "\u00b2"):
        answer = sender.post(results_path(), data=BODY, environ_overrides={"CONTENT_LENGTH": length})
        assert (answer.status_code, answer.json) == (400, {"status": "incomplete"})
    assert stored(conn) == []


FORGED = [
    "",
    "x",
    "42-1",
    "42-1.AAAA",
    "%00",
    "%F0%9F%92%A3",
    "%2e%2e/api/v1/batches",
    results_path(secret="another secret, of somebody else")[9:],
    results_path()[9:-1],
    results_path()[9:] + "A",
    results_path()[9:].replace("1-1", "2-1"),
    results_path()[9:] + "/more",
    "x" * 5000,
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_forged_token_is_404_without_database_or_disk_access(
    app_without_database: Flask, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(callback: Callback) -> bool:
        raise AssertionError(f"{callback} was to be stored")

    services: Services = app_without_database.extensions["receiver"]
    monkeypatch.setattr(services.intake, "store", fail)
    services.pool.close()  # queries fail, so other requests are answered 503
    client = app_without_database.test_client()
    for token in FORGED:
        answer = client.open(f"/results/{token}", method=method, data=BODY)
        assert (answer.status_code, answer.json) == (404, {"status": "not_found"}), token
    assert not (tmp_path / "spool.sqlite3").exists()


def test_callback_is_stored_on_disk_while_the_database_is_unavailable(
    app_without_database: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 60)
    client = app_without_database.test_client()
    began = time.monotonic()
    for _ in range(5):
        assert client.post(results_path(42), data=BODY).json == {"status": "stored"}
    assert time.monotonic() - began < 30
    with sqlite3.connect(tmp_path / "spool.sqlite3") as spool:
        rows = spool.execute("select batch_id, body from spooled").fetchall()
    spool.close()
    assert rows == [(42, BODY)] * 5


def test_503_with_retry_after_if_neither_database_nor_spool_can_store(
    app_without_database: Flask, tmp_path: Path
) -> None:
    (tmp_path / "spool.sqlite3").mkdir()
    client = app_without_database.test_client()
    answer = client.post(results_path(), data=BODY)
    assert (answer.status_code, answer.json) == (503, {"status": "unavailable"})
    assert int(answer.headers["Retry-After"]) > 0
    assert client.post(results_path(), data=b"").status_code == 200
    assert client.get(results_path()).status_code == 200


def test_token_is_valid_after_the_secret_key_was_renewed(tmp_path: Path, database_url: str) -> None:
    config = replace(config_for(tmp_path, database_url), secret_keys=("the secret that signs from now on", SECRET))
    app = create_app(config, database_url)
    try:
        assert app.test_client().get(results_path()).status_code == 200
        assert app.test_client().get(results_path(secret=config.secret_keys[0])).status_code == 200
    finally:
        close_app(app)
