"""Injection: hostile values in every parameter, in paths, headers and file names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.web.asking import post_csv
from tests.web.browsing import Browser
from tests.web.conftest import ClientFor

PAYLOADS = [
    "'",
    "''",
    '"',
    "\\",
    "\\'",
    "%",
    "%%",
    "_",
    "%s",
    "%(id)s",
    "{0}",
    "--",
    "/*",
    "1' or '1'='1",
    "1 or 1=1",
    "1) or (1=1",
    "x'; drop table batch; --",
    "x' union select 1,2,3 --",
    "1; select pg_sleep(9)",
    "$$; select pg_sleep(9); $$",
    "E'\\x27'",
    "\u02bc or 1=1",
    "\uff07 or 1=1",
    "1e1",
    "0x1",
    "{{7*7}}",
    "${7*7}",
    "../../etc/passwd",
    "\r\nSet-Cookie: planted=1",
    "<script>alert(1)</script>",
    "a" * 5000,
]

LITERAL = {"plain": "Reminders", "percent": "100% sure", "under": "a_b", "back": "back\\slash", "quote": "O'Brien; --"}
"""Batch names with characters that have a meaning in SQL."""


@pytest.fixture
def batches(app: Flask, conn: Connection) -> dict[str, int]:
    made = {kind: make_batch(conn, [phone_number(at)], name=name) for at, (kind, name) in enumerate(LITERAL.items())}
    deliver(conn, made["plain"], result_body(phone_number(0)), b"nonsense")
    conn.commit()
    return made


def asked_with(client: FlaskClient) -> Iterator[tuple[str, str, str]]:
    """(path, where, name) of each parameter of each GET in the API's own description."""
    described: dict[str, Any] = client.get("/openapi.json").json or {}
    shared = described["components"].get("parameters", {})
    for path, operations in described["paths"].items():
        if path.startswith("/api/") and "get" in operations:
            for each in (*operations.get("parameters", ()), *operations["get"].get("parameters", ())):
                found = shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
                yield path, found["in"], found["name"]


def rows_of(answer: Any) -> int:
    """The number of rows in an answer."""
    if answer.is_json:
        return sum(len(member) for member in answer.json.values() if isinstance(member, list))
    return max(len(answer.data.splitlines()) - 1, 0)


@pytest.mark.long
def test_no_api_parameter_is_executed_as_sql(client_for: ClientFor, batches: dict[str, int], conn: Connection) -> None:
    client = client_for("admin")
    asked = list(asked_with(client))
    assert len(asked) > 25 and {where for _, where, _ in asked} >= {"path", "query", "header"}
    for path, where, name in asked:
        filled = re.sub(r"\{(\w+)\}", lambda found: "1" if found[1] == "row" else str(batches["plain"]), path)
        for payload in PAYLOADS:
            address, headers = filled, {}
            if where == "path":
                address = re.sub(
                    r"\{(\w+)\}", str(batches["plain"]), path.replace(f"{{{name}}}", quote(payload, safe=""))
                )
            elif where == "query":
                address = f"{filled}?{urlencode({name: payload})}"
            elif payload.isascii() and "\n" not in payload:
                headers = {name: payload}
            answer = client.get(address, headers=headers)
            assert answer.status_code in (200, 404, 422), (address, answer.text)
            if answer.status_code == 200 and where != "header":
                held = [each for each in LITERAL.values() if name == "name" and payload.lower() in each.lower()]
                assert rows_of(answer) == len(held), (address, answer.text)
            assert "planted" not in answer.headers.get("Set-Cookie", "")
    assert conn.execute("select count(*) from batch").fetchone() == (len(LITERAL),)


def test_pattern_characters_in_a_name_are_searched_literally(reader: FlaskClient, batches: dict[str, int]) -> None:
    for kind, sign in {"percent": "%", "under": "_", "back": "\\", "quote": "'"}.items():
        found = reader.get("/api/v1/batches", query_string={"name": sign})
        assert [each["id"] for each in (found.json or {})["batches"]] == [batches[kind]], sign


