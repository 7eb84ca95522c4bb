"""A batch in a browser, from the sign-in to the exported results."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, FilePayload, Page, Request, TimeoutError, ViewportSize, expect

from tests.acceptance.service import Service
from tests.browser.calls import CONTACTS, NUMBERS, Populated
from tests.browser.chromium import PATIENCE_SECONDS, sideways_scroll, sign_in, watched
from tests.browser.test_every_page import violations
from tests.queueing.workbooks import xlsx
from tests.relay.endpoint_server import receiving
from tests.waiting import eventually

pytestmark = pytest.mark.long

UPLOAD = FilePayload(name="reminders.csv", mimeType="text/csv", buffer=CONTACTS)


def upload(page: Page, *, asked: bool = False) -> None:
    """`asked`: about numbers that were queued recently, as those of these tests were."""
    page.get_by_role("link", name="New batch").click()
    page.get_by_label("File of the numbers to call").set_input_files(UPLOAD)
    page.get_by_label("Application", exact=True).fill("7")
    page.get_by_label("Deployment").fill("3")
    if not asked:
        page.get_by_label("Numbers that were queued recently").select_option("allow")
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check before calling")


def queue(page: Page) -> int:
    """Decide about the faulty rows of the preview, and queue the batch. Returns its id."""
    call = page.get_by_role("button", name=re.compile(r"^(Call|Make) [\d,]+ "))
    expect(call).to_have_count(0)
    page.get_by_role("button", name="Leave them out").click()
    expect(call).to_have_count(0)
    page.get_by_role("button", name="Call once", exact=True).click()
    expect(call).to_have_text("Call 8 people")
    call.click()
    page.wait_for_url(re.compile(r"/batches/\d+$"))
    return int(page.url.rpartition("/")[2])


def polls(request: Request) -> bool:
    return "/live?" in request.url


def test_csv_becomes_calls_whose_results_are_watched_found_and_exported(
    admin_page: Page, service: Service, tmp_path: Path
) -> None:
    page = admin_page
    upload(page)
    rows = page.get_by_role("region", name="Rows with problems")
    expect(rows).to_contain_text("911")
    batch_id = queue(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("reminders.csv")

    # The page updates itself, without a reload, until all calls have ended.
    page.evaluate("window.thisDocument = true")
    expect(page.locator("#balance .balance")).to_contain_text("11 rows: 3 skipped, 8 calls, 8 ended.")
    expect(page.locator("#live[hx-get]")).to_have_count(0)
    # The list of calls is updated together with the figures.
    expect(page.locator("#calls tbody tr")).to_have_count(8)
    expect(page.locator("#calls .badge-pending")).to_have_count(0)
    assert page.evaluate("window.thisDocument") is True
    with pytest.raises(TimeoutError):
        page.wait_for_event("request", polls, timeout=2500)
    counts = service.batch(batch_id)["counts"]

    page.reload()
    calls = page.locator("#calls tbody tr")
    expect(calls).to_have_count(8)
    page.get_by_label("State").select_option("pending")
    expect(page.locator("#calls")).to_contain_text("No call matches.")
    page.get_by_label("State").select_option("final")
    expect(calls).to_have_count(8)
    page.get_by_label("Outcome").select_option("completed")
    expect(calls).to_have_count(counts["completed"])
    expect(calls.locator(".badge-completed")).to_have_count(counts["completed"])

    # A number is found in any spelling, and no URL contains it.
    page.goto(f"/batches/{batch_id}")
    page.get_by_label("Phone number, in any format").fill("(617) 555-1236")
    page.get_by_role("button", name="Find").click()
    expect(calls).to_have_count(1)
    assert "1236" not in page.url
    calls.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"+1{NUMBERS[2]}")
    expect(page.locator("table.events tbody tr").first).to_be_visible()
    page.get_by_role("link", name="Show the body of callback").click()
    expect(page.get_by_role("region", name="Body of callback")).to_contain_text("phone_number")

    page.get_by_role("link", name=f"Batch {batch_id}").click()
    page.get_by_text("Download", exact=True).click()
    with page.expect_download() as started:
        page.get_by_role("link", name="All calls and results, CSV").click()
    file = tmp_path / started.value.suggested_filename
    started.value.save_as(file)
    assert file.suffix == ".csv"
    with file.open(encoding="utf-8-sig", newline="") as lines:
        exported = list(csv.DictReader(lines))
    assert [call["destination"] for call in exported] == NUMBERS
    assert sum(call["outcome"] == "completed" for call in exported) == counts["completed"]

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    page.goto(f"/batches/{batch_id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


MESSY: list[list[Any]] = [
    ["December reminders"],
    ["exported by Pat", "2026-11-28"],
    ["Customer", "Mobile", "Landline"],
    *(["Ana", f"(617) 555-{last}", f"212555{last}" if last % 2 else "none"] for last in range(1900, 1912)),
    ["Ben", "n/a", "2125551800"],
    ["Björn", 6175551912, "ask"],
]

DROP = """
(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "messy.xlsx"));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}
"""

COLORS: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PHONE, DESK = ViewportSize(width=390, height=844), ViewportSize(width=1440, height=900)


def check_looks(page: Page) -> None:
    """The page as it is now, in both themes and at both widths."""
    for size in (PHONE, DESK):
        page.set_viewport_size(size)
        for scheme in COLORS:
            page.emulate_media(color_scheme=scheme)
            found = violations(page)
            assert found == [], (page.url, size, scheme, found)
        assert sideways_scroll(page) == 0, (page.url, size)


def test_messy_workbook_is_imported_corrected_and_discarded(browser: Browser, service: Service) -> None:
    with watched(browser, service.url, reduced_motion="reduce") as page:
        sign_in(page, service.key)
        page.goto("/batches/new")
        page.evaluate(DROP, list(xlsx(MESSY)))
        expect(page.get_by_label("File of the numbers to call")).to_have_value(re.compile(r"messy\.xlsx$"))
        page.get_by_label("Application", exact=True).fill("7")
        page.get_by_label("Deployment").fill("3")
        page.get_by_label("Name").fill("Messy list")
        page.get_by_role("button", name="09:00-20:00").click()
        expect(page.locator("#calling-hours")).to_have_value("09:00-20:00")
        expect(page.get_by_role("button", name="Upload and check")).to_be_in_viewport()
        check_looks(page)
        page.get_by_role("button", name="Upload and check").click()
        expect(page.get_by_role("button", name="Landline (7 of 14 cells are valid)")).to_be_visible()
        expect(page.get_by_text("The file cannot be read")).to_have_count(0)
        check_looks(page)
        page.get_by_role("button", name="Mobile (13 of 14 cells are valid)").click()
        expect(page.get_by_text("2 rows above the header are left out.")).to_be_visible()
        faulty = page.get_by_role("region", name="Rows with problems").get_by_role("row", name="13 16 n/a")
        expect(faulty).to_contain_text("cannot be dialed")
        expect(page.get_by_role("region", name="The first rows").locator("tbody tr")).to_have_count(10)
        expect(page.get_by_role("region", name="Time zones", exact=True)).to_contain_text("America/New_York")
        page.get_by_role("button", name="Leave it out").click()
        expect(page.get_by_role("button", name="Call 13 people")).to_be_in_viewport()
        check_looks(page)

        # What was entered is kept when another file is chosen.
        page.get_by_text("Change the parameters or the file").click()
        page.get_by_label("Calls per minute").fill("60")
        page.get_by_label("Another file, instead of messy.xlsx").set_input_files(UPLOAD)
        page.get_by_role("button", name="Save and check again").click()
        expect(page.get_by_text("reminders.csv").first).to_be_visible()
        parameters = page.get_by_role("region", name="Parameters")
        for kept in ("Messy list", "60 calls a minute", "09:00-20:00"):
            expect(parameters).to_contain_text(kept)
        page.goto("/batches/new")
        page.get_by_role("link", name="Messy list").click()
        page.get_by_role("button", name="Discard the upload").click()
        expect(page.get_by_text("The upload was discarded.")).to_be_visible()
        expect(page.get_by_role("link", name="Messy list")).to_have_count(0)


@pytest.mark.parametrize("scripts", [True, False])
def test_trouble_is_found_acted_on_and_marked_as_seen(
    browser: Browser, service: Service, populated: Populated, tmp_path: Path, scripts: bool
) -> None:
    file = tmp_path / "refused.csv"
    file.write_text("destination\n6175551950\n")
    refused = service.queue(file, "Prefer: wait=0", name=f"Refused {scripts}", deployment_id="404", on_recent="allow")
    batch_id = refused.json["batch_id" if refused.status == 502 else "id"]
    eventually(lambda: service.batch(batch_id)["state"] == "refused")
    with watched(browser, service.url, java_script_enabled=scripts, reduced_motion="reduce") as page:
        sign_in(page, service.key)
        page.get_by_role("link", name="Work through the entries").click()
        row = page.get_by_role("region", name="Refused by the provider").get_by_role("row", name=f"Refused {scripts}")
        expect(row.get_by_role("link", name="Follow up")).to_be_visible()
        box = row.get_by_role("link", name="Follow up").bounding_box()
        seen = row.get_by_text("Mark as seen").first
        seen_box = seen.bounding_box()
        assert box and seen_box and abs(box["y"] - seen_box["y"]) < 5, "the actions are on one line"
        seen.click()
        row.get_by_label("Note").fill(f"Wrong deployment {scripts}")
        if scripts:
            check_looks(page)
        row.get_by_role("button", name="Mark as seen").click()
        expect(page.get_by_role("row", name=f"Refused {scripts} #")).to_have_count(0)
        expect(page.get_by_role("region", name="Seen before")).to_contain_text(f"Wrong deployment {scripts}")
        page.get_by_role("region", name="Callbacks that were not applied").get_by_role("button").first.click()
        expect(page.get_by_text("Why nothing changes, and what else you can do")).to_be_visible()
        if scripts:
            check_looks(page)

        # From there, a number in another spelling, its last digits, a batch, and nonsense.
        for text, shown in (
            ("+1 (617) 555.1950", f"Batch {batch_id}"),
            ("1950", "+16175551950"),
            (f"refused {scripts}", f"Refused {scripts}"),
            ("12345", "is not a phone number"),
        ):
            page.get_by_role("searchbox", name="Search").fill(text)
            page.keyboard.press("Enter")
            expect(page.get_by_role("main")).to_contain_text(shown)
            assert "1950" not in page.url
            if scripts:
                check_looks(page)


def test_list_uploaded_a_second_time_is_stopped_by_a_question(admin_page: Page) -> None:
    page = admin_page
    upload(page)
    batch_id = queue(page)
    upload(page, asked=True)
    page.get_by_role("button", name="Leave them out").click()
    question = page.locator("#recent")
    expect(question).to_contain_text("9 rows have numbers that were queued recently.")
    expect(question.get_by_role("link", name=f"Batch {batch_id}", exact=True)).to_be_visible()
    call = page.get_by_role("button", name=re.compile(r"^(Call|Make) [\d,]+ "))
    expect(call).to_have_count(0)
    question.get_by_role("button", name="Leave out these recent numbers").click()
    expect(page.get_by_text("No row is left to call.")).to_be_visible()
    question.get_by_role("button", name="Call these recent numbers again instead").click()
    page.get_by_role("button", name="Call once", exact=True).click()
    expect(call).to_have_text("Call 8 people")
    page.get_by_role("button", name="Discard the upload").click()
    expect(page.get_by_text("The upload was discarded. Nobody was called.")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_calls_that_reached_nobody_are_followed_up(
    browser: Browser, service: Service, tmp_path: Path, scripts: bool
) -> None:
    file = tmp_path / "list.csv"
    prefix = 61755514 if scripts else 61755515
    file.write_text("destination\n" + "".join(f"{prefix}{last:02}\n" for last in range(60)))
    batch_id = int(service.queue(file, "Prefer: wait=0", name="A list").json["id"])
    eventually(lambda: service.batch(batch_id)["counts"]["pending"] == 0)
    counts = service.batch(batch_id)["counts"]
    unreached = counts["failed"] + counts["rejected"]
    with watched(browser, service.url, java_script_enabled=scripts) as page:
        sign_in(page, service.key)
        page.goto(f"/batches/{batch_id}")
        page.get_by_role("link", name="Follow up", exact=True).click()
        page.get_by_label("Name").fill("A second try")
        page.get_by_role("button", name="Check", exact=True).click()
        left_out = page.get_by_role("table", name=f"Every row of batch {batch_id}")
        completed = f"Completed, by this call or an earlier one {counts['completed']}"
        expect(left_out.get_by_role("row", name=completed, exact=True)).to_be_visible()
        page.get_by_role("button", name=re.compile(f"^Make {unreached} calls? again$")).dblclick()
        # The second click ends the navigation of the first, which `wait_for_url` takes for an error.
        expect(page).to_have_url(re.compile(r"/batches/\d+$"), timeout=60_000)
        expect(page.get_by_role("heading", level=1)).to_have_text("A second try")
        follow_up = int(page.url.rpartition("/")[2])
        eventually(lambda: service.batch(follow_up)["counts"]["pending"] == 0)
        later = service.batch(follow_up)["counts"]
        assert service.batch(batch_id)["follow_ups"] == [follow_up] and later["rows"] == unreached
        page.goto(f"/batches/{batch_id}")
        latest = page.get_by_role("table", name="The latest result of each row of this batch.")
        for row in (f"Completed {counts['completed'] + later['completed']}", "All 60"):
            expect(latest.get_by_role("row", name=row, exact=True)).to_be_visible()
        page.get_by_role("link", name=f"Batch {follow_up}", exact=True).click()
        page.goto(f"/batches/{follow_up}/calls/1")
        page.get_by_role("link", name=re.compile(rf"^Row \d+ of batch {batch_id}$")).click()
        page.get_by_role("link", name=f"Row 1 of batch {follow_up}").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"+1{prefix}")


def test_reader_sees_masked_numbers_by_default_and_no_forms(page: Page, populated: Populated) -> None:
    sign_in(page, populated.reader)
    expect(page.get_by_role("link", name="Batches", exact=True)).to_be_visible()
    for name in ("New batch", "Keys"):
        expect(page.get_by_role("link", name=name)).to_have_count(0)
    for path in ("/batches/new", "/keys"):
        answer = page.goto(path)
        assert answer is not None and answer.status == 403
    page.goto(f"/batches/{populated.settled}")
    calls = page.locator("#calls tbody")
    expect(calls).to_contain_text("•1234")
    assert NUMBERS[0] not in page.content()
    page.get_by_role("button", name="Show whole numbers").click()
    expect(calls).to_contain_text(f"+1{NUMBERS[0]}")
    page.get_by_role("button", name="Hide numbers").click()
    expect(calls).to_contain_text("•1234")
    page.goto(f"/batches/{populated.unknown}/submissions")
    expect(page.get_by_text("To resolve it you need a key of scope queue.").first).to_be_visible()
    expect(page.get_by_role("link", name="Resolve")).to_have_count(0)
    page.goto(f"/batches/{populated.paced}")
    for name in ("Pause", "Cancel the batch", "Cancel at the provider", "Change"):
        action = page.get_by_role("button", name=name)
        expect(action).to_be_disabled()
        expect(action).to_have_accessible_description(re.compile("You need a key of scope (queue|admin)"))


CHOOSE = """
(name) => {
  const state = document.getElementById("state");
  state.value = name;
  state.dispatchEvent(new Event("change", {bubbles: true}));
}
"""


def test_last_of_several_quick_choices_wins(admin_page: Page, populated: Populated) -> None:
    page = admin_page
    calls = page.locator("#calls tbody tr")
    # The second choice is made during the request for the first one.
    page.goto(f"/batches/{populated.settled}")
    page.evaluate(f"() => {{ const choose = {CHOOSE}; choose('pending'); choose('final'); }}")
    page.wait_for_url("**state=final**")
    expect(calls).to_have_count(8)
    expect(page.get_by_label("State")).to_have_value("final")
    # The second choice is made as soon as the first answer is shown.
    page.evaluate(
        f"""() => {{
          const choose = {CHOOSE};
          document.addEventListener("htmx:afterSwap", () => choose("final"), {{once: true}});
          choose("pending");
        }}"""
    )
    page.wait_for_url("**state=pending**")
    page.wait_for_url("**state=final**")
    expect(calls).to_have_count(8)


RECORD_NOTIFICATIONS = """
window.shown = [];
window.Notification = class { constructor(title, {body}) { window.shown.push(`${title}: ${body}`); } };
window.Notification.requestPermission = async () => "granted";
"""


def test_batch_is_stopped_continued_and_watched_from_its_page(
    browser: Browser, service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    file.write_text("destination\n" + "".join(f"61755516{last:02}\n" for last in range(60)))
    batch_id = int(service.queue(file, "Prefer: wait=0", name="Spring", calls_per_minute="1").json["id"])
    narrow = ViewportSize(width=390, height=844)
    with watched(browser, service.url, viewport=narrow) as page:
        page.add_init_script(RECORD_NOTIFICATIONS)
        sign_in(page, service.key)
        page.goto(f"/batches/{batch_id}")
        pause = page.locator("#pause-now")
        pause.scroll_into_view_if_needed()
        pause.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("The batch is paused.", exact=True)).to_be_in_viewport()
        expect(pause).to_have_text("Resume")
        expect(pause).to_be_focused()
        expect(page).to_have_title("Paused · Spring · result_url receiver")

        # The figures come first, filters are folded, and a call is short.
        expect(page.get_by_label("State")).to_be_hidden()
        assert page.locator("#calls tbody").bounding_box()["height"] < 50 * 70  # type: ignore[index]  # it is visible
        page.get_by_text("Filter and find").click()
        page.get_by_label("State").focus()
        page.get_by_label("State").select_option("final")
        expect(page.locator("#calls-list")).to_have_attribute("data-shown", "state=final")
        expect(page.get_by_label("State")).to_be_focused()
        menu = page.locator("#downloads")
        page.get_by_text("Download", exact=True).click()
        expect(menu.get_by_role("link", name="Only calls that match, with results, CSV")).to_be_visible()
        page.keyboard.press("Escape")
        expect(menu).not_to_have_attribute("open", "")
        expect(menu.locator("summary")).to_be_focused()
        page.get_by_text("Download", exact=True).click()
        page.get_by_role("heading", level=1).click()
        expect(menu).not_to_have_attribute("open", "")

        notify = page.get_by_role("button", name="Notify me when it ends")
        notify.click()
        expect(notify).to_have_attribute("aria-pressed", "true")
        canceled = service.ask(
            f"/api/v1/batches/{batch_id}/cancel", "POST", b"{}", {"Content-Type": "application/json"}
        )
        assert canceled.status == 200, canceled.body
        expect(notify).to_be_hidden()
        expect(page).to_have_title(re.compile("^(Canceled|Ended) · Spring · result_url receiver$"))
        (shown,) = page.evaluate("window.shown")
        assert re.fullmatch(r"\w+ · Spring · result_url receiver: 60 rows: .* withdrawn\b.*", shown)


def test_without_scripts_a_batch_is_uploaded_queued_and_seen(browser: Browser, service: Service) -> None:
    with watched(browser, service.url, java_script_enabled=False) as page:
        sign_in(page, service.key)
        upload(page)
        batch_id = queue(page)
        expect(page.locator("#balance .balance")).to_contain_text("8 calls")
        expect(page.locator("#calls tbody tr")).to_have_count(8)
        page.get_by_label("State").select_option("refused")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(page.locator("#calls")).to_contain_text("No call matches.")
        eventually(lambda: service.batch(batch_id)["counts"]["pending"] == 0)
        page.goto(f"/batches/{batch_id}")
        page.get_by_role("link", name="Answer rates").click()
        page.get_by_label("Compare with batch").fill(str(batch_id))
        page.get_by_role("button", name="Show", exact=True).click()
        figures = page.get_by_role("region", name="Figures by area")
        expect(figures.get_by_role("row", name=re.compile(r"^\+1617 8 (\d) (\d+%) 8 \1 \2$"))).to_be_visible()
        page.goto("/batches")
        page.locator(f"a[href='/batches/{batch_id}']").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("reminders.csv")


def test_without_scripts_an_endpoint_is_created_tested_enabled_again_and_deleted(
    browser: Browser, service: Service, tmp_path: Path
) -> None:
    contacts = tmp_path / "contacts.csv"
    contacts.write_bytes(CONTACTS)
    with (
        receiving(lambda _: (410, {}, b"moved away")) as hook,
        watched(browser, service.url, java_script_enabled=False) as page,
    ):
        sign_in(page, service.key)
        page.get_by_role("link", name="Endpoints", exact=True).click()
        page.get_by_role("link", name="New endpoint").click()
        page.get_by_label("Address").fill(hook.url)
        page.get_by_label("Description").fill("CRM of the story")
        page.get_by_label("batch.ended").uncheck()
        page.get_by_label("Application").fill("77")
        page.get_by_label("Your API key").fill(service.key)
        page.get_by_role("button", name="Create the endpoint").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("The new secret")
        secret = page.locator("#new-secret").inner_text()
        page.get_by_role("link", name="Done").click()
        assert secret not in page.content()

        page.get_by_role("button", name="Send a test event").click()
        expect(page.get_by_role("status")).to_contain_text("Not delivered: status 410")
        assert hook.requests[0].verified(secret)["type"] == "endpoint.test"
        service.queue(contacts, "Prefer: wait=0", application_id="77", on_invalid="skip", on_duplicate="skip")
        log = page.get_by_role("region", name="Deliveries")

        def shows(text: str) -> bool:
            page.reload()
            return page.get_by_text(text).first.is_visible()

        eventually(lambda: shows("your service answered 410 (gone)"), PATIENCE_SECONDS)
        page.goto("/")
        page.get_by_role("region", name="Needs attention").get_by_role("link", name="disabled").click()
        page.get_by_role("link", name="CRM of the story").click()
        failed = log.locator("tbody tr", has=page.locator("details"))
        failed.locator("summary").first.click()
        expect(failed.get_by_text("moved away").first).to_be_visible()

        hook.answer = lambda _: (200, {}, b"")
        failed.get_by_role("button", name="again").first.click()
        # On a busy machine, its next attempt may be due already.
        retried = re.compile("^(1 event will be sent again once it is enabled|There is nothing to retry).$")
        expect(page.get_by_role("status")).to_have_text(retried)
        page.get_by_role("button", name="Enable").click()
        expect(page.get_by_role("status")).to_have_text("The endpoint is enabled. What waits is sent now.")
        eventually(lambda: shows("8 events owed: 8 delivered, 0 waiting, 0 given up."), PATIENCE_SECONDS)
        page.get_by_label("Batch", exact=True).fill("999999")
        page.get_by_role("button", name="Show").click()
        expect(log).to_contain_text("Nothing matches.")
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("button", name="Delete the endpoint").click()
        expect(page.get_by_role("link", name="CRM of the story")).to_have_count(0)
