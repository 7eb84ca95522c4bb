"""A page of another origin uses the API in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.acceptance.service import Service
from tests.browser.conftest import FOREIGN_ORIGIN

pytestmark = pytest.mark.long

REQUEST = """async ([url, key, options]) => {
  const answer = await fetch(url, { ...options, headers: { Authorization: `Bearer ${key}`, ...options.headers } });
  return [answer.status, await answer.json(), answer.headers.get("Location")];
}"""


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def foreign(browser: Browser) -> Iterator[Page]:
    """A page of `FOREIGN_ORIGIN`."""
    with ThreadingHTTPServer(("127.0.0.1", int(FOREIGN_ORIGIN.rpartition(":")[2])), _EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(f"{FOREIGN_ORIGIN}/")
                yield page
        finally:
            server.shutdown()
            thread.join()


def ask(page: Page, service: Service, path: str, **options: Any) -> tuple[int, dict[str, Any], str | None]:
    status, body, location = page.evaluate(REQUEST, [service.url + path, service.key, options])
    return status, body, location


def test_page_of_an_allowed_origin_queues_and_reads(foreign: Page, service: Service) -> None:
    assert ask(foreign, service, "/api/v1/batches?limit=1")[0] == 200
    json = {"method": "POST", "headers": {"Content-Type": "application/json"}}
    body = '{"name": "from a page", "scope": "read"}'
    status, made, location = ask(foreign, service, "/api/v1/keys", **json, body=body)
    assert (status, made["name"], location is not None) == (201, "from a page", True)
    status, problem, _ = ask(foreign, service, "/api/v1/batches", **json, body="{}")
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    queued = foreign.evaluate(
        """async ([url, key]) => {
          const form = new FormData();
          form.append("csv", new Blob(["destination\\n6175551234\\n"]), "page.csv");
          form.append("application_id", "7");
          form.append("deployment_id", "3");
          const headers = { Authorization: `Bearer ${key}`, "Idempotency-Key": "from a page" };
          return (await fetch(url, { method: "POST", body: form, headers })).status;
        }""",
        [f"{service.url}/api/v1/batches", service.key],
    )
    assert queued in (201, 202)


def test_page_of_another_origin_cannot_read(foreign: Page, service: Service) -> None:
    foreign.goto(FOREIGN_ORIGIN.replace("localhost", "127.0.0.1"))
    failed = foreign.evaluate(
        "([url, key]) => fetch(url, { headers: { Authorization: `Bearer ${key}` } }).then(() => '', String)",
        [f"{service.url}/api/v1/batches", service.key],
    )
    assert "Failed to fetch" in failed


def test_cookies_are_never_allowed(foreign: Page, service: Service) -> None:
    failed = foreign.evaluate(
        "url => fetch(url, { credentials: 'include' }).then(() => '', String)", f"{service.url}/api/v1/batches"
    )
    assert "Failed to fetch" in failed
