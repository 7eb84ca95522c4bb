"""Conditions that must be true after any number of kills, when everything has been delivered and settled."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from tests.acceptance.killing.endpoint import Subject, as_delivered
from tests.acceptance.killing.load import POSTED_NUMBERS, application_id
from tests.acceptance.killing.world import World
from tests.acceptance.service import ask
from tests.acceptance.test_delivered_campaign import Key, follow, list_calls
from tests.waiting import eventually

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
    check_pace_and_pauses(world, batches)
    calls = {key: call for batch in batches for key, call in list_calls(world.service, batch["id"]).items()}
    check_follow_ups(calls)
    check_endpoint(world, batches, calls)
    check_feed(world, calls)
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
        states = Counter(submission["state"] for submission in batch["submissions"])
        assert states.keys() <= {"accepted", "unknown"}, batch
        # An unknown one was interrupted while it was sent, or later. A callback would have proved that it was queued.
        received = at_provider[batch["application_id"]]
        assert states["accepted"] <= received <= states.total(), (batch, "not what is at the provider")
        assert sum(submission["calls"] for submission in batch["submissions"]) == batch["counts"]["rows"]


def check_results(world: World, batches: list[dict[str, Any]]) -> None:
    """A call has its result if one was delivered, and only calls at the provider have one. No number of a batch was
    dialed twice."""
    dialed: Counter[tuple[int, str]] = Counter()
    delivered: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    attempted: Counter[int] = Counter()
    applications = {each["submission_no"]: each["application_id"] for each in world.ledger()["requests"]}
    for line in ask(f"{world.provider}/simulator/ledger/calls").body.splitlines():
        call = json.loads(line)
        application = applications[call["submission_no"]]
        dialed[application, call["phone_number"]] += 1
        delivered[application] += call["callback"] == "delivered"
        answered[application] += sum(each["answered"] == 200 for each in call["deliveries"])
        attempted[application] += len(call["deliveries"])
    assert [each for each, times in dialed.items() if times > 1] == []
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


def check_pace_and_pauses(world: World, batches: list[dict[str, Any]]) -> None:
    """A kill does not let a batch exceed its pace, or release something while it is paused."""
    for batch in batches:
        if (pace := batch["parameters"]["calls_per_minute"]) is None:
            continue
        released = sorted((datetime.fromisoformat(each["release_at"]), each["calls"]) for each in batch["submissions"])
        for (at, calls), (next_at, _) in pairwise(released):
            # One that was late by up to a second lets the next one come earlier.
            assert next_at - at >= timedelta(seconds=60 * calls / pace - 1), batch
    assert [each for each in world.record.pauses if each.at_pause - each.at_resumption] == [], "released in a pause"


def check_follow_ups(calls: dict[Key, dict[str, Any]]) -> None:
    """Each call is followed up at most once, and only if it was not reached."""
    links = [(call["follows"], call) for call in calls.values() if call["follows"] is not None]
    followed = Counter((earlier["batch_id"], earlier["row"]) for earlier, _ in links)
    assert [key for key, times in followed.items() if times > 1] == [], "followed up twice"
    for link, call in links:
        earlier = calls[link["batch_id"], link["row"]]
        assert earlier["outcome"] in ("failed", "rejected") and earlier["phone_number"] == call["phone_number"], call
        assert earlier["followed_by"] == {"batch_id": call["batch_id"], "row": call["row"]}


def check_endpoint(world: World, batches: list[dict[str, Any]], calls: dict[Key, dict[str, Any]]) -> None:
    """The endpoint got every event at least once, and nothing else. Each call with a result got there as it is now."""
    inbox = world.inbox
    assert inbox.faults == [], inbox.faults
    assert [id_ for id_, meant in inbox.meanings.items() if len(meant) > 1] == [], "one id for several events"
    owed, arrived = world.events_owed(), len(inbox.meanings)
    assert owed == {"delivered": arrived, "waiting": 0, "given_up": 0}, f"{owed}, but {arrived} arrived"
    final = {key: call for key, call in calls.items() if call["state"] == "final"}
    outdated = [key for key, call in final.items() if as_delivered(call) not in inbox.results[key]]
    assert outdated == [], f"the last result did not arrive: {outdated}"
    submissions: dict[Subject, str] = {
        (batch["id"], each["id"]): each["state"] for batch in batches for each in batch["submissions"]
    }
    unreadable = world.pages("/api/v1/callbacks?state=unreadable", "callbacks")
    # A callback can have proved since then that an unknown submission was queued.
    once_unknown = {key for key in inbox.subjects("submission.unknown") if submissions.get(key) == "accepted"}
    expected: dict[str, set[Subject]] = {
        "call.result": {*final},
        "batch.ended": {(batch["id"],) for batch in batches if batch["phase"] == "ended"},
        "submission.unknown": {key for key, state in submissions.items() if state == "unknown"} | once_unknown,
        "callback.unreadable": {(each["batch_id"], each["id"]) for each in unreadable},
    }
    assert inbox.types() <= expected.keys(), f"this did not happen: {inbox.types() - expected.keys()}"
    for event, subjects in expected.items():
        found = inbox.subjects(event)
        assert found == subjects, f"{event}: missing {subjects - found}, did not happen {found - subjects}"


def check_feed(world: World, calls: dict[Key, dict[str, Any]]) -> None:
    """The feed has each call with a result, as the API shows it."""
    final = {key: call for key, call in calls.items() if call["state"] == "final"}
    # An entry gets its position a moment later.
    eventually(lambda: follow(world.service) == final)
