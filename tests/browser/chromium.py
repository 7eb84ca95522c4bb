"""Debian's Chromium, and pages in it that are watched for what no page of ours may do."""

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
"""What is waited for on a loaded machine; on an idle one, all of it is there at once."""

_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI} ${event.sample}`);
});
"""

_OWN_SCHEMES = ("data:", "blob:", "about:")


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser that asks nobody for anything by itself. Skips the test where there is none."""
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
    """A page in a context of its own, whose addresses are relative to `address`.

    At the end it must be true of all that happened in it: nothing was written to the console, no script failed, no
    policy was violated, no dialog came up, no other host was asked, and nothing but a page that was gone to was
    answered with an error.
    """
    complaints: list[str] = []
    context = browser.new_context(base_url=address, locale="en-US", timezone_id="America/New_York", **options)
    try:
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        context.add_init_script(_TELL_VIOLATIONS)
        _listen(context, address, complaints)
        yield context.new_page()
    finally:
        context.close()
    assert not complaints, "\n".join(complaints)


def _listen(context: BrowserContext, address: str, complaints: list[str]) -> None:
    def requested(request: Request) -> None:
        if not request.url.startswith((f"{address}/", *_OWN_SCHEMES)):
            complaints.append(f"another host was asked: {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            complaints.append(f"{response.status} for {response.url}")

    def wrote(kind: str, text: str) -> None:
        # The browser's own words about a status; `answered` has judged it.
        if not text.startswith("Failed to load resource: the server responded with a status of"):
            complaints.append(f"{kind}: {text}")

    def asked(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    context.on("request", requested)
    context.on("response", answered)
    context.on("console", lambda message: wrote(message.type, message.text))
    context.on("weberror", lambda error: complaints.append(f"script failed: {error.error}"))
    context.on("dialog", asked)


def sign_in(page: Page, key: str) -> None:
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def scroll_room(page: Page) -> int:
    """By how many CSS pixels the page can be scrolled sideways."""
    room: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(room, 0)
