"""`/docs` in a real browser: it needs no other host, violates no policy, and calls the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.acceptance.service import Service
from tests.browser.calls import Populated
from tests.browser.chromium import sideways_scroll, watched
from tests.browser.test_every_page import PHONE, WIDE, violations

pytestmark = pytest.mark.long


@pytest.fixture
def reference(browser: Browser, service: Service) -> Iterator[Page]:
    with watched(browser, service.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        answer = page.goto("/docs")
        assert answer is not None and answer.status == 200
        assert "unsafe" not in answer.headers["content-security-policy"]
        expect(page.locator(".opblock").first).to_be_visible()
        yield page


def test_reference_shows_every_operation_and_needs_no_other_host(reference: Page) -> None:
    described = reference.request.get("/openapi.json").json()
    operations = [operation for item in described["paths"].values() for operation in item if operation != "parameters"]
    expect(reference.locator(".opblock")).to_have_count(len(operations))
    # One of each section: Swagger UI needs seconds for each.
    for section in reference.locator(".opblock-tag-section").all():
        section.locator(".opblock-summary-control").first.click()
        expect(section.locator(".opblock.is-open .responses-wrapper")).to_be_visible()
        section.locator(".opblock-summary-control").first.click()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_reference_is_accessible_in_both_themes(
    browser: Browser, service: Service, theme: Literal["light", "dark"]
) -> None:
    settings: dict[str, Any] = {"color_scheme": theme, "reduced_motion": "reduce"}
    with watched(browser, service.url, **settings, viewport=WIDE) as page:
        page.goto("/docs")
        for operation in ("batches-queue_batch", "calls-list_calls"):
            page.locator(f"#operations-{operation} .opblock-summary-control").click()
            expect(page.locator(f"#operations-{operation} .responses-wrapper")).to_be_visible()
        assert violations(page) == []
        page.set_viewport_size(PHONE)
        assert (violations(page), sideways_scroll(page)) == ([], 0)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(28, 32, 34)") == (theme == "dark")


def enter_key(page: Page, key: str) -> None:
    page.get_by_role("button", name="Authorize").first.click()
    # This window has a form for each way to authenticate.
    form = page.locator(".auth-container", has=page.get_by_role("heading", name="ApiKey"))
    form.get_by_label("auth-bearer-value").fill(key)
    form.get_by_role("button", name="Apply credentials").click()
    form.get_by_role("button", name="Close").click()


def test_operation_can_be_tried_with_a_key(reference: Page, populated: Populated) -> None:
    page = reference
    batch_id = populated.settled
    enter_key(page, populated.reader)
    block = page.locator("#operations-batches-get_batch")
    block.locator(".opblock-summary-control").click()
    block.get_by_placeholder("batch_id").fill(str(batch_id))
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer).to_contain_text("200")
    expect(answer).to_contain_text(f'"id": {batch_id}')


def test_csv_can_be_uploaded_from_the_page(reference: Page, service: Service) -> None:
    page = reference
    enter_key(page, service.key)
    block = page.locator("#operations-batches-queue_batch")
    block.locator(".opblock-summary-control").click()
    contacts = FilePayload(name="contacts.csv", mimeType="text/csv", buffer=b"destination\n6175551234\n")
    block.locator("input[type=file]").set_input_files(contacts)
    block.get_by_placeholder("Prefer").fill("wait=0")
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer).to_contain_text("202")


def test_samples_are_shown_in_three_languages(reference: Page) -> None:
    block = reference.locator("#operations-batches-queue_batch")
    block.locator(".opblock-summary-control").click()
    samples = block.locator(".samples")
    for language, text in {
        "curl": "-F csv=@contacts.csv",
        "Python": "requests.post(",
        "PHP": "new CURLFile(",
        "JavaScript": "new FormData(",
    }.items():
        samples.get_by_role("button", name=language, exact=True).click()
        expect(samples.locator("pre")).to_contain_text(text)
    samples.get_by_role("button", name="Copy").click()
    expect(samples.get_by_role("button", name="Copied")).to_be_visible()
    assert "new FormData(" in reference.evaluate("navigator.clipboard.readText()")
