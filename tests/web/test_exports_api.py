"""Exports as downloads: headers, file names, and clients that disconnect."""

from __future__ import annotations

import csv
import json
import re
import socket
from io import StringIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.web.api.exports import content_disposition
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.waiting import eventually
from tests.web.asking import faults_of, problem_of
from tests.web.gunicorn import gunicorn

FILES = {
    "calls.csv": "text/csv; charset=utf-8; header=present",
    "skipped.csv": "text/csv; charset=utf-8; header=present",
    "calls.ndjson": "application/x-ndjson",
}


@pytest.fixture
def batch_id(conn: Connection) -> int:
    batch_id = make_batch(
        conn, [phone_number(0), "nobody", phone_number(1)], on_invalid="skip", name="Erinnerung Dez. 2026.csv"
    )
    deliver(conn, batch_id, result_body(phone_number(0)))
    return batch_id


@pytest.mark.parametrize("file", FILES)
def test_file_is_a_download_and_head_has_the_same_headers(reader: FlaskClient, batch_id: int, file: str) -> None:
    answer = reader.get(f"/api/v1/batches/{batch_id}/{file}")
    assert (answer.status_code, answer.content_type) == (200, FILES[file])
    name = f"Erinnerung Dez. 2026 {batch_id} {file}"
    assert answer.headers["Content-Disposition"] == content_disposition(name)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.data
    head = reader.head(f"/api/v1/batches/{batch_id}/{file}")
    assert (head.status_code, head.data) == (200, b"")
    assert not {"ETag", "Content-Length"} & set(head.headers.keys())
    for name in ("Content-Type", "Content-Disposition", "Cache-Control"):
        assert head.headers[name] == answer.headers[name]


def test_csv_has_the_values_of_the_calls(reader: FlaskClient, batch_id: int) -> None:
    text = reader.get(f"/api/v1/batches/{batch_id}/calls.csv").text
    rows = list(csv.DictReader(StringIO(text, newline="")))
    listed = reader.get(f"/api/v1/batches/{batch_id}/calls").json
    assert listed is not None and len(rows) == len(listed["calls"]) == 2
    for row, call in zip(rows, listed["calls"], strict=True):
        assert row["destination"] == call["destination"]
        assert row["name"] == call["variables"]["name"]
        for name in ("row", "phone_number", "state", "outcome", "provider_status", "attempts", "max_attempts"):
            assert row[name] == ("" if call[name] is None else str(call[name]))
        for name in ("queued_at", "started_at", "ended_at", "result_received_at"):
            assert row[name] == re.sub(r"\.\d+", "", call[name] or "")


def test_lines_of_ndjson_equal_the_calls_of_the_list(reader: FlaskClient, batch_id: int) -> None:
    lines = reader.get(f"/api/v1/batches/{batch_id}/calls.ndjson").text.splitlines()
    listed = reader.get(f"/api/v1/batches/{batch_id}/calls").json
    assert listed is not None
    assert [json.dumps(json.loads(line)) for line in lines] == [json.dumps(call) for call in listed["calls"]]
    assert listed["calls"][0]["events"]


def test_byte_order_mark_comes_first_if_requested(reader: FlaskClient, batch_id: int) -> None:
    for file in ("calls.csv", "skipped.csv"):
        path = f"/api/v1/batches/{batch_id}/{file}"
        plain = reader.get(path).data
        assert plain.startswith(b"destination,")
        assert reader.get(f"{path}?bom=0").data == plain
        assert reader.get(f"{path}?bom=1").data == b"\xef\xbb\xbf" + plain


