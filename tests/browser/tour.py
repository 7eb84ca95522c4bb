"""Every page of the dashboards, one after the other, each with content."""

from __future__ import annotations

from collections.abc import Iterator

from playwright.sync_api import FilePayload, Page, expect

from tests.browser.calls import CONTACTS, Populated
from tests.browser.chromium import sign_in


def tour(page: Page, populated: Populated) -> Iterator[str]:
    """Visit all pages as an administrator. Yields the name of each when it is shown."""
    page.goto("/login")
    yield "sign-in"
    page.get_by_label("API key").fill("rr_no_key")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    yield "sign-in refused"
    sign_in(page, populated.service.key)
    yield from _new_batch(page)
    submission = populated.service.batch(populated.unknown)["submissions"][0]
    for name, path, status in [
        ("overview", "/", 200),
        ("needs attention", "/attention", 200),
        ("search", "/search", 200),
        ("overview with a faulty filter", "/?application_id=x", 200),
        ("batches", "/batches", 200),
        ("batches filtered to none", "/batches?name=nothing+has+this+name", 200),
        ("batch", f"/batches/{populated.settled}", 200),
        ("calls filtered to none", f"/batches/{populated.settled}?state=refused", 200),
        ("unknown batch", f"/batches/{populated.unknown}", 200),
        ("hostile batch", f"/batches/{populated.hostile}", 200),
        ("submissions", f"/batches/{populated.unknown}/submissions", 200),
        ("decision", f"/batches/{populated.unknown}/submissions/{submission['id']}/resolve", 200),
        ("decision about all", f"/batches/{populated.unknown}/resolve", 200),
        ("paced batch", f"/batches/{populated.paced}", 200),
        ("submissions of a paced batch", f"/batches/{populated.paced}/submissions", 200),
        ("change", f"/batches/{populated.paced}/change", 200),
        ("change of names", f"/batches/{populated.settled}/change", 200),
        ("follow-up", f"/batches/{populated.settled}/follow-up", 200),
        ("follow-ups of a batch", f"/batches/{populated.settled}/lineage", 200),
        ("cancellation", f"/batches/{populated.paced}/cancel", 200),
        ("cancellation of a deployment", "/deployments/7/5/cancel", 200),
        ("batches with a faulty filter", "/batches?label=x&phase=x", 200),
        ("attempts", f"/batches/{populated.settled}/attempts", 200),
        ("answer rates", f"/answer-rates?batch_id={populated.settled}", 200),
        ("two answer rates", f"/answer-rates?batch_id={populated.settled}&with={populated.hostile}", 200),
        ("call", f"/batches/{populated.settled}/calls/1", 200),
        ("hostile call", f"/batches/{populated.hostile}/calls/1", 200),
        ("callbacks", "/callbacks", 200),
        ("all callbacks", "/callbacks?state=any", 200),
        ("callback", "/callbacks/1", 200),
        ("keys", "/keys", 200),
        ("suppressions", "/suppressions", 200),
        ("suppressions filtered to none", "/suppressions?reason=nothing", 200),
        ("audit trail", "/audit", 200),
        ("audit trail with a faulty filter", "/audit?action=dance", 200),
        ("endpoints", "/endpoints", 200),
        ("new endpoint", "/endpoints/new", 200),
        ("endpoint", f"/endpoints/{populated.endpoint}", 200),
        ("disabled endpoint", f"/endpoints/{populated.disabled}", 200),
        ("deliveries with a faulty filter", f"/endpoints/{populated.endpoint}?batch_id=x&state=x", 200),
        ("change of an endpoint", f"/endpoints/{populated.endpoint}/change", 200),
        ("rotation of a secret", f"/endpoints/{populated.endpoint}/rotate", 200),
        ("deletion of an endpoint", f"/endpoints/{populated.endpoint}/delete", 200),
        ("time zone", "/time-zone", 200),
        ("not found", "/batches/999999", 404),
    ]:
        answer = page.goto(path)
        assert answer is not None and answer.status == status, (path, answer)
        yield name
    yield from _follow_up(page, populated.settled)
    yield from _release(page, populated.unwanted)
    yield from _forms(page, populated.service.key)


