"""Rules for every page: it is accessible, fits a small screen, and hostile texts on it do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, ViewportSize, expect

from tests.browser.calls import FORMULA, NUMBERS, PICTURE, SCRIPT, Populated, hostile_contacts
from tests.browser.chromium import sideways_scroll, sign_in, watched
from tests.browser.layout import layout_faults
from tests.browser.tour import tour

pytestmark = pytest.mark.long

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
NARROWEST = ViewportSize(width=320, height=640)
PHONE = ViewportSize(width=390, height=844)
TABLET = ViewportSize(width=965, height=700)
"""The narrowest page whose tables have columns."""
WIDE = ViewportSize(width=1440, height=900)


def violations(page: Page, rules: Sequence[str] = RULES) -> list[Any]:
    """The violations that axe finds: rule and elements. By default for WCAG 2.2 AA and best practice."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    # At the end of the page, the main button of a form covers no other control.
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    found: list[Any] = page.evaluate(
        """async (rules) => {
          const {violations} = await axe.run(document, {runOnly: rules, resultTypes: ["violations"]});
          return violations.map(({id, nodes}) => [id, nodes.map(({html, failureSummary}) => [html, failureSummary])]);
        }""",
        rules,
    )
    return found


def test_no_page_violates_a_rule_of_axe_breaks_its_layout_or_scrolls_sideways_on_a_small_screen(
    browser: Browser, populated: Populated
) -> None:
    found: dict[str, list[Any]] = {}
    # Without motion: during a transition, colors belong to neither color scheme.
    settings: dict[str, Any] = {"color_scheme": "light", "reduced_motion": "reduce", "viewport": WIDE}
    with watched(browser, populated.service.url, **settings) as page:
        for name in tour(page, populated):
            page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
            found[name] = violations(page) + layout_faults(page)
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size(PHONE)
            found[name] += violations(page) + layout_faults(page)
            page.emulate_media(color_scheme="light")
            for size in (NARROWEST, TABLET):
                page.set_viewport_size(size)
                if pixels := sideways_scroll(page):
                    found[name].append(f"scrolls sideways by {pixels} pixels at {size}")
            page.set_viewport_size(WIDE)
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert len(found) > 20


def test_header_is_one_line_on_a_laptop_and_folded_on_a_phone(admin_page: Page) -> None:
    page = admin_page
    page.set_viewport_size(ViewportSize(width=1280, height=800))
    header = page.get_by_role("banner")
    box = header.bounding_box()
    assert box is not None and box["height"] < 70
    expect(page.get_by_role("link", name="result_url receiver")).to_be_visible()
    page.set_viewport_size(PHONE)
    sign_out = page.get_by_role("button", name="Sign out")
    expect(sign_out).to_be_hidden()
    page.get_by_text("Menu", exact=True).click()
    expect(sign_out).to_be_visible()


def check_is_harmless(page: Page) -> None:
    """No hostile text became an element. `watched` checks that no script ran and no dialog opened."""
    for kind in ("script", "img", "iframe", "[onerror]", "a[href*='evil']"):
        expect(page.locator(f"main {kind}")).to_have_count(0)
    expect(page.locator("script:not([src])")).to_have_count(0)