@pytest.mark.parametrize("file", FILES)
def test_missing_batch_and_unknown_parameter_are_refused(reader: FlaskClient, batch_id: int, file: str) -> None:
    problem_of(reader.get(f"/api/v1/batches/99/{file}"), 404, "not_found")
    assert reader.head(f"/api/v1/batches/99/{file}").status_code == 404
    path = f"/api/v1/batches/{batch_id}/{file}"
    assert faults_of(reader.get(f"{path}?limit=1")) == [("limit", "unknown_field")]
    problem_of(reader.get(path, headers={"Accept": "application/json"}), 406, "not_acceptable")
    assert reader.get(path, headers={"Accept": FILES[file].partition(";")[0]}).status_code == 200
    problem_of(reader.post(path), 405, "method_not_allowed")


def test_bom_is_0_or_1(reader: FlaskClient, batch_id: int) -> None:
    for bom in ("yes", "", "2"):
        answer = reader.get(f"/api/v1/batches/{batch_id}/calls.csv?bom={bom}")
        assert faults_of(answer) == [("bom", "invalid")]


@pytest.mark.parametrize(
    ("batch_name", "stem"),
    [
        ("Žluťoučký kůň", "Žluťoučký kůň"),
        ('a/b\\c:d"e<f>g|h?i*j', "a_b_c_d_e_f_g_h_i_j"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("お知らせ.CSV", "お知らせ"),
        ("\U0001f600 100% done; yes", "\U0001f600 100% done; yes"),
        ("x" * 200, "x" * 100),
        ("'; filename=evil.exe", "'; filename=evil.exe"),
        (" . ", ""),
    ],
)
def test_file_has_the_name_of_the_batch(reader: FlaskClient, conn: Connection, batch_name: str, stem: str) -> None:
    batch_id = make_batch(conn, name=batch_name)
    header = reader.get(f"/api/v1/batches/{batch_id}/calls.csv").headers["Content-Disposition"]
    match = re.fullmatch(
        r"attachment; filename=\"([A-Za-z0-9 ._()-]+)\"; filename\*=UTF-8''([!#$%&+.^_`|~A-Za-z0-9-]+)", header
    )
    assert match is not None, header
    assert unquote(match[2], errors="strict") == f"{stem} {batch_id} calls.csv".strip()
    assert match[1].endswith(f"{batch_id} calls.csv")


@pytest.mark.long
def test_disconnected_reader_leaves_no_connection_busy(conn: Connection, database_url: str, tmp_path: Path) -> None:
    keys = [create_key(conn, name, "read") for name in ("reader", "another reader")]  # eight requests each
    batch_id = make_batch(conn)
    # 15 MB: more than fits into the sockets' buffers.
    conn.execute(
        "insert into call select batch_id, 16180000000 + n, n, 1, line || repeat('x', 1500)"
        " from call, generate_series(2, 10000) n where batch_id = %s",
        (batch_id,),
    )
    conn.execute("update batch_count set rows = 10000 where batch_id = %s", (batch_id,))
    conn.commit()

    def connections() -> tuple[int, int]:
        """(connections of the web process, those of them that are not idle)"""
        row = conn.execute(
            "select count(*), count(*) filter (where state <> 'idle') from pg_stat_activity"
            " where application_name = 'receiver web' and datname = current_database()"
        ).fetchone()
        conn.commit()
        assert row is not None
        return row[0], row[1]

    path = f"/api/v1/batches/{batch_id}/calls.csv"
    requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode() for key in keys]
    with gunicorn(tmp_path, database_url) as port:
        readers = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(14)]
        for number, reader in enumerate(readers):
            reader.sendall(requests[number % 2])
        for reader in readers:
            assert reader.recv(1000).startswith(b"HTTP/1.1 200")
        # Slow readers hold no connection: there are more readers than connections.
        eventually(lambda: connections()[1] == 0)
        assert connections()[0] <= 10
        for reader in readers[:13]:
            reader.close()
        rest = readers[13].makefile("rb").read
        received = 0
        while received < 15_000_000:
            received += len(rest(1 << 16))
        readers[13].close()
        eventually(lambda: connections()[1] == 0)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as again:
            again.sendall(requests[0])
            assert again.recv(1000).startswith(b"HTTP/1.1 200")
