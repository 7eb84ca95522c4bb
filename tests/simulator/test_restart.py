"""With a state file, the simulator continues its submissions after any end of its process."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.simulator.store import forget_all, forget_number
from tests.simulator.receiving import BULK, ResultUrl, ask, settled
from tests.waiting import eventually

NUMBERS = [f"6175551{row:03}" for row in range(300)]
CALLS = "destination\n" + "".join(f"{number}\n" for number in NUMBERS)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "simulator.sqlite3"


@contextmanager
def running_simulator(state: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `simulate`. Yields the process and its URL."""
    command = [sys.executable, "-m", "receiver", "simulate", "--port", "0", "--retry", "20", "--state", str(state)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def queue(simulator_url: str, result_url: str, csv: str = CALLS) -> None:
    assert ask(simulator_url + BULK, "POST", {"result_url": result_url}, csv).status == 200


def bodies(receiver: ResultUrl) -> dict[str, set[bytes]]:
    """The bodies that were posted for each number."""
    found: dict[str, set[bytes]] = defaultdict(set)
    for each in receiver.posts:
        found[each.details["phone_number"].strip("'")[-10:]].add(each.body)
    return found


def read_files(state: Path) -> bytes:
    return b"".join(path.read_bytes() for path in state.parent.glob(f"{state.name}*"))


@pytest.mark.long
def test_killed_simulator_delivers_every_result_after_its_restart_with_the_same_bytes(state: Path) -> None:
    with ResultUrl() as receiver:
        with running_simulator(state, "--speed", "100") as (process, url):
            queue(url, receiver.url)
            eventually(lambda: len(receiver.posts) >= 40)
            process.send_signal(signal.SIGKILL)
            process.wait()
        before = len(bodies(receiver))
        assert before < len(NUMBERS)
        with running_simulator(state, "--speed", "100"):
            eventually(lambda: len(bodies(receiver)) == len(NUMBERS))
        posts = bodies(receiver)
    assert posts.keys() == set(NUMBERS)
    assert {len(each) for each in posts.values()} == {1}, "a result that is delivered twice has the same bytes"
    assert len(receiver.posts) - len(NUMBERS) <= Settings().senders, "only deliveries that were cut off are repeated"


def test_results_that_became_due_while_it_was_stopped_are_delivered_at_once(state: Path) -> None:
    slow = Settings(state=state, speed=0.001)
    with ResultUrl() as receiver:
        with Simulator(slow) as simulator:
            queue(simulator.url, receiver.url)
        assert receiver.posts == []
        with closing(sqlite3.connect(state)) as db, db:
            db.execute("update submission set accepted_at = accepted_at - 1e9")
        with Simulator(slow) as simulator:
            assert settled(simulator.url)["calls"] == {
                "queued": 300, "delivered": 300, "dropped": 0, "failed": 0, "to_come": 0,
            }  # fmt: skip
        assert len(receiver.posts) == len(NUMBERS)


def test_results_refused_before_the_stop_are_delivered_after_it(state: Path) -> None:
    with ResultUrl(answers=(503,) * 100_000) as receiver:
        with Simulator(Settings(state=state, speed=1e6, retry=20)) as simulator:
            queue(simulator.url, receiver.url)
            eventually(lambda: len(receiver.posts) >= len(NUMBERS))
        receiver.received.clear()
        receiver.accept_all()
        with Simulator(Settings(state=state, speed=1e6, retry=20)) as simulator:
            settled(simulator.url)
        assert bodies(receiver).keys() == set(NUMBERS)


def test_result_url_that_was_not_checked_yet_is_checked_again(state: Path) -> None:
    with ResultUrl() as receiver:
        with Simulator(Settings(state=state, speed=0.001)) as simulator:
            queue(simulator.url, receiver.url)
            eventually(lambda: bool(receiver.received))
        receiver.received.clear()
        with closing(sqlite3.connect(state)) as db, db:
            db.execute("update submission set checked = 0")
        with Simulator(Settings(state=state, speed=1e6)) as simulator:
            settled(simulator.url)
        assert receiver.received[0].method == "GET"
        assert len(receiver.posts) == len(NUMBERS)


def test_cancellation_outlives_the_process(state: Path) -> None:
    settings = Settings(state=state, speed=0.001)
    with ResultUrl() as receiver:
        with Simulator(settings) as simulator:
            queue(simulator.url, receiver.url)
            assert ask(simulator.url + BULK.replace("bulk_queue", "cancel"), "DELETE").status == 202
            simulator.stop()
        with Simulator(replace(settings, speed=1e6)) as simulator:
            figures = settled(simulator.url)
    assert figures["statuses"] == {"canceled": len(NUMBERS)}


def test_file_holds_only_unfinished_submissions_and_never_reuses_their_numbers(state: Path) -> None:
    with ResultUrl() as receiver:
        with Simulator(Settings(state=state, speed=1e6)) as simulator:
            queue(simulator.url, receiver.url)
            settled(simulator.url)
            eventually(lambda: NUMBERS[0].encode() not in read_files(state))
            assert not any(number.encode() in read_files(state) for number in NUMBERS)
            assert b"results" not in read_files(state)
            size = state.stat().st_size
        with Simulator(Settings(state=state, speed=1e6)) as simulator:
            assert ask(f"{simulator.url}/simulator/ledger").content["requests"] == []
            queue(simulator.url, receiver.url)
            (request,) = settled(simulator.url)["requests"]
            assert request["submission_no"] == 2
            eventually(lambda: state.stat().st_size <= size)
    assert state.stat().st_mode & 0o777 == 0o600


def test_number_can_be_erased_from_the_file(state: Path) -> None:
    with ResultUrl() as receiver:
        with Simulator(Settings(state=state, speed=0.001)) as simulator:
            queue(simulator.url, receiver.url)
            assert NUMBERS[7].encode() in read_files(state)
            assert forget_number(state, int("1" + NUMBERS[7])) == 1
            assert NUMBERS[7].encode() not in read_files(state), "it is erased while the simulator runs"
        with Simulator(Settings(state=state, speed=1e6)) as simulator:
            settled(simulator.url)
        assert bodies(receiver).keys() == set(NUMBERS) - {NUMBERS[7]}
    assert forget_number(state.parent / "none", 16175551234) == 0
    assert not (state.parent / "none").exists()


def test_everything_can_be_deleted_from_the_file(state: Path) -> None:
    with ResultUrl() as receiver:
        with Simulator(Settings(state=state, speed=0.001)) as simulator:
            queue(simulator.url, receiver.url)
            assert forget_all(state) == 1
            assert not any(number.encode() in read_files(state) for number in NUMBERS)
        with Simulator(Settings(state=state, speed=1e6)) as simulator:
            assert ask(f"{simulator.url}/simulator/ledger").content["requests"] == []


def test_broken_file_does_not_prevent_the_start(state: Path) -> None:
    state.write_bytes(b"no database at all" * 500)
    with ResultUrl() as receiver, Simulator(Settings(state=state, speed=1e6)) as simulator:
        queue(simulator.url, receiver.url)
        assert settled(simulator.url)["calls"]["delivered"] == len(NUMBERS)
