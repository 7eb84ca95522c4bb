"""Files as people have them over REST: a chosen column, workbooks, the rows as read, and the faulty rows."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from tests.factories import answer_submissions, deliver, result_body, settle_all
from tests.queueing.workbooks import ods, xlsx
from tests.web.asking import WANTED, count_batches, faults_of, post_csv, problem_of
from tests.web.gunicorn import gunicorn

TABLE: list[list[Any]] = [
    ["Name", "Städt", "Phone", "Account"],
    ["Björn", "Köln", 6175551234, 12.5],
    [None, "", None],
    ["Ana", "Łódź", "+1 617 555 1299", True],
    ["Zoë", "", 555, None],
    ["Eve", "x", 6175550188, 1234567890123456],
]
CSV_TABLE = "\r\n".join(";".join("" if cell is None else str(cell) for cell in row) for row in TABLE).encode()


def rows_of(answer: TestResponse) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.reader(StringIO(answer.text, newline="")))


def post_errors(client: FlaskClient, content: bytes, **fields: Any) -> TestResponse:
    return post_csv(client, content, path="/api/v1/batches/errors.csv", file_name="März, 1.xlsx", **fields)


@pytest.mark.parametrize("content", [xlsx(TABLE), ods(TABLE)])
def test_workbook_with_a_chosen_column_is_queued(queuer: FlaskClient, conn: Connection, content: bytes) -> None:
    answer = post_csv(queuer, content, file_name="list.xlsx", destination_column="Phone", on_invalid="skip")
    assert answer.status_code == 202, answer.text
    assert answer.json is not None and answer.json["counts"]["rows"] == 4
    columns, *lines = conn.execute("select columns from batch union all select array_agg(line order by row) from call")
    assert columns == (["Name", "Städt", "Account"],)
    assert lines == [(["6175551234,Björn,Köln,12.5", "+1 617 555 1299,Ana,Łódź,TRUE"],)]
    path = f"{answer.headers['Location']}/skipped.csv"
    assert [row[:-1] for row in rows_of(queuer.get(path))] == [
        ["destination", "Name", "Städt", "Account", "row", "code"],
        ["555", "Zoë", "", "", "3", "destination_invalid"],
        ["6175550188", "Eve", "x", "1.23456789012346e+15", "4", "digits_lost"],
    ]


def test_preview_shows_the_first_ten_rows_as_read(queuer: FlaskClient) -> None:
    mojibake = "Björn".encode().decode("cp1252")
    lines = ["name,phone", f"{mojibake},6175551234", "", *(f"n{n},61755501{n:02}" for n in range(20))]
    content = post_csv(queuer, "\n".join(lines), destination_column="phone", dry_run="1").json
    assert content is not None
    first, second = content["sample"][:2]
    assert first == {"row": 1, "line": 2, "destination": "6175551234", "variables": {"name": mojibake}}
    assert (second["row"], second["line"]) == (2, 4)
    assert len(content["sample"]) == 10


@pytest.mark.parametrize("content", [CSV_TABLE, xlsx(TABLE)])
@pytest.mark.parametrize("dry_run", "01")
def test_file_without_destination_names_the_columns_of_numbers(
    queuer: FlaskClient, conn: Connection, content: bytes, dry_run: str
) -> None:
    problem = problem_of(post_csv(queuer, content, dry_run=dry_run), 422, "invalid_csv")
    assert [error["code"] for error in problem["errors"]] == ["missing_destination"]
    assert problem["columns"] == [{"name": "Phone", "valid": 3, "cells": 4}]
    assert '"Phone" (3 of 4 cells)' in problem["detail"]
    other = problem_of(post_csv(queuer, content, destination_column="Fon"), 422, "invalid_csv")
    assert other["columns"] == problem["columns"] and 'no column "Fon"' in other["detail"]
    assert count_batches(conn) == 0


def test_row_of_numbers_is_no_header(queuer: FlaskClient) -> None:
    problem = problem_of(post_csv(queuer, "6175551234,Ana\n6175551299,Ben\n"), 422, "invalid_csv")
    assert problem["columns"] == []


@pytest.mark.parametrize(
    ("header", "chosen", "columns"),
    [
        ("name,Phone,phone", "phone", ["name", "Phone"]),
        ("name,Phone,x", " PHONE ", None),
        ("name,x,Destination", "destination", ["name", "x"]),
        (" destination ,a,b", "destination", None),
    ],
)
def test_chosen_column_is_found(queuer: FlaskClient, header: str, chosen: str, columns: list[str] | None) -> None:
    row = ",".join("6175551234" for _ in header.split(","))
    content = post_csv(queuer, f"{header}\n{row}\n", destination_column=chosen, dry_run="1").json
    assert content is not None and content["valid"] == 1, content
    assert columns is None or list(content["sample"][0]["variables"]) == columns


@pytest.mark.parametrize("header", ["destination,phone", "phone,name,DESTINATION ", "phone,phone"])
def test_chosen_column_beside_a_destination_is_refused(queuer: FlaskClient, header: str) -> None:
    row = ",".join("6175551234" for _ in header.split(","))
    for dry_run in "01":
        answer = post_csv(queuer, f"{header}\n{row}\n", destination_column="phone", dry_run=dry_run)
        assert faults_of(answer, "invalid_csv") == [("csv", "repeated_column_name")]


def test_errors_have_the_line_of_the_spreadsheet(queuer: FlaskClient) -> None:
    content = 'sep=;\n\ndestination;note\n6175551234;"two\nlines"\n;\n555;x\n'
    preview = post_csv(queuer, content, dry_run="1").json
    assert preview is not None
    problem = problem_of(post_csv(queuer, content), 422, "invalid_csv")
    for found in (preview["errors"], problem["errors"]):
        assert [(error["row"], error["line"]) for error in found] == [(2, 5)]


def test_all_faulty_rows_are_downloaded(queuer: FlaskClient, conn: Connection) -> None:
    content = "name,phone\nAna,6175551234\n\nBen,55,more\n=1+1,12\nZoë,6175551234\n" + "x,1\n" * 150
    answer = post_errors(queuer, content.encode(), destination_column="phone")
    header, *rows = rows_of(answer)
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"].endswith("filename*=UTF-8''M%C3%A4rz%2C%201%20errors.csv")
    assert header == ["destination", "name", "row", "line", "code", "message"]
    assert [row[:5] for row in rows[:3]] == [
        ["55", "Ben", "2", "4", "too_many_cells"],
        ["12", "'=1+1", "3", "5", "destination_invalid"],
        ["6175551234", "Zoë", "4", "6", "duplicate"],
    ]
    assert rows[0][6:] == ["more"]
    assert len(rows) == 153 and count_batches(conn) == 0


def test_corrected_faulty_rows_are_recognized(queuer: FlaskClient) -> None:
    text = post_errors(queuer, b"name,phone\n=1+1,12\nBen,55\n", destination_column="phone").text
    for content in (text, text.replace("\r\n55,", "\r\n6175551299,").replace("\r\n12,", "\r\n6175551234,")):
        preview = post_csv(queuer, content, dry_run="1").json
        assert preview is not None
        assert [warning["code"] for warning in preview["warnings"]] == ["exported_file"]
        assert [row["variables"] for row in preview["sample"]] == [{"name": "=1+1"}, {"name": "Ben"}]
        assert preview["valid"] == (0 if content is text else 2)


def test_faulty_rows_of_a_file_that_cannot_be_read_are_a_problem(queuer: FlaskClient, client_for: Any) -> None:
    problem_of(post_errors(queuer, b"phone\n6175551234\n"), 422, "invalid_csv")
    problem_of(post_errors(queuer, xlsx(TABLE)[:-100]), 422, "invalid_csv")
    problem_of(post_errors(client_for("read"), b"destination\n1\n"), 403, "forbidden")


def test_workbook_that_cannot_be_read_is_a_fault(queuer: FlaskClient, conn: Connection) -> None:
    for dry_run in "01":
        answer = post_csv(queuer, xlsx(TABLE, kind="sheet.macroEnabled"), dry_run=dry_run)
        assert faults_of(answer, "invalid_csv") == [("csv", "macro_workbook")]
    assert count_batches(conn) == 0


def test_same_workbook_and_key_are_the_same_batch(queuer: FlaskClient) -> None:
    content = xlsx(TABLE)  # a zip archive has the time at which it was made
    sent = [
        post_csv(queuer, content, destination_column="phone", on_invalid="skip", headers={"Idempotency-Key": "a"})
        for _ in range(2)
    ]
    assert sent[0].headers["Location"] == sent[1].headers["Location"]
    assert sent[1].headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("make", [xlsx, ods])
def test_own_exports_are_recognized_as_workbooks_and_with_a_chosen_column(
    queuer: FlaskClient, conn: Connection, make: Any
) -> None:
    content = "name,phone,formula\nAna,6175551234,=1+1\nBen,tel:+16175551299,-x\n"
    answer = post_csv(queuer, content, destination_column="phone")
    answer_submissions(conn)
    deliver(conn, 1, result_body(6175551234))
    settle_all(conn)
    table = rows_of(queuer.get(f"{answer.headers['Location']}/calls.csv"))
    moved = [["Number" if cell == "destination" else cell for cell in (*row[1:], row[0])] for row in table]
    numeric = [[int(cell) if cell.isdecimal() else cell for cell in row] for row in moved]
    for rows, chosen in ((table, ""), (moved, "number"), (numeric, "Number")):
        preview = post_csv(queuer, make(rows), dry_run="1", destination_column=chosen).json
        assert preview is not None
        assert [warning["code"] for warning in preview["warnings"]] == ["exported_file"], json.dumps(preview)
        assert [(row["destination"], row["variables"]) for row in preview["sample"]] == [
            ("6175551234", {"name": "Ana", "formula": "=1+1"}),
            ("tel:+16175551299", {"name": "Ben", "formula": "-x"}),
        ]


@pytest.mark.long
@pytest.mark.parametrize("entry_point", ["whole service", "another WSGI server"])
def test_workbook_of_five_thousand_rows_over_http(
    tmp_path: Path, conn: Connection, database_url: str, entry_point: str
) -> None:
    key = create_key(conn, "q", "queue")
    conn.commit()
    rows: list[list[Any]] = [["name", "city", "mobile"]]
    rows += [[f"Zoë {number}", "Köln", 6175550000 + number] for number in range(4990)]
    rows += [["x", None, 1e16 + number] for number in range(10)]
    content = xlsx(rows)
    with gunicorn(tmp_path, database_url, entry_point) as port, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"
        root = f"http://127.0.0.1:{port}/api/v1"

        def post(path: str, **fields: str) -> requests.Response:
            data = {**WANTED, **fields}
            return session.post(f"{root}/{path}", data=data, files={"csv": ("list.xlsx", content)}, timeout=120)

        assert post("batches").json()["columns"] == [{"name": "mobile", "valid": 4990, "cells": 5000}]
        faulty = post("batches/errors.csv", destination_column="mobile")
        assert faulty.status_code == 200 and faulty.text.count("digits_lost") == 10
        sent = post("batches", destination_column="mobile", on_invalid="skip", dry_run="0")
        assert sent.status_code == 202 and sent.json()["counts"]["skipped"] == 10, sent.text
        own = session.get(f"{root}/batches/{sent.json()['id']}/calls.csv?columns=own", timeout=60)
        assert own.headers["Content-Encoding"] == "gzip"
        assert own.content.decode() == "destination,name,city\r\n" + "".join(
            f"{phone},{name},{city}\r\n" for name, city, phone in rows[1:4991]
        )
        everything = session.get(f"{root}/calls.ndjson", timeout=60).content.decode().splitlines()
        assert [json.loads(line)["row"] for line in everything] == list(range(1, 4991))
