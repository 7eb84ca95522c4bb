"""Wrong forms: other content types, broken, too large, repeated or unknown fields."""

from collections.abc import Iterator
from io import BytesIO

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from tests.web.asking import CSV, WANTED, faults_of, post_csv, post_parts, problem_of

FILE = ('name="csv"; filename="contacts.csv"', CSV.encode())
FIELDS = [(f'name="{name}"', text.encode()) for name, text in WANTED.items()]


@pytest.fixture(autouse=True)
def stored_names(conn: Connection) -> Iterator[list[str]]:
    """Names of the batches that the test expects to be stored. There must be no others."""
    names: list[str] = []
    yield names
    assert [name for (name,) in conn.execute("select name from batch order by batch_id")] == names


def test_handwritten_form_is_accepted(queuer: FlaskClient) -> None:
    answer = post_parts(queuer, [*FIELDS, FILE, ('name="dry_run"', b"1")])
    assert (answer.status_code, answer.get_json()["valid"]) == (200, 2)


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "text/csv", "application/x-www-form-urlencoded", "multipart/mixed; boundary=B"],
)
def test_other_content_types_are_415(queuer: FlaskClient, content_type: str) -> None:
    answer = queuer.post("/api/v1/batches", data=b"{}", headers={"Content-Type": content_type})
    assert "multipart/form-data" in problem_of(answer, 415, "unsupported_media_type")["detail"]


def test_missing_csv_is_a_fault(queuer: FlaskClient) -> None:
    for parts in ([], FIELDS, [*FIELDS, ('name="csv"', CSV.encode())], [*FIELDS, ('name="CSV"; filename="c"', b"")]):
        assert ("csv", "required") in faults_of(post_parts(queuer, parts))


def test_unknown_field_and_unknown_file_are_faults(queuer: FlaskClient) -> None:
    parts = [*FIELDS, FILE, ('name="callback"', b"1")]
    assert faults_of(post_parts(queuer, parts)) == [("callback", "unknown_field")]
    parts = [*FIELDS, FILE, ('name="voice"; filename="v.wav"', b"1")]
    assert faults_of(post_parts(queuer, parts)) == [("voice", "unknown_field")]


def test_repeated_field_or_file_is_a_fault(queuer: FlaskClient) -> None:
    assert faults_of(post_parts(queuer, [*FIELDS, FILE, FIELDS[0]])) == [("application_id", "repeated_field")]
    assert faults_of(post_parts(queuer, [*FIELDS, FILE, FILE])) == [("csv", "repeated_field")]
    assert faults_of(post_parts(queuer, [*FIELDS, FILE, ('name="csv"', b"")])) == [("csv", "repeated_field")]


WHOLE = b"--B\r\n" + b"\r\n--B\r\n".join(
    b"Content-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content
    for disposition, content in [*FIELDS, FILE]
)
"""A form without its closing boundary."""


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"nonsense", "multipart/form-data; boundary=B"),
        (WHOLE, "multipart/form-data; boundary=B"),
        (WHOLE[:-30], "multipart/form-data; boundary=B"),
        (WHOLE + b"\r\n--B--\r\n", "multipart/form-data; boundary=C"),
        (WHOLE + b"\r\n--B--\r\n", "multipart/form-data"),
        (WHOLE + b"\r\n--B--\r\n", "multipart/form-data; boundary="),
        (WHOLE + b"\r\n--B--\r\n", "multipart/form-data; boundary=\u00e9"),
        (WHOLE + b"\r\n--B\r\nnonsense\r\n\r\n1\r\n--B--\r\n", "multipart/form-data; boundary=B"),
        (WHOLE + b"\r\n--B\r\nContent-Disposition: form-data\r\n\r\n1\r\n--B--\r\n", "multipart/form-data; boundary=B"),
    ],
)
def test_broken_form_is_refused(queuer: FlaskClient, body: bytes, content_type: str) -> None:
    answer = queuer.post("/api/v1/batches", data=body, headers={"Content-Type": content_type})
    assert faults_of(answer) == [("body", "broken_form")]


def test_incomplete_form_is_refused(queuer: FlaskClient) -> None:
    answer = queuer.post(
        "/api/v1/batches",
        input_stream=BytesIO(WHOLE),
        headers={"Content-Type": "multipart/form-data; boundary=B"},
        environ_overrides={"CONTENT_LENGTH": str(len(WHOLE) + 9)},
    )
    assert answer.status_code in (400, 422)


def test_too_large_request_is_413(app: Flask, queuer: FlaskClient) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 1000
    problem = problem_of(post_csv(queuer, CSV + "6175551298,x\n" * 100), 413, "too_large")
    assert "At most 1,000 bytes are allowed" in problem["detail"]


def test_too_large_field_is_413(queuer: FlaskClient) -> None:
    problem_of(post_csv(queuer, name="x" * 400_000), 413, "too_large")


def test_too_many_fields_are_413(queuer: FlaskClient) -> None:
    problem_of(post_parts(queuer, [*FIELDS, FILE, *((f'name="f{n}"', b"") for n in range(200))]), 413, "too_large")


@pytest.mark.parametrize(
    "disposition",
    [
        "name=\"csv\"; filename*=utf-8''%00%1f%7fa.csv",
        "name=\"csv\"; filename*=utf-8''%ED%A0%80.csv",
        'name="csv"; filename="' + "x" * 500 + '"',
        'name="csv"; filename="..\\..\\a.csv"',
    ],
)
def test_strange_file_name_never_fails_the_batch(
    queuer: FlaskClient, stored_names: list[str], disposition: str
) -> None:
    answer = post_parts(queuer, [*FIELDS, (disposition, CSV.encode())])
    assert answer.status_code == 202
    name = answer.get_json()["name"]
    assert 1 <= len(name) <= 200 and name.isprintable()
    stored_names.append(name)


def test_field_that_is_not_utf_8_is_stored_with_replacement_characters(
    queuer: FlaskClient, stored_names: list[str]
) -> None:
    answer = post_parts(queuer, [*FIELDS, FILE, ('name="name"', b"Mai\xffl")])
    assert (answer.status_code, answer.get_json()["name"]) == (202, "Mai\ufffdl")
    stored_names.append("Mai\ufffdl")