def _new_batch(page: Page) -> Iterator[str]:
    page.goto("/batches/new")
    yield "new batch"
    for name, text, status in [("contacts.csv", CONTACTS, 200), ("picture.csv", b"\x89PNG\r\n\x1a\n\0", 422)]:
        page.goto("/batches/new")
        page.get_by_label("File of the numbers to call").set_input_files(
            FilePayload(name=name, mimeType="text/csv", buffer=text)
        )
        page.get_by_label("Application", exact=True).fill("7")
        page.get_by_label("Deployment").fill("3" if status == 200 else "x")
        page.get_by_role("button", name="Upload and check").click()
        expect(page.locator(".note.bad").first).to_be_visible()
        yield f"preview of {name}"
    page.goto("/batches/new")
    page.get_by_label("File of the numbers to call").set_input_files(
        FilePayload(name="contacts.csv", mimeType="text/csv", buffer=CONTACTS)
    )
    page.get_by_label("Application", exact=True).fill("7")
    page.get_by_label("Deployment").fill("3")
    page.get_by_label("Calls per minute").fill("600")
    page.locator("#calling-hours").fill("09:00-20:00")
    page.get_by_label("Numbers that were queued recently").select_option("allow")
    page.locator("#labels").fill("campaign: spring\nteam: north")
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_role("region", name="Time zones", exact=True)).to_contain_text("America/New_York")
    yield "preview with calling hours"


def _follow_up(page: Page, batch_id: int) -> Iterator[str]:
    page.goto(f"/batches/{batch_id}/follow-up")
    page.get_by_label("Attempts per number").fill("3")
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.locator("#reattempt-wait-fault")).to_be_visible()
    yield "follow-up refused"
    page.get_by_label("Attempts per number").fill("")
    for outcome in ("Failed", "Canceled", "Rejected", "Other"):
        page.get_by_label(outcome).check()
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check before calling again")
    yield "preview of a follow-up"


def _release(page: Page, batch_id: int) -> Iterator[str]:
    page.goto(f"/batches/{batch_id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("The batch is paused.", exact=True)).to_be_visible()
    yield "paused batch"
    page.get_by_role("main").get_by_role("link", name="Change").click()
    page.get_by_label("Calling hours").fill("9 to 5")
    page.get_by_role("button", name="Change the batch").click()
    expect(page.locator("#calling-hours-fault")).to_be_visible()
    yield "change refused"
    page.goto(f"/batches/{batch_id}")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("The batch is resumed.", exact=True)).to_be_visible()
    page.get_by_role("link", name="Cancel the batch").click()
    page.get_by_label("Note").fill("wrong file")
    page.get_by_role("button", name="Cancel the batch").click()
    expect(page.get_by_text("The batch is canceled:")).to_be_visible()
    yield "canceled batch"
    page.goto("/deployments/7/6/cancel")
    page.get_by_role("button", name="Cancel the deployment").click()
    expect(page.get_by_text("The provider accepted it")).to_be_visible()
    yield "answer of the provider"


def _forms(page: Page, key: str) -> Iterator[str]:
    page.goto("/suppressions")
    page.get_by_label("Number", exact=True).first.fill("555")
    page.get_by_role("button", name="Suppress the number", exact=True).click()
    expect(page.locator("#phone-number-fault")).to_be_visible()
    yield "suppression refused"
    page.get_by_label("Number", exact=True).first.fill("+1 212 555 0199")
    page.get_by_role("button", name="Suppress the number", exact=True).click()
    expect(page.get_by_text("is not called any more")).to_be_visible()
    yield "suppression added"
    page.get_by_role("link", name="Remove suppression").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Call this number again?")
    yield "suppression removed"
    page.get_by_role("button", name="Remove the suppression").click()
    page.goto("/endpoints/new")
    page.get_by_label("Address").fill("https://10.0.0.1/")
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Create the endpoint").click()
    expect(page.locator("#url-fault")).to_be_visible()
    yield "endpoint refused"
    page.get_by_label("Address").fill("http://127.0.0.1:9/made-on-a-tour")
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Create the endpoint").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The new secret")
    yield "endpoint created"
    page.goto("/callbacks")
    page.get_by_role("button", name="Preview replay").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Preview of a replay")
    yield "replay"
    page.goto("/keys")
    page.get_by_label("Name").fill("made on a tour")
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Create the key").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The new key")
    yield "key made"
    page.goto("/keys")
    page.get_by_role("link", name="Revoke made on a tour").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Revoke")
    yield "key revoked"
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_role("link", name="Revoke made on a tour")).to_have_count(0)
