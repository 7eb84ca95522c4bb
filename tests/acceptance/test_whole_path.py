"""From a user's CSV to the last result, with every fault that the provider can have."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from receiver.supervisor.ports import free_port
from tests.acceptance.calling import simulator
from tests.acceptance.service import Answer, Service, ask
from tests.waiting import eventually

pytestmark = pytest.mark.long

ROWS = 1000
COLUMNS = [f"variable {number}" for number in range(1, 41)]
TWICE = (200, 500, 800)
"""Rows whose numbers are repeated in rows 301 to 303."""
INVALID = {
    17: "nobody",
    18: "911",
    404: "",
    405: "617555",
    1000: "+99 123",
}
CELLS = (
    "Björn",
    "Čeněk Žižka",
    "Ελένη",
    "Дмитрий",
    "漢字かな",
    "עברית",
    "العربية",
    "🙂 👩‍👩‍👧",
    "„quoted“, and «so» on…",
    'a "quote"; and more',
    "two\nlines",
    " kept  as it is ",
    "=1+1",
    "€ 1.234,56",
    "",
)
FINAL = ("completed", "failed", "canceled", "rejected")


def write_contacts(path: Path) -> dict[int, list[str]]:
    """A thousand rows as a spreadsheet saves them; returns each with its number in the file."""
    rows: dict[int, list[str]] = {}
    again = dict(zip((301, 302, 303), TWICE, strict=True))
    for row in range(1, ROWS + 1):
        number = INVALID.get(row, str(6_175_550_000 + again.get(row, row)))
        if number and row % 7 == 0 and row not in INVALID:
            number = f"tel:+1{number};ani=8009957586"
        rows[row] = [number, *(CELLS[(row + column) % len(CELLS)] for column in range(len(COLUMNS)))]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Destination", *COLUMNS])
        writer.writerows(rows.values())
    return rows


class Expected:
    """The expected result of everything according to the simulator's ledger, in the receiver's terms."""

    def __init__(self, provider: str) -> None:
        self.summary = ask(f"{provider}/simulator/ledger").json
        lines = ask(f"{provider}/simulator/ledger/calls").body.splitlines()
        self.calls: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.final = [call for call in self.calls if any(self._counts(call, each) for each in call["deliveries"])]
        self.received = self.unreadable = 0
        for call in self.calls:
            for delivery in call["deliveries"]:
                if delivery["answered"] == 200:
                    self.received += 1
                    self.unreadable += spoiled(call) and delivery["what"] != "step"
        # A posted step is applied to its call until a final status arrives.
        self.applied = sum(
            any(
                each["answered"] == 200 and (each["what"] == "step" or not spoiled(call)) for each in call["deliveries"]
            )
            for call in self.calls
        )

    @staticmethod
    def _counts(call: dict[str, Any], delivery: dict[str, Any]) -> bool:
        return delivery["answered"] == 200 and delivery["what"] != "step" and not spoiled(call)

    def outcomes(self) -> Counter[str]:
        return Counter(call["status"] if call["status"] in FINAL else "other" for call in self.final)


def spoiled(call: dict[str, Any]) -> bool:
    """Whether the bodies of the call's result are truncated. The bodies of its steps are complete."""
    return "malformed" in (call["fault"] or "").split("+")


def list_calls(service: Service, batch_id: int) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = service.ask(f"/api/v1/batches/{batch_id}/calls?limit=400{cursor}").json
        calls += page["calls"]
        if page["next_cursor"] is None:
            return calls
        cursor = f"&cursor={page['next_cursor']}"


