"""A campaign from a workbook, followed up twice: every figure is that of the simulator's ledger."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.calling import simulator
from tests.acceptance.service import Answer, Service, ask
from tests.queueing.workbooks import xlsx
from tests.waiting import eventually

pytestmark = pytest.mark.long

ROWS = 5_000
COLUMNS = ("first name", "city", "Telefon")
FOLLOWED = ("failed", "rejected")
Call = dict[str, Any]


def write_workbook(path: Path) -> dict[str, list[str]]:
    """Rows with numbers in their third column; returns the other cells of each number."""
    rows = {str(6_175_551_000 + row): [f"Zoë {row}", "=Köln" if row % 9 == 0 else ""] for row in range(ROWS)}
    # A spreadsheet stores most numbers as such. Some are texts.
    numbers = {
        number: int(number) if place % 10 else f"({number[:3]}) {number[3:]}" for place, number in enumerate(rows)
    }
    path.write_bytes(xlsx([COLUMNS, *([*cells, numbers[number]] for number, cells in rows.items())]))
    return rows


def list_chains(provider: str) -> dict[str, list[Call]]:
    """The calls of each number as the provider made them, in this order. Waits until it has posted all results."""
    eventually(lambda: ask(f"{provider}/simulator/ledger").json["callbacks"]["to_come"] == 0)
    chains: dict[str, list[Call]] = {}
    for line in ask(f"{provider}/simulator/ledger/calls").body.splitlines():
        call = json.loads(line)
        assert call["callback"] == "delivered"
        chains.setdefault(call["phone_number"][-10:], []).append(call)
    return chains


def came_to(chain: list[Call]) -> Call:
    """The call that says what a row came to."""
    return next((call for call in chain if call["status"] == "completed"), chain[-1])


def counted(calls: list[Call]) -> dict[str, int]:
    return Counter(call["status"] for call in calls) + Counter(rows=len(calls), final=len(calls))


def ended(service: Service, answer: Answer) -> dict[str, Any]:
    """The batch that was queued, at its end."""
    assert answer.status in (201, 202), answer
    batch_id = int(answer.json["id"])
    eventually(lambda: service.batch(batch_id)["phase"] == "ended", 300)
    return service.batch(batch_id)


def check(batch: dict[str, Any], calls: list[Call]) -> None:
    """The batch has the figures of these calls of the ledger."""
    assert Counter(batch["counts"]) == counted(calls)
    # A call that was canceled before it was dialed is reported with one attempt.
    assert batch["attempts"] == sum(max(call["attempts"], 1) for call in calls)
    assert batch["duration_seconds"] == sum(call["duration"] or 0 for call in calls)


def post(service: Service, path: str, **body: Any) -> Answer:
    headers = {"Content-Type": "application/json", "Prefer": "wait=0"}
    return service.ask(path, "POST", json.dumps(body).encode(), headers)


def test_campaign_of_a_workbook_is_followed_up_twice_and_ends_as_the_provider_says(server_dir: Path) -> None:
    workbook = server_dir / "campaign.xlsx"
    rows = write_workbook(workbook)
    with (
        simulator(0, "--speed", "100000", "--lines", "1000", "--senders", "32", "--seed", "7") as provider,
        Service(
            server_dir, SUBMISSION_ROWS="2000", PLUM_URL=provider, PLUM_USER="simulator", PLUM_KEY="simulator"
        ) as service,
    ):
        eventually(service.is_ready)
        form = {"destination_column": "Telefon", "name": "Campaign"}
        first = ended(service, service.queue(workbook, "Prefer: wait=0", on_recent="refuse", **form))
        batches = [first]
        check(first, [chain[0] for chain in list_chains(provider).values()])

        for _ in range(2):
            path = f"/api/v1/batches/{batches[-1]['id']}/follow-ups"
            last = Counter(
                chain[-1]["status"] for chain in list_chains(provider).values() if len(chain) == len(batches)
            )
            dry = post(service, path, dry_run=True).json
            assert dry["chosen"] == sum(last[outcome] for outcome in FOLLOWED) > 0
            assert {name: count for name, count in dry["left_out"].items() if count} == {
                "completed": last["completed"], "not_chosen": last["canceled"],
            }  # fmt: skip
            followed = ended(service, post(service, path))
            batches.append(followed)
            chains = list_chains(provider)
            check(followed, [chain[-1] for chain in chains.values() if len(chain) == len(batches)])
            assert followed["counts"]["rows"] == dry["chosen"] == followed["counts"]["final"]

        # The same list again.
        refused = service.queue(workbook, on_recent="refuse", **form)
        assert (refused.status, refused.json["code"], refused.json["errors_total"]) == (422, "invalid_csv", ROWS)
        assert {fault["code"] for fault in refused.json["errors"]} == {"recent"}
        recent = service.queue(workbook, dry_run="1", **form).json["recent"]
        assert recent["rows"] == ROWS
        assert {each["id"]: each["rows"] for each in recent["batches"]} == {
            each["id"]: each["counts"]["rows"] for each in batches
        }
        ledger = ask(f"{provider}/simulator/ledger").json
        assert ledger["calls"]["queued"] == sum(each["counts"]["rows"] for each in batches)
        assert ledger["queued_more_than_once"] == []

        # The end.
        chains = list_chains(provider)
        assert chains.keys() == rows.keys()
        final = {number: came_to(chain) for number, chain in chains.items()}
        lineage = service.ask(f"/api/v1/batches/{batches[-1]['id']}/lineage").json
        assert [each["id"] for each in lineage["batches"]] == [each["id"] for each in batches]
        assert Counter(lineage["latest"]) == counted(list(final.values()))

        file = service.ask(f"/api/v1/batches/{first['id']}/calls.csv?latest=1").body.decode()
        exported = list(csv.DictReader(io.StringIO(file, newline=""), strict=True))
        assert [row["phone_number"] for row in exported] == [f"+1{number}" for number in rows]
        for row, cells, call in zip(exported, rows.values(), (final[number] for number in rows), strict=True):
            assert [row["first name"], row["city"].removeprefix("'")] == cells
            assert (row["state"], row["outcome"], row["provider_status"]) == ("final", call["status"], call["status"])
            assert int(row["attempts"]) == max(call["attempts"], 1)
            assert row["duration_seconds"] == ("" if call["duration"] is None else str(call["duration"]))
        assert service.run("export", str(first["id"]), "--latest").stdout == file.replace("\r\n", "\n")
        lines = service.ask(f"/api/v1/batches/{first['id']}/calls.ndjson?latest=1").body.splitlines()
        assert [json.loads(line)["outcome"] for line in lines] == [row["outcome"] for row in exported]
        verified = service.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
