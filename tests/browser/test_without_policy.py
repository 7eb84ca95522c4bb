"""The content security policy is a second lock: with it taken away, nothing hostile comes to life either."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.calls import SCRIPT, Populated
from tests.browser.chromium import sign_in, watched
from tests.browser.test_every_page import check_is_harmless

pytestmark = pytest.mark.long


def test_hostile_texts_do_nothing_in_a_browser_that_knows_no_policy(browser: Browser, populated: Populated) -> None:
    callbacks = populated.service.ask(f"/api/v1/callbacks?batch_id={populated.hostile}").told["callbacks"]
    batch = f"/batches/{populated.hostile}"
    paths = ["/", "/batches", "/keys", "/callbacks?state=any", batch, f"{batch}/submissions", f"{batch}/calls/1"]
    with watched(browser, populated.service.url, bypass_csp=True) as page:
        page.goto("/login")
        # It is taken away indeed: a script that the policy forbids runs.
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
        # What a script would have to do to be seen: `watched` fails of a dialog, an error or another host asked.
        assert page.evaluate("document.cookie") == "", "the session is out of a script's reach, were there one"
