"""Conditions that must be true after any number of kills, when everything has been delivered and settled."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from tests.acceptance.killing.load import POSTED_NUMBERS, application_id
from tests.acceptance.killing.world import World
from tests.acceptance.service import ask

READ_BACK = 40
"""How many stored bodies each check compares byte for byte."""

STATES = ("rows", "skipped", "refused", "pending", "overdue", "final")


def check_promises(world: World) -> None:
    check_acknowledged_is_stored_once(world)
    ledger = check_nothing_was_requested_twice(world)
    batches = world.batches()
    check_what_was_queued(world, batches, ledger)
    check_results(world, batches)
    check_totals(world)
    verified = world.service.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def check_acknowledged_is_stored_once(world: World) -> None:
    """Each body that was answered 200 is in the journal once, and no other body is there twice."""
    posted, acknowledged = world.record.posted, world.record.acknowledged
    stored = world.pages(f"/api/v1/callbacks?batch_id={world.posted_batch}", "callbacks")
    marks = Counter(callback["content_type"].partition("mark=")[2] for callback in stored)
    assert acknowledged - marks.keys() == set(), "answered 200, but lost"
    assert [mark for mark, times in marks.items() if times > 1] == [], "stored twice"
    assert marks.keys() <= posted.keys(), "stored, but never sent"
    assert [callback for callback in stored if callback["state"] == "waiting"] == []
    received = world.service.batch(world.posted_batch)["callbacks"]["received"]
    assert received == len(stored)
    for callback in random.Random(world.seed).sample(stored, min(READ_BACK, len(stored))):
        body = world.service.ask(f"/api/v1/callbacks/{callback['id']}").json["body"]
        assert body.encode() == posted[callback["content_type"].partition("mark=")[2]]


def check_nothing_was_requested_twice(world: World) -> dict[str, Any]:
    """Check what the provider received, and what the worker began to send. Returns the provider's ledger."""
    ledger = world.ledger()
    assert ledger["queued_more_than_once"] == []
    assert [url for url, times in world.steps.requests().items() if times > 1] == []
    return ledger


def check_what_was_queued(world: World, batches: list[dict[str, Any]], ledger: dict[str, Any]) -> None:
    """Each key has one batch, even if a process died before the answer. Each submission has the correct state."""
    at_provider = Counter(request["application_id"] for request in ledger["requests"])
    by_application = {batch["application_id"]: batch for batch in batches}
    assert len(by_application) == len(batches), "a key was answered with two batches"
    for key, batch_id in world.record.queued.items():
        number = int(key.removeprefix("key-"))
        assert by_application[application_id(number)]["id"] == batch_id
    for batch in batches:
        (submission,) = batch["submissions"]
        received = at_provider[batch["application_id"]]
        if submission["state"] == "accepted":
            assert received == 1, (batch, "accepted here, but not at the provider")
        else:
            # It was interrupted while it was sent, or later. A callback would have proved that it was queued.
            assert submission["state"] == "unknown" and received <= 1, batch
        assert submission["calls"] == batch["counts"]["rows"]


def check_results(world: World, batches: list[dict[str, Any]]) -> None:
    """A call has its result if one was delivered, and only calls at the provider have one."""
    delivered: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    attempted: Counter[int] = Counter()
    applications = {each["submission_no"]: each["application_id"] for each in world.ledger()["requests"]}
    for line in ask(f"{world.provider}/simulator/ledger/calls").body.splitlines():
        call = json.loads(line)
        application = applications[call["submission_no"]]
        delivered[application] += call["callback"] == "delivered"
        answered[application] += sum(each["answered"] == 200 for each in call["deliveries"])
        attempted[application] += len(call["deliveries"])
    for listed in batches:
        batch = world.service.batch(listed["id"])
        application, counts = batch["application_id"], batch["counts"]
        assert counts["rows"] == counts["pending"] + counts["overdue"] + counts["final"]
        if batch["id"] == world.posted_batch:
            continue
        assert answered[application] <= batch["callbacks"]["received"] <= attempted[application]
        assert counts["final"] >= delivered[application]
        assert (batch["callbacks"]["unmatched"], batch["callbacks"]["unreadable"]) == (0, 0)
    calls = world.pages(f"/api/v1/batches/{world.posted_batch}/calls", "calls")
    assert [call["row"] for call in calls] == list(range(1, len(POSTED_NUMBERS) + 1)), "each call once"


def check_totals(world: World) -> None:
    """The summary's totals agree with the sums of all batches."""
    totals = world.service.ask("/api/v1/summary").json["totals"]
    batches = world.batches()
    for name in ("rows", "skipped", "refused"):
        assert totals[name] == sum(batch["counts"][name] for batch in batches), name
    assert totals["rows"] == sum(totals[name] for name in STATES[1:])
    assert totals["final"] <= sum(batch["counts"]["final"] for batch in batches)
