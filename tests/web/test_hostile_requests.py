"""Hostile requests to gunicorn with the project's settings: each is answered with a problem, none with 500."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receiver.database.api_keys import create_key
from receiver.database.pool import connect
from tests.conftest import fresh_database
from tests.web.gunicorn import Answered, Sender, gunicorn

Ask = Callable[..., Answered]

FORM = ("Content-Type: multipart/form-data; boundary=B", "Prefer: wait=0")
JSON = ("Content-Type: application/json",)


def part(disposition: str, content: bytes) -> bytes:
    return b"--B\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--B--\r\n"
CSV = part('name="csv"; filename="contacts.csv"', b"destination\n6175551234\n")
IDS = part('name="application_id"', b"7") + part('name="deployment_id"', b"3")
WHOLE = IDS + CSV + part('name="dry_run"', b"1") + END


@pytest.fixture(scope="module")
def ask(server_url: str, template: str, session_folder: Path) -> Iterator[Ask]:
    """Send a request with the key of an admin, and with a Content-Length unless it has one."""
    with fresh_database(server_url, template) as url:
        with closing(connect(url, name="test")) as conn:
            key = create_key(conn, "hostile", "admin")
            conn.commit()
        with gunicorn(Path(tempfile.mkdtemp(dir=session_folder)), url) as port:

            def send(method: str, path: str, *headers: str, body: bytes = b"", cut: bool = False) -> Answered:
                lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *headers]
                if not any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in headers):
                    lines.append(f"Content-Length: {len(body)}")
                with closing(Sender(port)) as sender:
                    sender.send("\r\n".join([*lines, "", ""]).encode("latin-1"), body)
                    if cut:
                        sender.finish_sending()
                    return sender.answer()

            yield send


def problem_of(answer: Answered, status: int, code: str) -> list[str]:
    """The codes of the faults in a problem answer."""
    content = json.loads(answer.body)
    assert (answer.status, content["status"], content["code"]) == (status, status, code), content
    assert "application/problem+json" in answer.head
    return [fault["code"] for fault in content.get("errors", [])]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"csv": "destination"}'),
        (("Content-Type: application/x-www-form-urlencoded",), b"application_id=7"),
        (("Content-Type: text/csv",), b"destination\n6175551234\n"),
        ((), b"destination\n6175551234\n"),
    ],
)
def test_other_content_type_than_a_form_is_415(ask: Ask, headers: tuple[str, ...], body: bytes) -> None:
    problem_of(ask("POST", "/api/v1/batches", *headers, body=body), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body", [b"", b"x", IDS + CSV, IDS + b"--B\r\nContent-Dispo", b"--B", WHOLE.replace(b"B", b"C")]
)
def test_invalid_form_is_a_fault(ask: Ask, body: bytes) -> None:
    assert problem_of(ask("POST", "/api/v1/batches", *FORM, body=body), 422, "invalid_parameters") == ["broken_form"]


def test_incomplete_form_is_a_fault(ask: Ask) -> None:
    answer = ask("POST", "/api/v1/batches", *FORM, "Content-Length: 5000", body=IDS + CSV, cut=True)
    assert answer.status in (400, 422)
    assert json.loads(answer.body)["code"] in ("bad_request", "invalid_parameters")


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nnonsense\r\n", b"-5\r\n", b"\r\n\r\n", b"5\r\nab", b"ffffffffffffffffff\r\nab"]
)
def test_broken_chunks_are_400(ask: Ask, chunks: bytes) -> None:
    for path, headers in (("/api/v1/batches", FORM), ("/api/v1/callbacks/replay", JSON)):
        answer = ask("POST", path, *headers, "Transfer-Encoding: chunked", body=chunks, cut=True)
        problem_of(answer, 400, "bad_request")


def test_complete_chunks_are_read(ask: Ask) -> None:
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE), WHOLE)
    assert ask("POST", "/api/v1/batches", *FORM, "Transfer-Encoding: chunked", body=chunked).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("application_id", value)
        for value in (b"NaN", b"1e400", b"9" * 400, b"-1", b"7.0", b"true", b"null", b"\xd9\xa3", b"7\0", b"1_0")
    ]
    + [
        ("end_timestamp", value)
        for value in (b"NaN", b"9" * 400, b"2099-13-01T00:00:00Z", b"2099-12-01", b"9999-12-31T23:59:59-23:59")
    ]
    + [("name", b"a\0b"), ("dry_run", b"yes"), ("on_invalid", b"maybe"), ("default_region", b"\xff\xfe")],
)
def test_wrong_values_are_faults_of_their_fields(ask: Ask, name: str, value: bytes) -> None:
    others = IDS.replace(part('name="application_id"', b"7"), b"") if name == "application_id" else IDS
    answer = ask("POST", "/api/v1/batches", *FORM, body=others + CSV + part(f'name="{name}"', value) + END)
    problem_of(answer, 422, "invalid_parameters")
    assert {fault["field"] for fault in json.loads(answer.body)["errors"]} == {name}


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (IDS + IDS + CSV, "repeated_field"),
        (IDS + CSV + CSV, "repeated_field"),
        (IDS + CSV + part('name="no"', b"1"), "unknown_field"),
        (IDS + part('name="csv"', b"destination\n6175551234\n"), "required"),
    ],
)
def test_repeated_unknown_and_misplaced_fields_are_faults(ask: Ask, parts: bytes, code: str) -> None:
    assert code in problem_of(ask("POST", "/api/v1/batches", *FORM, body=parts + END), 422, "invalid_parameters")


@pytest.mark.parametrize(
    "csv", [b"", b"destination\n6175\x00551234\n", bytes(range(256)) * 50, b"PK\x03\x04" + b"x" * 99]
)
def test_file_that_is_not_a_csv_is_a_fault(ask: Ask, csv: bytes) -> None:
    body = IDS + part('name="csv"; filename="../../contacts.csv"', csv) + END
    assert problem_of(ask("POST", "/api/v1/batches", *FORM, body=body), 422, "invalid_csv")


def test_too_large_requests_are_413(ask: Ask) -> None:
    many = b"".join(part(f'name="f{number}"', b"1") for number in range(200))
    for headers, body in (
        ((*FORM, "Content-Length: 2147483648"), b"--B"),
        (FORM, many + WHOLE),
        (FORM, part('name="name"', b"x" * (1 << 20)) + WHOLE),
    ):
        problem_of(ask("POST", "/api/v1/batches", *headers, body=body), 413, "too_large")
    long = b'{"ids": [' + b"1," * (1 << 20) + b"1]}"
    problem_of(ask("POST", "/api/v1/callbacks/replay", *JSON, body=long), 413, "too_large")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "not_json"),
        (b"[1]", "not_an_object"),
        (b'{"ids": [NaN]}', "not_a_number"),
        (b'{"ids": [-Infinity]}', "not_a_number"),
        (b'{"ids": [1e400]}', "not_a_number"),
        (b'{"ids": [' + b"9" * 5000 + b"]}", "not_json"),
        (b'{"ids": [' + b"9" * 30 + b"]}", "invalid"),
        (b'{"ids": [1.5]}', "invalid"),
        (b'{"ids": ["1"]}', "invalid"),
        (b'{"ids": []}', "invalid"),
        (b'{"ids": [1], "dry_run": "0"}', "invalid"),
        (b'{"ids": [1], "state": "applied"}', "required"),
        (b'{"ids": ' + b"[" * 100_000, "too_deep"),
        (b'{"ids": ' + b"[" * 5000 + b"]" * 5000 + b"}", "too_deep"),
        (b'{"state": "applied", "state": "duplicate"}', "repeated_field"),
        (b'{"state": "\\ud800"}', "unusable_text"),
        (b'{"\\ud800": 1}', "unusable_text"),
        (b'{"state": "a\\u0000"}', "unusable_text"),
        (b'{"state": "\xff"}', "not_json"),
        ('{"ids": [1]}'.encode("utf-16"), "not_json"),
        (b'\x1f\x8b\x08\x00"', "not_json"),
    ],
)
def test_hostile_json_is_refused_with_a_code(ask: Ask, body: bytes, code: str) -> None:
    assert code in problem_of(ask("POST", "/api/v1/callbacks/replay", *JSON, body=body), 422, "invalid_parameters")


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_unusable_idempotency_key_is_a_fault(ask: Ask, key: str) -> None:
    answer = ask("POST", "/api/v1/batches", *FORM, f"Idempotency-Key: {key}", body=IDS + CSV + END)
    assert problem_of(answer, 422, "invalid_parameters") == ["invalid"]


@pytest.mark.parametrize(
    "header",
    [
        "Prefer: wait=\xb2, wait=99999999999999999999, ;;",
        'If-None-Match: """,,W/"',
        "Cookie: session=\xff;;=;",
        "Accept-Encoding: gzip;q=NaN",
        "Range: bytes=9-1",
        "X-Forwarded-For: ',\xff",
    ],
)
def test_nonsense_in_other_headers_is_ignored(ask: Ask, header: str) -> None:
    assert ask("GET", "/api/v1/batches", header).status == 200
    assert ask("POST", "/api/v1/batches", *FORM, header, body=WHOLE).status == 200


