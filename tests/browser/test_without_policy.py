"""The content security policy is a second line of defence: without it, hostile texts do nothing either."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.calls import SCRIPT, Populated
from tests.browser.chromium import sign_in, watched
from tests.browser.test_every_page import check_is_harmless

pytestmark = pytest.mark.long


def test_hostile_texts_do_nothing_in_a_browser_without_the_policy(browser: Browser, populated: Populated) -> None:
    callbacks = populated.service.ask(f"/api/v1/callbacks?batch_id={populated.hostile}").json["callbacks"]
    batch = f"/batches/{populated.hostile}"
    paths = ["/", "/batches", "/keys", "/callbacks?state=any", batch, f"{batch}/submissions", f"{batch}/calls/1"]
    with watched(browser, populated.service.url, bypass_csp=True) as page:
        page.goto("/login")
        # The policy is off: a script that it forbids runs.
        assert page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.head.append(s); return window.ran }"
        )
        sign_in(page, populated.service.key)
        for path in (*paths, *(f"/callbacks/{callback['id']}" for callback in callbacks)):
            page.goto(path)
            page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
            check_is_harmless(page)
        page.goto(batch)
        expect(page.get_by_role("heading", level=1)).to_contain_text(SCRIPT)
        # `watched` fails if a script opens a dialog, causes an error, or sends a request to another host.
        assert page.evaluate("document.cookie") == "", "no script can read the session's cookie"