@pytest.mark.long
def test_no_page_parameter_is_executed_as_sql(admin_at: Browser, batches: dict[str, int]) -> None:
    batch_id = batches["plain"]
    for path, names in {
        "/": ("application_id", "deployment_id", "from", "to", "interval", "span"),
        "/batches": ("state", "name", "application_id", "deployment_id", "created_from", "created_to", "cursor"),
        f"/batches/{batch_id}": ("state", "outcome", "phone_number", "cursor", "attempts"),
        "/callbacks": ("state", "batch_id", "cursor"),
        "/login": ("next",),
        "/time-zone": ("next",),
    }.items():
        for name in names:
            for payload in PAYLOADS:
                answer = admin_at.client.get(f"{path}?{urlencode({name: payload})}")
                assert answer.status_code in (200, 303, 404, 422), (path, name, payload, answer.status_code)
                assert "<script>alert" not in answer.text
                assert not (answer.location or "").startswith(("http", "//")), answer.location
                assert "planted" not in "".join(answer.headers.getlist("Set-Cookie"))


@pytest.mark.parametrize(
    "path",
    [
        "/docs/{}",
        "/docs/../{}",
        "/static/0000000000000000/{}",
        "/static/{}",
        "/{}",
        "/api/v1/{}",
        "/results/{}",
    ],
)
def test_path_traversal_is_404(admin_at: Browser, path: str) -> None:
    for way in ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..\\", "..%5c", "....//", "..;/", "%252e%252e%252f", "/"):
        for wanted in ("etc/passwd", "app.py", "receiver/config.py", "secret-key"):
            answer = admin_at.client.get(path.format(way * 6 + wanted))
            assert answer.status_code in (303, 308, 404), (path, way, wanted)
            assert b"root:" not in answer.data and b"import " not in answer.data
            assert not re.match(r"https?:|//", (answer.location or "").removeprefix("http://localhost"))


NAMES = [
    'a"; filename="evil.exe',
    "a\u2028b",
    "..\\..\\evil.bat",
    "../../etc/passwd",
    "=cmd|'/c calc'!A1",
    "ünï©ode \U0001f642",
    "\u202etxt.exe",
    ".htaccess",
    "a" * 200,
]


@pytest.mark.parametrize("name", NAMES)
def test_batch_name_cannot_inject_headers(queuer: FlaskClient, name: str) -> None:
    made = post_csv(queuer, name=name)
    assert made.status_code == 202, made.text
    for what in ("calls.csv", "calls.ndjson", "skipped.csv"):
        header = queuer.get(f"{made.location}/{what}").headers["Content-Disposition"]
        assert re.fullmatch(
            r"attachment; filename=\"[A-Za-z0-9 ._()-]+\"; filename\*=UTF-8''[A-Za-z0-9!#$&+.^_`|~%-]+", header
        )
        assert not re.search(r'filename="[.]|%(0[0-9a-f]|1[0-9a-f]|2F|5C|7F)', header, re.IGNORECASE), header


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: planted=1", "a\nb", "a\rb", "a\0b"])
def test_name_with_line_ends_is_refused_or_cleaned(queuer: FlaskClient, name: str) -> None:
    made = post_csv(queuer, name=name)
    if made.status_code == 202:
        header = queuer.get(f"{made.location}/calls.csv").headers["Content-Disposition"]
        assert not re.search(r"[\r\n\0]|%0[AD0]", header)
    else:
        assert made.status_code == 422


def test_host_header_is_not_used_in_addresses(queuer: FlaskClient, app: Flask) -> None:
    """Otherwise a stored or cached link could lead to another host."""
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    made = post_csv(queuer, headers=evil)
    answers = [made, queuer.get(made.location or "", headers=evil), queuer.get("/openapi.json", headers=evil)]
    browser = Browser(app)
    answers += [
        browser.client.get(path, headers=evil) for path in ("/", "/login", "/batches?name=x", "/docs", "/nowhere")
    ]
    for answer in answers:
        assert "evil.example" not in answer.text
        assert not any("evil.example" in value for _, value in answer.headers), answer.headers
