"""Debian's Chromium, and pages in it that fail a test if the dashboards do something forbidden."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, Response, expect, sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PATIENCE_SECONDS = 60
"""Long, because the machine may be busy. On an idle machine nothing takes this long."""

_LOG_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI} ${event.sample}`);
});
"""

_OWN_SCHEMES = ("data:", "blob:", "about:")


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser that sends no requests of its own. Skips the test if Chromium is not installed."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=120_000)
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page with its own context, whose addresses are relative to `address`.

    Fails at the end if anything was written to the console, a script failed, a policy was violated, a dialog opened,
    another host got a request, or a request other than a navigation was answered with an error.
    """
    problems: list[str] = []
    context = browser.new_context(base_url=address, locale="en-US", timezone_id="America/New_York", **options)
    try:
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        context.add_init_script(_LOG_VIOLATIONS)
        _listen(context, address, problems)
        yield context.new_page()
    finally:
        context.close()
    assert not problems, "\n".join(problems)


def _listen(context: BrowserContext, address: str, problems: list[str]) -> None:
    def requested(request: Request) -> None:
        if not request.url.startswith((f"{address}/", *_OWN_SCHEMES)):
            problems.append(f"request to another host: {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            problems.append(f"{response.status} for {response.url}")

    def logged(kind: str, text: str) -> None:
        # The browser's own message about an error status, which `answered` has checked.
        if not text.startswith("Failed to load resource: the server responded with a status of"):
            problems.append(f"{kind}: {text}")

    def opened(dialog: Dialog) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    context.on("request", requested)
    context.on("response", answered)
    context.on("console", lambda message: logged(message.type, message.text))
    context.on("weberror", lambda error: problems.append(f"script failed: {error.error}"))
    context.on("dialog", opened)


def sign_in(page: Page, key: str) -> None:
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def sideways_scroll(page: Page) -> int:
    """How many CSS pixels the page can be scrolled sideways."""
    pixels: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(pixels, 0)
