from __future__ import annotations

from typing import Any

from receiver.simulator.bodies import SHAPES
from receiver.simulator.faults import Rates
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests.simulator.receiving import BULK, ResultUrl, ask, ledger_lines, settled
from tests.waiting import eventually

CONTACTS = "destination\n" + "".join(f"6175551{no:03d}\n" for no in range(200))
RATES = Rates(drop=0.1, duplicate=0.2, delay=0.3, reorder=0.3, step=0.2, malformed=0.1)


def balanced(ledger: dict[str, Any]) -> bool:
    calls, callbacks = ledger["calls"], ledger["callbacks"]
    assert calls["queued"] == calls["delivered"] + calls["dropped"] + calls["failed"] + calls["to_come"]
    assert callbacks["attempted"] == callbacks["answered_200"] + callbacks["failed"]
    assert callbacks["attempted"] == callbacks["results"] + callbacks["duplicates"] + callbacks["steps"]
    return bool(calls["queued"] and not calls["to_come"])


def test_figures_balance_at_every_moment_and_agree_with_the_calls_and_the_receiver() -> None:
    settings = Settings(speed=2000, rates=RATES, shapes=dict.fromkeys(SHAPES, 1.0))
    with ResultUrl(answers=(500, 503, 404)) as receiver, Simulator(settings) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CONTACTS)
        eventually(lambda: balanced(ask(f"{simulator.url}/simulator/ledger").content))
        ledger = ask(f"{simulator.url}/simulator/ledger").content
        lines = ledger_lines(simulator.url)
    assert ledger["calls"]["queued"] == len(lines) == 200
    for state in ("delivered", "dropped", "failed"):
        assert sum(line["callback"] == state for line in lines) == ledger["calls"][state]
    assert ledger["calls"]["dropped"] == ledger["faults"]["drop"] > 0
    posts = [delivery for line in lines for delivery in line["deliveries"]]
    assert len(posts) == len(receiver.posts) == ledger["callbacks"]["attempted"]
    assert sum(post["answered"] == 200 for post in posts) == ledger["callbacks"]["answered_200"] == len(posts) - 3


def test_ledger_line_describes_one_call() -> None:
    with ResultUrl() as receiver, Simulator(Settings(speed=1e6, outcomes={"completed": 1})) as simulator:
        ask(
            simulator.url + BULK,
            "POST",
            {"result_url": receiver.url},
            "destination\ntel:+16175551234;postd=2\n",
        )
        settled(simulator.url)
        (line,) = ledger_lines(simulator.url)
        (post,) = receiver.posts
    (delivery,) = line.pop("deliveries")
    assert line == {
        "result_url": receiver.url,
        "submission_no": 1,
        "row": 1,
        "destination": "tel:+16175551234;postd=2",
        "phone_number": "16175551234",
        "status": "completed",
        "attempts": 1,
        "duration": post.details["duration"],
        "callback": "delivered",
        "fault": None,
    }
    assert (delivery["what"], delivery["answered"], delivery["fault"]) == ("result", 200, None)


def test_call_without_result_url_is_dialed_and_nothing_is_sent() -> None:
    with Simulator(Settings(speed=1e6)) as simulator:
        ask(simulator.url + BULK, "POST", {}, CONTACTS)
        ledger = settled(simulator.url)
    assert ledger["calls"]["dropped"] == sum(ledger["statuses"].values()) == 200
    assert ledger["faults"] == {"no_result_url": 200}
