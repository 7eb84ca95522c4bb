"""Exports as downloads: headers, file names, and clients that disconnect."""

from __future__ import annotations

import csv
import http.client
import json
import re
import socket
from contextlib import closing
from io import BytesIO, StringIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from receiver.web.api.exports import content_disposition
from tests.factories import answer_submissions, deliver, make_batch, phone_number, result_body
from tests.waiting import eventually
from tests.web.asking import faults_of, post_csv, problem_of
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
    for accepted in (
        FILES[file].partition(";")[0],
        "application/problem+json",
    ):  # generated clients send only the latter
        assert reader.get(path, headers={"Accept": accepted}).status_code == 200
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


@pytest.mark.parametrize("file", ["calls.csv", "calls.csv?latest=1", "calls.ndjson"])
def test_file_of_many_pieces_is_complete(conn: Connection, database_url: str, tmp_path: Path, file: str) -> None:
    lines = "".join(f"{phone_number(index)},{'x' * 100_000}\n" for index in range(80))
    csv_file = BytesIO(f"destination,note\n{lines}".encode())
    batch_id = accept(conn, csv_file, BatchParameters(7, 3), Limits(10_000, 3600)).batch_id
    key = create_key(conn, "reader", "read")
    conn.commit()
    with gunicorn(tmp_path, database_url) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with closing(connection):
            path = f"/api/v1/batches/{batch_id}/{file}"
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            assert connection.getresponse().read().count(b"\n") == 80 + file.startswith("calls.csv")


def lines_of(client: FlaskClient, path: str) -> list[list[str]]:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    return list(csv.reader(StringIO(answer.text, newline="")))


def rows_in(client: FlaskClient, batch_id: int, query: str) -> tuple[list[int], list[int]]:
    """The rows in CSV and in NDJSON."""
    path = f"batches/{batch_id}/calls"
    header, *rows = lines_of(client, f"{path}.csv?{query}")
    ndjson = client.get(f"/api/v1/{path}.ndjson?{query}").text.splitlines()
    return [int(row[header.index("row")]) for row in rows], [json.loads(line)["row"] for line in ndjson]


def test_exports_have_the_filters_of_the_list(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(4)])
    deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(2), "failed"))
    queries = {
        "state=final": [1, 3],
        "state=pending": [2, 4],
        "outcome=failed": [3],
        "state=pending&outcome=failed": [],
        f"phone_number={phone_number(3)}": [4],
        f"phone_number={phone_number(3)}&state=final": [],
        "": [1, 2, 3, 4],
    }
    for query, rows in queries.items():
        listed = reader.get(f"/api/v1/batches/{batch_id}/calls?{query}").json
        assert listed is not None and [call["row"] for call in listed["calls"]] == rows, query
        assert rows_in(reader, batch_id, query) == (rows, rows), query
    for file in ("csv", "ndjson"):
        answer = reader.get(f"/api/v1/batches/{batch_id}/calls.{file}?state=done&outcome=maybe&phone_number=")
        assert len(faults_of(answer)) == 3


def test_own_columns_are_exported_as_submitted_and_can_be_queued(queuer: FlaskClient, conn: Connection) -> None:
    text = 'destination,=name,note\r\n6175551234,=1+1,"a, b"\r\ntel:+16175551299,-x,\r\n'
    post_csv(queuer, text)
    answer = queuer.get("/api/v1/batches/1/calls.csv?columns=own")
    assert answer.text == text
    preview = post_csv(queuer, answer.text, dry_run="1").json
    assert preview is not None and (preview["valid"], preview["warnings"]) == (2, [])
    deliver(conn, 1, result_body(6175551234))
    assert queuer.get("/api/v1/batches/1/calls.csv?columns=own&outcome=completed").text.count("\r\n") == 2


def test_calls_of_all_batches_are_in_one_file(queuer: FlaskClient, conn: Connection) -> None:
    ids = []
    for number, city in enumerate(("Köln", "=Bonn")):
        labels = json.dumps({"city": city})
        csv_text = f"destination,n{number},x\n617555010{number},Zoë;,\n617555020{number},=1,\n"
        content = post_csv(queuer, csv_text, name=f"batch {number}", labels=labels, external_id=f"e{number}").json
        assert content is not None
        ids.append(content["id"])
    conn.commit()
    answer_submissions(conn)
    deliver(conn, ids[0], result_body(6175550100), result_body(6175550200, "failed"))
    header, *rows = lines_of(queuer, "calls.csv")
    assert header[:8] == [
        "batch_id", "batch_name", "external_id", "labels", "destination", "variables", "row", "phone_number",
    ]  # fmt: skip
    assert [row[:6] for row in rows] == [
        [str(ids[1]), "batch 1", "e1", '{"city":"=Bonn"}', "6175550101", '{"n1":"Zoë;","x":""}'],
        [str(ids[1]), "batch 1", "e1", '{"city":"=Bonn"}', "6175550201", '{"n1":"=1","x":""}'],
        [str(ids[0]), "batch 0", "e0", '{"city":"Köln"}', "6175550100", '{"n0":"Zoë;","x":""}'],
        [str(ids[0]), "batch 0", "e0", '{"city":"Köln"}', "6175550200", '{"n0":"=1","x":""}'],
    ]
    calls = [json.loads(line) for line in queuer.get("/api/v1/calls.ndjson").text.splitlines()]
    for row, call in zip(rows, calls, strict=True):
        assert (str(call["batch_id"]), call["batch_name"], call["external_id"]) == tuple(row[:3])
        assert (call["labels"], call["variables"]) == (json.loads(row[3]), json.loads(row[5]))
        found = dict(zip(header, row, strict=True))
        assert all(
            found[name] == ("" if call[name] is None else str(call[name])) for name in ("row", "outcome", "state")
        )
    created = {batch["id"]: batch["created_at"] for batch in queuer.get("/api/v1/batches").json["batches"]}  # type: ignore[index]
    for query, count in (
        ("label=city:K%C3%B6ln", 2),
        ("outcome=failed", 1),
        ("outcome=failed&label=city:%3DBonn", 0),
        ("application_id=7&deployment_id=3", 4),
        ("application_id=8", 0),
        (f"created_from={created[ids[1]]}", 2),
        (f"created_to={created[ids[1]]}", 2),
    ):
        assert len(lines_of(queuer, f"calls.csv?{query}")) == count + 1, query
        assert queuer.get(f"/api/v1/calls.ndjson?{query}").text.count("\n") == count, query
    assert len(faults_of(queuer.get("/api/v1/calls.csv?state=final&bom=x"))) == 2


def test_file_of_all_batches_has_cells_of_any_size(reader: FlaskClient, conn: Connection) -> None:
    text = ";=1" + 70_000 * "x"
    rows = f"destination,first,second\n{phone_number(0)},{text},{text}\n".encode()
    accept(conn, BytesIO(rows), BatchParameters(7, 3), Limits(10_000, 3600))
    conn.commit()
    file = reader.get("/api/v1/calls.csv").data.decode()
    csv.field_size_limit(1 << 20)
    try:
        (row,) = csv.DictReader(StringIO(file, newline=""))
    finally:
        csv.field_size_limit(1 << 17)
    assert row["variables"].count("x") == 140_000 and row["variables"].count(";'=1") == 2
