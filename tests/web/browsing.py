"""A viewer with a browser: requests pages like a browser, and sends forms with the values of the page."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from receiver.database.api_keys import Scope, create_key
from receiver.database.pool import Connection

ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Browser:
    """A client with cookies."""

    key = ""
    """The API key that was last entered to sign in."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()
        self.client.environ_base["HTTP_ACCEPT"] = ACCEPT

    def get(self, path: str, status: int = 200) -> str:
        """The page. Checks its status."""
        answer = self.client.get(path)
        assert answer.status_code == status, (answer.status_code, text_of(answer.text))
        return answer.text

    def token(self, path: str = "/login") -> str:
        """The CSRF token in the forms of a page."""
        return token_in(self.client.get(path).text)

    def post(self, path: str, *, form_at: str | None = None, **fields: str | tuple[BytesIO, str]) -> TestResponse:
        """Send the form of the page `form_at` (default: the page that it is sent to)."""
        # Encoded here, because the test client would put a large body into a file and leave it open.
        sent: dict[str, str | FileStorage] = {"csrf_token": self.token(form_at or path)}
        for name, value in fields.items():
            sent[name] = value if isinstance(value, str) else FileStorage(*value)
        boundary, body = encode_multipart(sent)
        return self.client.post(path, data=body, content_type=f"multipart/form-data; boundary={boundary}")

    def sign_in(self, key: str, onward: str = "") -> TestResponse:
        self.key = key
        return self.post("/login", key=key, next=onward)

    def copy(self, app: Flask) -> Browser:
        """Another browser with copies of the cookies."""
        other = Browser(app)
        cookie = self.client.get_cookie("receiver")
        assert cookie is not None
        other.client.set_cookie("receiver", cookie.value)
        return other


def visitor(app: Flask, conn: Connection, scope: Scope, name: str | None = None) -> Browser:
    """A browser that is signed in with a new key of this scope."""
    key = create_key(conn, name or f"{scope} of a person", scope)
    conn.commit()
    browser = Browser(app)
    answer = browser.sign_in(key)
    assert (answer.status_code, answer.location) == (303, "/"), answer.text
    return browser


def token_in(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found, page
    return unescape(found[1])


INLINE = frozenset({"a", "b", "bdi", "code", "i", "span", "strong", "time"})


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in INLINE:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag not in INLINE:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(page: str) -> str:
    """The text of a page without tags, with single spaces."""
    parser = _Text()
    parser.feed(page)
    return " ".join("".join(parser.parts).split())


def tags_of(page: str) -> list[str]:
    parser = _Text()
    parser.feed(page)
    return parser.tags
