"""Callbacks that arrive at a real `result_url`, with each fault at rate 1."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from receiver.simulator.calls import FINAL_STATUSES
from receiver.simulator.faults import UNDOCUMENTED_STATUSES, WRONG_CONTENT_TYPES, Rates
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests.simulator.receiving import BULK, CSV, Received, ResultUrl, ask, settled
from tests.waiting import eventually

FAST = Settings(speed=1e6)


def delivered(settings: Settings, posts: int = 3) -> tuple[list[Received], dict[str, Any]]:
    """The POSTs that arrive for three calls, and the ledger after that many POSTs."""
    with ResultUrl() as receiver, Simulator(settings) as simulator:
        assert ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV).status == 200
        settled(simulator.url)
        ledger: dict[str, Any] = {}

        def made() -> bool:
            ledger.update(ask(f"{simulator.url}/simulator/ledger").content)
            return bool(ledger["callbacks"]["attempted"] == posts)

        eventually(made)
        assert receiver.received[0].method == "GET"
        return receiver.posts, ledger


def with_rates(**rates: float) -> Settings:
    return replace(FAST, rates=Rates(**rates))


def test_without_faults_each_call_is_posted_once_as_documented() -> None:
    posts, ledger = delivered(FAST)
    assert {each.content_type for each in posts} == {"application/json"}
    assert {each.details["phone_number"].strip("'")[-10:] for each in posts} == {
        "6175551234",
        "6175551299",
        "6175550188",
    }
    assert all(each.details["phone_number"].startswith("'") for each in posts)
    assert Counter(each.details["status"] for each in posts) == ledger["statuses"]
    assert set(ledger["statuses"]) <= set(FINAL_STATUSES)
    assert ledger["faults"] == {}


def test_drop_delivers_nothing() -> None:
    posts, ledger = delivered(with_rates(drop=1), posts=0)
    assert posts == []
    assert ledger["calls"] == {"queued": 3, "delivered": 0, "dropped": 3, "failed": 0, "to_come": 0}


def test_duplicate_is_the_same_bytes_again() -> None:
    posts, ledger = delivered(with_rates(duplicate=1), posts=6)
    assert set(Counter(each.body for each in posts).values()) == {2}
    assert (ledger["callbacks"]["duplicates"], ledger["calls"]["delivered"]) == (3, 3)


def test_delayed_result_arrives_at_least_a_simulated_minute_after_its_call() -> None:
    settings = replace(with_rates(delay=1), speed=1e4, outcomes={"rejected": 1})
    began = time.monotonic()
    posts, _ = delivered(settings)
    # Rejected calls are over within four simulated seconds; the longest delay is two hours.
    assert len(posts) == 3 and time.monotonic() - began >= 60 / settings.speed


def test_step_comes_before_its_result_and_after_it_when_reordered() -> None:
    def statuses(settings: Settings) -> list[list[str]]:
        posts, _ = delivered(replace(settings, outcomes={"completed": 1}), posts=6)
        by_number: dict[str, list[str]] = {}
        for each in posts:
            by_number.setdefault(each.details["phone_number"], []).append(each.details["status"])
        return list(by_number.values())

    assert statuses(with_rates(step=1)) == [["connected", "completed"]] * 3
    assert statuses(with_rates(step=1, reorder=1)) == [["completed", "connected"]] * 3


def test_body_with_a_wrong_content_type_is_still_json() -> None:
    posts, _ = delivered(with_rates(wrong_content_type=1))
    for each in posts:
        assert (each.content_type or "") in WRONG_CONTENT_TYPES
        assert each.details["status"] in FINAL_STATUSES


def test_unknown_status_is_the_same_in_ledger_and_body() -> None:
    posts, ledger = delivered(with_rates(unknown_status=1))
    assert {each.details["status"] for each in posts} <= set(UNDOCUMENTED_STATUSES)
    assert Counter(each.details["status"] for each in posts) == ledger["statuses"]


def test_extra_fields_are_added() -> None:
    posts, _ = delivered(with_rates(extra_fields=1))
    assert sorted(each.details["call_id"] for each in posts) == ["1-1", "1-2", "1-3"]


def test_malformed_body_cannot_be_parsed() -> None:
    posts, ledger = delivered(with_rates(malformed=1))
    for each in posts:
        with pytest.raises(json.JSONDecodeError):
            each.details  # noqa: B018 - reading it parses the body
    assert ledger["faults"] == {"malformed": 3}


def test_inconsistent_body_is_counted() -> None:
    _, ledger = delivered(with_rates(inconsistent=1))
    assert ledger["faults"] == {"inconsistent": 3}


def test_slow_sender_sends_whole_bodies_slowly() -> None:
    posts, _ = delivered(with_rates(slow_sender=1))
    assert all(each.seconds > 1.5 and each.details["status"] for each in posts)


@pytest.mark.parametrize(
    ("shape", "content_type", "holds"),
    [
        ("wrapped", "application/json", lambda body: b'{"call_details":' in body),
        (
            "form",
            "application/x-www-form-urlencoded",
            lambda body: b"events%5B0%5D%5Bevent%5D=queued" in body,
        ),
        ("field", "application/x-www-form-urlencoded", lambda body: body.startswith(b"call_details=%7B")),
        ("multipart", "multipart/form-data", lambda body: b'name="events[0][event]"' in body),
        (
            "xml",
            "application/xml",
            lambda body: body.startswith(b'<?xml version="1.0"?><result><call_details>'),
        ),
    ],
)
def test_shape(shape: str, content_type: str, holds: Callable[[bytes], bool]) -> None:
    posts, _ = delivered(replace(FAST, shapes={shape: 1}))
    assert all((each.content_type or "").startswith(content_type) and holds(each.body) for each in posts)


def test_request_is_dropped_unless_its_result_url_answers_200() -> None:
    with ResultUrl(get=204) as receiver, Simulator(FAST) as simulator:
        assert ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV).content == {"calls_queued": 3}
        ledger = settled(simulator.url)
        assert (ledger["calls"]["dropped"], ledger["statuses"]) == (3, {})
        assert ledger["faults"] == {"request_check": 1}
        assert [each.method for each in receiver.received] == ["GET"]


def test_without_the_check_no_get_is_sent() -> None:
    with ResultUrl(get=404) as receiver, Simulator(replace(FAST, check=False)) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV)
        assert settled(simulator.url)["calls"]["delivered"] == 3
        assert {each.method for each in receiver.received} == {"POST"}


def test_failed_delivery_is_never_tried_again() -> None:
    with ResultUrl(answers=(503, 302)) as receiver, Simulator(FAST) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV)
        ledger = settled(simulator.url)
        assert ledger["calls"] == {"queued": 3, "delivered": 1, "dropped": 0, "failed": 2, "to_come": 0}
        assert ledger["callbacks"]["failed"] == 2
    assert len(receiver.posts) == 3


def test_retry_tries_a_failed_delivery_again() -> None:
    with ResultUrl(answers=(503,)) as receiver, Simulator(replace(FAST, retry=1)) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV)
        ledger = settled(simulator.url)
        assert (ledger["calls"]["delivered"], ledger["callbacks"]["attempted"]) == (3, 4)
    assert Counter(each.body for each in receiver.posts).most_common(1)[0][1] == 2


def test_duplicates_count_as_to_come_until_they_are_delivered() -> None:
    with ResultUrl() as receiver, Simulator(replace(with_rates(duplicate=1), speed=200)) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV)

        def balanced() -> bool:
            ledger = ask(f"{simulator.url}/simulator/ledger").content
            ended, posts = sum(ledger["statuses"].values()), ledger["callbacks"]
            assert posts["attempted"] + posts["to_come"] == 2 * ended
            return bool(posts["attempted"] == 6)

        eventually(balanced)
    assert len(receiver.posts) == 6


def test_unreachable_receiver_is_a_failed_delivery() -> None:
    with ResultUrl() as receiver:
        url = receiver.url
    with Simulator(replace(FAST, check=False)) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": url}, CSV)
        assert settled(simulator.url)["calls"]["failed"] == 3


def test_connections_are_reused_and_not_more_than_senders() -> None:
    numbers = "".join(f"6175551{no:03d}\n" for no in range(300))
    with ResultUrl() as receiver, Simulator(replace(FAST, senders=4, lines=300)) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, f"destination\n{numbers}")
        assert settled(simulator.url)["calls"]["delivered"] == 300
        assert len({each.connection for each in receiver.received}) <= 4


def seconds_to_stop() -> float:
    """How long a stop takes while slow bodies are sent."""
    with ResultUrl() as receiver:
        with Simulator(replace(with_rates(slow_sender=1), senders=2)) as simulator:
            ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV)
            eventually(lambda: bool(receiver.received))
            began = time.monotonic()
        return time.monotonic() - began


def test_stop_cuts_off_deliveries_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    # One of several attempts is enough, because the machine may be busy.
    assert any(seconds_to_stop() < 2 for _ in range(5))

    def left() -> list[str]:
        names = [each.name for each in set(threading.enumerate()) - before]
        return [name for name in names if name.startswith(("sender", "exch", "sim"))]

    eventually(lambda: left() == [], otherwise=left)