def test_every_call_of_a_batch_ends_as_the_provider_reported_or_is_overdue(server_dir: Path) -> None:
    contacts = server_dir / "contacts.csv"
    rows = write_contacts(contacts)
    faulty = ("--faults", "0.05", "--timeout-after-acceptance", "0", "--seed", "3")
    # With this seed, one of the first four submissions is answered 500 and dialed anyway.
    quick = ("--speed", "100000", "--lines", "1000", "--senders", "128")
    port = free_port()
    login: dict[str, Any] = {"PLUM_URL": f"http://127.0.0.1:{port}", "PLUM_USER": "simulator", "PLUM_KEY": "simulator"}
    with Service(server_dir, RESULT_GRACE="1", SUBMISSION_ROWS="400", **login) as service:
        with simulator(port, *faulty, *quick) as provider:
            ends_at = int(time.time()) + 3600
            fields = {"name": "December", "end_timestamp": str(ends_at), "on_invalid": "skip", "on_duplicate": "keep"}
            batch_id = check_queued(service.queue(contacts, "Prefer: wait=60", **fields))
            wait_for_the_last_callback(provider)
            expected = Expected(provider)

        eventually(lambda: service.batch(batch_id)["callbacks"]["received"] >= expected.received)
        eventually(lambda: service.batch(batch_id)["callbacks"]["waiting"] == 0)
        before_due = service.batch(batch_id)
        assert datetime.fromisoformat(before_due["due_at"]).timestamp() == ends_at + 1
        check_balance(before_due, expected, lost="pending")
        check_calls(list_calls(service, batch_id), rows, expected)

        make_due(service, batch_id)
        check_balance(service.batch(batch_id), expected, lost="overdue")
        overdue = service.ask(f"/api/v1/batches/{batch_id}/calls?state=overdue&limit=1000").json["calls"]
        assert len(overdue) == len(expected.calls) - len(expected.final)

        verified = service.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        shown = service.run("status", str(batch_id))
        assert shown.returncode == 0
        assert f"{len(expected.final)} ended, 0 pending, {len(overdue)} overdue" in shown.stdout


def make_due(service: Service, batch_id: int) -> None:
    """Make the batch due now, and wait until its calls are overdue."""
    with psycopg.connect(service.embedded_database_url) as conn:
        conn.execute("update batch set due_at = now() - interval '1 second' where batch_id = %s", (batch_id,))
        conn.execute("update submission set due_at = now() - interval '1 second' where batch_id = %s", (batch_id,))
    eventually(lambda: service.batch(batch_id)["counts"]["pending"] == 0)


def wait_for_the_last_callback(provider: str) -> None:
    """Return when nothing is `to_come`. A call is no longer `to_come` after its first 200; a duplicate may follow."""

    def over() -> bool:
        ledger = ask(f"{provider}/simulator/ledger").json
        return bool(ledger["calls"]["to_come"] == ledger["callbacks"]["to_come"] == 0)

    eventually(over, 120)


def check_queued(answer: Answer) -> int:
    """Check the answer and return the batch's id. It is 202 if the provider answered 500 and no callback has proved the
    opposite yet, else 201."""
    batch = answer.json
    assert answer.status == (201 if batch["state"] == "queued" else 202)
    assert answer.headers["Location"].endswith(f"/api/v1/batches/{batch['id']}")
    assert (batch["counts"]["rows"], batch["counts"]["skipped"]) == (ROWS, len(INVALID))
    # Three submissions of at most 400 rows, and one with the three repeated numbers.
    in_order = sorted(batch["submissions"], key=lambda each: each["id"])  # unknown ones are listed first
    assert [each["calls"] for each in in_order] == [400, 3, 400, 192]
    return int(batch["id"])


def check_balance(batch: dict[str, Any], expected: Expected, *, lost: str) -> None:
    counts, callbacks = batch["counts"], batch["callbacks"]
    assert batch["state"] == "queued"
    assert {each["state"] for each in batch["submissions"]} == {"accepted"}
    assert expected.summary["queued_more_than_once"] == []
    assert len(expected.calls) == ROWS - len(INVALID)
    assert counts["final"] == len(expected.final)
    assert counts[lost] == len(expected.calls) - len(expected.final) > 0
    assert {name: counts[name] for name in (*FINAL, "other")} == expected.outcomes()
    assert (callbacks["received"], callbacks["unreadable"]) == (expected.received, expected.unreadable)
    assert (callbacks["unmatched"], callbacks["conflict"]) == (0, 0)
    assert callbacks["applied"] == expected.applied
    # A call that was canceled before it was dialed is reported with one attempt.
    assert batch["attempts"] == sum(max(call["attempts"], 1) for call in expected.final)
    assert batch["duration_seconds"] == sum(call["duration"] or 0 for call in expected.final)


def check_calls(calls: list[dict[str, Any]], rows: dict[int, list[str]], expected: Expected) -> None:
    """Each call has the user's cells, and the result that the provider reported."""
    assert [call["row"] for call in calls] == [row for row in rows if row not in INVALID]
    for call in calls:
        assert [call["destination"], *call["variables"].values()] == rows[call["row"]]
        assert list(call["variables"]) == COLUMNS
    expected_calls = Counter((call["destination"], call["status"]) for call in expected.final)
    kept = Counter(
        (call["destination"], call["provider_status"].replace("cancelled", "canceled"))
        for call in calls
        if call["state"] == "final"
    )
    assert kept == expected_calls