def test_hostile_texts_are_shown_and_do_nothing(admin_page: Page, populated: Populated) -> None:
    page = admin_page
    page.goto("/batches/new")
    hostile = FilePayload(name=f"{SCRIPT}.csv", mimeType="text/csv", buffer=hostile_contacts(NUMBERS))
    page.get_by_label("File of the numbers to call").set_input_files(hostile)
    page.get_by_label("Application", exact=True).fill("7")
    page.get_by_label("Deployment").fill("3")
    page.get_by_label("Name").fill(PICTURE)
    page.get_by_label("Numbers that were queued recently").select_option("allow")
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_role("button", name="Call 8 people")).to_be_visible()
    expect(page.locator("main")).to_contain_text(PICTURE)
    check_is_harmless(page)

    batch = f"/batches/{populated.hostile}"
    callbacks = populated.service.ask(f"/api/v1/callbacks?batch_id={populated.hostile}").json["callbacks"]
    endpoint = f"/endpoints/{populated.endpoint}"
    paths = ["/", "/batches", "/keys", "/callbacks?state=any", batch, f"{batch}/calls/1"]
    paths += ["/endpoints", endpoint, f"{endpoint}/change", f"{endpoint}/delete"]
    for path in (*paths, *(f"/callbacks/{callback['id']}" for callback in callbacks)):
        page.goto(path)
        check_is_harmless(page)
    page.goto(batch)
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"{SCRIPT}{PICTURE}")
    # Characters that reverse a line or are invisible are shown as their code points.
    expect(page.locator("h1 .hidden-character").first).to_have_text("U+202E")
    page.goto(f"{batch}/calls/1")
    variables = page.get_by_role("region", name="Variables")
    for shown in (SCRIPT, PICTURE, FORMULA, "{{ 7 * 7 }}${7 * 7}", "more characters"):
        expect(variables).to_contain_text(shown)
    assert len(page.locator("main").inner_text()) < 10_000, "a very long text is cut"
    links = page.get_by_role("link", name="Show the body of callback")
    bodies = links.count()
    assert bodies > 1
    for remaining in reversed(range(bodies)):
        links.first.click()
        expect(links).to_have_count(remaining)
    expect(page.get_by_role("region", name="Body of callback")).to_have_count(bodies)
    check_is_harmless(page)


FOCUSED = """
() => {
  const focused = document.activeElement, style = getComputedStyle(focused), box = focused.getBoundingClientRect();
  return {
    name: focused.innerText?.trim() || focused.getAttribute("aria-label") || focused.labels?.[0]?.innerText || "",
    ring: (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) || style.boxShadow !== "none",
    visible: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}
"""


def focusable(page: Page, limit: int = 120) -> list[str]:
    """The names of the elements that Tab reaches. Checks that each is visible and shows that it has the focus."""
    names: list[str] = []
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        stop = page.evaluate(FOCUSED)
        assert stop["ring"] and stop["visible"], stop
        names.append(stop["name"])
    return names


def test_keyboard_reaches_everything_and_the_focus_is_visible(page: Page, populated: Populated) -> None:
    page.goto("/login")
    page.keyboard.type(populated.service.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    names = focusable(page)
    assert names[0] == "Skip to content"
    assert names[2:9] == ["Overview", "Batches", "Callbacks", "Suppressions", "Endpoints", "Keys", "Audit"]
    assert {"New batch", "Sign out", "Show", "API reference"} <= set(names)
    for path, main in [
        ("/batches/new", {"Upload and check"}),
        (f"/batches/{populated.settled}", {"Find", "Download", "Hide numbers", "1"}),
        (f"/batches/{populated.unknown}", {"Resolve submission 1", "Resolve all 2 unknown submissions", "Submissions"}),
        (f"/batches/{populated.paced}", {"Pause", "Cancel the batch", "Cancel at the provider", "Change"}),
        (f"/batches/{populated.paced}/cancel", {"Cancel the batch", "Keep the batch"}),
        ("/deployments/7/5/cancel", {"Cancel the deployment", "Do not cancel"}),
        ("/keys", {"Create the key"}),
        ("/suppressions", {"Suppress the number", "Suppress the numbers", "Find"}),
        ("/audit", {"Show"}),
        ("/endpoints", {"New endpoint"}),
        ("/endpoints/new", {"call.result", "Create the endpoint"}),
        (f"/endpoints/{populated.endpoint}", {"Send a test event", "Change", "Rotate the secret", "Disable", "Delete"}),
    ]:
        page.goto(path)
        assert main <= set(focusable(page)), path
    page.goto("/batches")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_refused_page_names_the_scope_that_it_needs(page: Page, populated: Populated) -> None:
    sign_in(page, populated.reader)
    answer = page.goto("/keys")
    assert answer is not None and answer.status == 403
    expect(page.get_by_text("This needs a key of scope admin")).to_be_visible()
    assert (violations(page), sideways_scroll(page)) == ([], 0)
