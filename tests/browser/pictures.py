"""Create the pictures in docs/pictures: `python -m tests.browser.pictures`.

The pictures show a real service with a slow simulated provider, and a batch of 600 calls that are being made.
"""

from __future__ import annotations

import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import FloatRect, Page, ViewportSize

from receiver.supervisor.ports import free_port
from tests.acceptance.calling import simulator
from tests.acceptance.service import ROOT, Service
from tests.browser.calls import CONTACTS
from tests.browser.chromium import launched, sign_in, watched
from tests.relay.endpoint_server import EndpointServer, Request, receiving
from tests.waiting import eventually

PICTURES = ROOT / "docs" / "pictures"
MAX_BYTES = 200_000
VIEW = ViewportSize(width=1280, height=860)
MARGIN = 20
"""Pixels below the last part of a picture."""
CALLS = 600
FIRST_NAMES = ("Ana", "Björn", "Chloé", "Dev", "Erin", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena")
PACE = ("--speed", "40", "--lines", "60", "--unknown-status", "0.03", "--duplicate", "0.02", "--malformed", "0.004")


def contacts() -> bytes:
    """Fictitious people. Some numbers are invalid, and some occur twice."""
    rows = ["destination,first_name,appointment"]
    drawn = random.Random(1)
    for row in range(CALLS):
        number = 6175550100 + row if row % 40 else 555
        number -= 3 * (row % 90 == 50)
        rows.append(f"{number},{drawn.choice(FIRST_NAMES)},2026-12-{1 + row % 5:02} {9 + row % 8:02}:30")
    return "\n".join(rows).encode()


def queue(service: Service, folder: Path, name: str, text: bytes, **fields: str) -> int:
    file = folder / "contacts.csv"
    file.write_bytes(text)
    answer = service.queue(file, "Prefer: wait=0", name=name, on_invalid="skip", on_duplicate="skip", **fields)
    return int(answer.json["id"])


def progress(service: Service, batch_id: int) -> float:
    ended: float = service.batch(batch_id)["progress"]
    return ended


def take_picture(page: Page, name: str, path: str | None = None, *, until: str | None = None) -> None:
    """Save the visible part of the page, or the page from its top to the end of the element `until`, a CSS selector."""
    if path is not None:
        page.goto(path)
    clip = None
    if until is not None:
        box = page.locator(until).bounding_box()
        assert box is not None
        clip = FloatRect(x=0, y=0, width=VIEW["width"], height=box["y"] + box["height"] + MARGIN)
    file = PICTURES / f"{name}.png"
    # A picture of more than one screen must not show the buttons that stay at the end of the screen.
    page.evaluate("for (const bar of document.querySelectorAll('.main-actions')) bar.style.position = 'static'")
    page.screenshot(path=file, clip=clip, full_page=clip is not None, animations="disabled", caret="hide")
    assert file.stat().st_size < MAX_BYTES, f"{file} is too large for a page of documentation"


def upload(page: Page, file: Path) -> None:
    page.goto("/batches/new")
    page.get_by_label("File of the numbers to call").set_input_files(file)
    page.get_by_label("Application", exact=True).fill("7")
    page.get_by_label("Deployment").fill("3")
    page.get_by_role("button", name="Upload and check").click()
    page.get_by_role("heading", name="Check before calling").wait_for()


def _always(status: int, body: bytes, _: Request) -> tuple[int, dict[str, str], bytes]:
    return status, {}, body


def make_endpoint(page: Page, key: str, hook: EndpointServer) -> str:
    """An endpoint that was tested twice: first in vain, then with success. Returns its path."""
    page.goto("/endpoints/new")
    page.get_by_label("Address").fill(hook.url)
    page.get_by_label("Description").fill("CRM")
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Create the endpoint").click()
    page.get_by_role("link", name="Done").click()
    path = page.url.removeprefix(page.url.partition("/endpoints")[0])
    for status, body in ((503, b"maintenance until 06:00"), (200, b"")):
        hook.answer = partial(_always, status, body)
        page.get_by_role("button", name="Send a test event").click()
        page.get_by_role("status").wait_for()
    return path


def take_all_pictures(page: Page, service: Service, folder: Path, hook: EndpointServer) -> None:
    sign_in(page, service.key)
    endpoint = make_endpoint(page, service.key, hook)
    page.goto("/batches/new")
    take_picture(page, "new-batch")
    file = folder / "contacts.csv"
    upload(page, file)
    take_picture(page, "preview", until="section[aria-labelledby=comes-to]")
    batch_id = queue(service, folder, "December reminders", contacts(), max_attempts="3", reattempt_wait="60")
    eventually(lambda: progress(service, batch_id) > 0.6, 300)
    take_picture(page, "batch", f"/batches/{batch_id}", until="#results-section")
    take_picture(page, "overview", "/", until="#live")
    upload(page, file)
    take_picture(page, "recent", until="#recent")
    page.goto(f"/batches/{batch_id}/follow-up")
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_role("heading", name="Check before calling again").wait_for()
    take_picture(page, "follow-up", until="section[aria-labelledby=go]")
    take_picture(page, "answer-rates", f"/answer-rates?batch_id={batch_id}", until="#by-attempt")
    take_picture(page, "batches", "/batches", until="#live")
    calls = service.ask(f"/api/v1/batches/{batch_id}/calls?state=final&limit=400").json["calls"]
    row = max(calls, key=lambda call: (call["outcome"] == "completed", call["attempts"] or 0))["row"]
    take_picture(page, "call", f"/batches/{batch_id}/calls/{row}", until="section[aria-labelledby=facts-title]")
    take_picture(page, "callbacks", "/callbacks?state=any")
    take_picture(page, "callback", "/callbacks/1")
    take_picture(page, "endpoint", endpoint)
    take_picture(page, "keys", "/keys", until="section[aria-labelledby=another]")


def main() -> int:
    PICTURES.mkdir(exist_ok=True)
    provider = free_port()
    login: dict[str, Any] = {
        "PLUM_URL": f"http://127.0.0.1:{provider}",
        "PLUM_USER": "simulator",
        "PLUM_KEY": "simulator",
    }
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres, started by root, runs as another account, which needs access
        service = Service(folder, RELAY_NETWORKS="127.0.0.0/8", **login)
        service.environment["PUBLIC_URL"] = service.url
        with simulator(provider, *PACE), service, launched() as browser, receiving() as hook:
            earlier = queue(service, folder, "November follow-up", contacts()[:4000], application_id="5")
            eventually(lambda: progress(service, earlier) == 1, 300)
            queue(service, folder, "Clinic, Tuesday", CONTACTS, deployment_id="404")
            with watched(browser, service.url, viewport=VIEW) as page:
                page.goto("/login")
                take_picture(page, "sign-in", until="main .card")
                take_all_pictures(page, service, folder, hook)
    return 0


if __name__ == "__main__":
    sys.exit(main())