def test_encoded_body_is_415(ask: Ask) -> None:
    assert ask("GET", "/api/v1/batches", "Content-Encoding: nonsense").status == 200
    answer = ask("POST", "/api/v1/batches", *FORM, "Content-Encoding: gzip", body=WHOLE)
    problem_of(answer, 415, "unsupported_media_type")


def test_unusable_accept_is_406(ask: Ask) -> None:
    for accept in ("text/html", ";;;q=z", "application/json;q=0"):
        problem_of(ask("GET", "/api/v1/batches", f"Accept: {accept}"), 406, "not_acceptable")


def test_invalid_http_is_refused_by_the_server(ask: Ask) -> None:
    """The server answers with problem details. The app does not see the request."""
    for status, path, headers in (
        (400, "/api/v1/batches", ("Content-Length: -5",)),
        (400, "/api/v1/batches", ("Content-Length: 5", "Content-Length: 6")),
        (400, "/api/v1/batches", ("Transfer-Encoding: chunked", "Content-Length: 4")),
        (400, "/api/v1/batches", ("X: a\0b",)),
        (414, "/api/v1/batches?name=" + "x" * 20_000, ()),
        (431, "/api/v1/batches", ("X: " + "x" * 100_000,)),
    ):
        answer = ask("POST", path, *headers)
        assert answer.status == status, (path[:40], headers)
        problem_of(answer, status, "bad_request")
