"""A service with content on each of its pages: batches that ended, that were refused, and that are unknown."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from receiver.supervisor.ports import free_port
from tests.acceptance.service import Service, ask
from tests.waiting import eventually

NUMBERS = [f"61755512{last}" for last in range(34, 42)]
CONTACTS = "".join(
    (
        "destination,first_name,appointment\n",
        *(f"{number},Person {number[-2:]},2026-12-01 09:30\n" for number in NUMBERS),
        "555,Dev,2026-12-01 11:00\n",
        "911,Erin,2026-12-01 11:15\n",
        f"+1{NUMBERS[0]},Again,2026-12-01 11:30\n",
    )
).encode()
"""Eight valid numbers, two invalid rows, and one that repeats the first number."""

SCRIPT = "<script>alert(1)</script>"
PICTURE = "\"'><img src=x onerror=alert(2)>"
BIDI = "\u202eabc\u200b"
EMOJI = "\U0001f469\u200d\U0001f52c"
FORMULA = '=HYPERLINK("http://evil.example/","x")'
FLOOD = "x" * 10_000
HOSTILE_CELLS = [SCRIPT, PICTURE, BIDI + EMOJI, FORMULA, "{{ 7 * 7 }}${7 * 7}"]


@dataclass(frozen=True, slots=True)
class Populated:
    service: Service
    settled: int
    """A batch with skipped rows, whose calls have all ended."""
    unknown: int
    """A batch whose two submissions are unknown."""
    paced: int
    """A batch of a hundred calls, one per minute."""
    unwanted: int
    """The same in its own deployment, which can be canceled."""
    hostile: int
    """A batch whose names, variables and results are hostile."""
    hostile_number: str
    reader: str
    """A key of scope `read`."""
    endpoint: int
    """An endpoint with a hostile description, at which nothing listens."""
    disabled: int
    """An endpoint that is disabled."""


def populate(service: Service, folder: Path) -> Populated:
    contacts = folder / "contacts.csv"
    contacts.write_bytes(CONTACTS)
    hostile, number = folder / "hostile.csv", NUMBERS[0]
    hostile.write_bytes(hostile_contacts(NUMBERS[:2]))
    policies = {"on_invalid": "skip", "on_duplicate": "skip"}
    endpoint, disabled = _make_endpoint(service, PICTURE + BIDI), _make_endpoint(service, "Disabled")
    assert service.run("endpoints", "disable", str(disabled)).returncode == 0
    settled = _queue(service, contacts, name="December reminders", **policies)
    # The simulated provider answers these deployments with 500 and 404.
    unknown = _queue(service, contacts, name="Unknown", deployment_id="500", on_invalid="skip", on_duplicate="keep")
    many = folder / "many.csv"
    many.write_text("destination\n" + "".join(f"61755513{last:02}\n" for last in range(100)))
    names = {"external_id": f"crm 7 {SCRIPT}", "labels": json.dumps({SCRIPT: PICTURE})}
    one_a_minute = {"calls_per_minute": "1", "calling_hours": "00:00-24:00"}
    paced = _queue(service, many, name="One a minute", deployment_id="5", **one_a_minute, **names)
    unwanted = _queue(service, many, name="Wrong file", deployment_id="6", **one_a_minute)
    _queue(service, contacts, name="Refused", deployment_id="404", **policies)
    queued = _queue(service, hostile, name=SCRIPT + PICTURE + BIDI, application_id="13")
    eventually(lambda: all(service.batch(batch_id)["counts"]["pending"] == 0 for batch_id in (settled, queued)))
    result_url = find_result_url(service, 13)
    for status in (SCRIPT, PICTURE, BIDI + EMOJI, FLOOD):
        body = json.dumps({"phone_number": f"'{number}'", "status": status, "attempts": "1", SCRIPT: FLOOD})
        assert ask(result_url, "POST", body.encode(), {"Content-Type": "application/json"}).status == 200
    for body in (SCRIPT + PICTURE, "\0\x1b[2J" + BIDI, FLOOD):
        headers = {"Content-Type": "text/html; charset=<script>"}
        assert ask(result_url, "POST", body.encode(), headers).status == 200
    eventually(lambda: service.batch(queued)["callbacks"]["waiting"] == 0)
    eventually(lambda: {each["state"] for each in service.batch(unknown)["submissions"]} == {"unknown"})
    made = service.run("keys", "create", f"reader {PICTURE}", "--scope", "read")
    reader = made.stdout.split()[-1]
    return Populated(
        service, settled, unknown, paced, unwanted, queued, number, reader, endpoint=endpoint, disabled=disabled
    )


def _make_endpoint(service: Service, description: str) -> int:
    body = json.dumps({"url": f"http://127.0.0.1:{free_port()}/", "description": description}).encode()
    answer = service.ask("/api/v1/endpoints", "POST", body, {"Content-Type": "application/json"})
    assert answer.status == 201, answer.body
    return int(answer.json["id"])


def hostile_contacts(numbers: list[str]) -> bytes:
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["destination", *(f"{cell} {at}" for at, cell in enumerate(HOSTILE_CELLS)), "flood"])
    writer.writerows([number, *HOSTILE_CELLS, FLOOD] for number in numbers)
    return text.getvalue().encode()


def find_result_url(service: Service, application_id: int) -> str:
    """The `result_url` of an application's only submission, from the simulator's ledger."""
    requests = ask(f"{service.simulator_url}/simulator/ledger").json["requests"]
    urls: list[str] = [each["result_url"] for each in requests if each["application_id"] == application_id]
    (url,) = urls
    return url


def _queue(service: Service, contacts: Path, **fields: str) -> int:
    answer = service.queue(contacts, "Prefer: wait=0", **fields)
    # A fast worker may already have the provider's answer, even a refusal (502).
    assert answer.status in (201, 202, 502), answer.body
    return int(answer.json["batch_id" if answer.status == 502 else "id"])
