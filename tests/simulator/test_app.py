from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from receiver.simulator.app import redacted
from receiver.simulator.faults import Rates
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests.simulator.receiving import BULK, CSV, ResultUrl, ask, ledger_lines, settled
from tests.waiting import eventually

KINDS = ("application/json", "application/xml")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Simulator(Settings(speed=1e6)) as simulator:
        yield simulator.url


@pytest.mark.parametrize("accept", KINDS)
def test_bulk_queue_answers_how_many_calls_it_queued(url: str, accept: str) -> None:
    answer = ask(url + BULK, "POST", {}, CSV + "911,Emergency\n", accept=accept)
    assert (answer.status, answer.headers.get_content_type()) == (200, accept)
    assert answer.content == {"calls_queued": 3 if accept == "application/json" else "3"}


@pytest.mark.parametrize("accept", KINDS)
@pytest.mark.parametrize("status", [401, 403, 404, 409, 500])
def test_deployment_whose_id_is_a_status_is_answered_with_it(url: str, status: int, accept: str) -> None:
    for path, method in (("bulk_queue", "POST"), ("queue", "POST"), ("cancel", "DELETE")):
        answer = ask(f"{url}/api/apps/7/{status}/{path}", method, {}, CSV, accept=accept)
        assert (answer.status, answer.headers.get_content_type()) == (status, accept)
        assert answer.content["error"]


@pytest.mark.parametrize("accept", KINDS)
@pytest.mark.parametrize(
    ("fields", "csv", "fault"),
    [
        ({}, None, "csv is missing"),
        ({"csv": CSV}, None, "csv is missing"),
        ({}, "phone\n6175551234\n", "destination"),
        ({"start_timestamp": "soon"}, CSV, "start_timestamp"),
        ({"end_timestamp": "soon"}, CSV, "end_timestamp"),
        ({"max_attempts": "11"}, CSV, "max_attempts"),
        ({"max_attempts": "2"}, CSV, "reattempt_wait"),
        ({"result_url": "http://example.com/" + "x" * 255}, CSV, "longer than 255"),
        ({"result_url": "nowhere"}, CSV, "not a URL"),
        ({"is_pci": "2"}, CSV, "is_pci"),
    ],
)
def test_invalid_request_is_400_with_the_fault(
    url: str, fields: dict[str, str], csv: str | None, fault: str, accept: str
) -> None:
    before = ask(f"{url}/simulator/ledger").content["calls"]["queued"]
    answer = ask(url + BULK, "POST", fields, csv, accept=accept)
    assert (answer.status, answer.headers.get_content_type()) == (400, accept)
    assert fault in answer.content["error"]
    assert ask(f"{url}/simulator/ledger").content["calls"]["queued"] == before


@pytest.mark.parametrize("accept", KINDS)
@pytest.mark.parametrize("login", [None, "simulator:wrong", "someone:simulator", "simulator"])
def test_wrong_or_no_credentials_are_401(url: str, login: str | None, accept: str) -> None:
    answer = ask(url + BULK, "POST", {}, CSV, login=login, accept=accept)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="simulator"')
    assert answer.content["error"]


@pytest.mark.parametrize("accept", KINDS)
@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        (BULK, "GET", "POST"),
        (BULK, "OPTIONS", "POST"),
        ("/api/apps/7/3/queue", "PUT", "POST"),
        ("/api/apps/7/3/cancel", "POST", "DELETE"),
    ],
)
def test_other_methods_are_405(url: str, path: str, method: str, allowed: str, accept: str) -> None:
    answer = ask(url + path, method, accept=accept)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    assert answer.content["error"]


@pytest.mark.parametrize("path", ["/api/apps/seven/3/bulk_queue", "/api/apps/7/bulk_queue", "/api/outbound/9999-1"])
def test_unknown_address_or_call_is_404(url: str, path: str) -> None:
    answer = ask(url + path)
    assert answer.status == 404 and answer.content["error"]


@pytest.mark.parametrize("accept", ["text/html", "*/*", "", "application/json, application/xml;q=0.5"])
def test_anything_but_xml_is_answered_in_json(url: str, accept: str) -> None:
    assert ask(url + BULK, "POST", {}, CSV, accept=accept).headers.get_content_type() == "application/json"


def test_credentials_are_configurable() -> None:
    with Simulator(Settings(user="me@example.com", key="k:y")) as simulator:
        assert ask(simulator.url + BULK, "POST", {}, CSV, login="me@example.com:k:y").status == 200
        assert ask(simulator.url + BULK, "POST", {}, CSV).status == 401


def test_call_ids_are_a_list_or_a_map_if_configured() -> None:
    with Simulator(Settings(call_ids="list")) as simulator:
        assert ask(simulator.url + BULK, "POST", {}, CSV).content["call_ids"] == ["1-1", "1-2", "1-3"]
    with Simulator(Settings(call_ids="map")) as simulator:
        content = ask(simulator.url + BULK, "POST", {}, CSV).content
        assert content["call_ids"] == {
            "6175551234": "1-1",
            "tel:+16175551299": "1-2",
            "16175550188;postd=2": "1-3",
        }
        assert (
            b'<item key="6175551234">2-1</item>'
            in ask(simulator.url + BULK, "POST", {}, CSV, accept="application/xml").body
        )


@pytest.mark.parametrize("accept", KINDS)
def test_single_call_is_queued_and_its_status_can_be_read(url: str, accept: str) -> None:
    queued = ask(f"{url}/api/apps/7/3/queue", "POST", {"phone_number": "6175551234"}, accept=accept)
    call_id = queued.content["call_id"]
    assert queued.headers["Link"] == f'<{url}/api/outbound/{call_id}>; rel="status"'
    status = ask(f"{url}/api/outbound/{call_id}", accept=accept)
    assert status.status == 200
    assert b"'6175551234'" in status.body or b"'16175551234'" in status.body
    assert "call_details" in status.content


@pytest.mark.parametrize("fields", [{}, {"phone_number": "911"}, {"phone_number": "6175551234", "max_attempts": "2"}])
def test_single_call_with_a_fault_is_400(url: str, fields: dict[str, str]) -> None:
    assert ask(f"{url}/api/apps/7/3/queue", "POST", fields).status == 400


def test_status_of_a_call_changes_as_it_is_dialed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time, sleep=time.sleep)
    monkeypatch.setattr("receiver.simulator.exchange.time", clock)
    with Simulator(Settings(speed=1000, outcomes={"completed": 1})) as simulator:
        queued = ask(f"{simulator.url}/api/apps/7/3/queue", "POST", {"phone_number": "6175551234"})

        def status() -> str:
            details = ask(f"{simulator.url}/api/outbound/{queued.content['call_id']}").content["call_details"]
            return str(details["status"])

        def await_status(expected: str) -> None:
            eventually(lambda: status() == expected, otherwise=status)

        assert status() == "queued"
        # The plan of this seed (see test_calls.py): dialed after one second, 25 s of ringing, 30 s of talking.
        for seconds, expected in ((1.5, "dialing"), (26.5, "connected"), (56.5, "completed")):
            now = 1000.0 + seconds / 1000
            await_status(expected)


def test_cancel_sends_a_burst_for_pending_calls_of_that_deployment_only() -> None:
    numbers = "".join(f"61755512{no:02d}\n" for no in range(50))
    with ResultUrl() as receiver, Simulator(Settings(lines=1, speed=1)) as simulator:
        fields = {"result_url": receiver.url}
        assert ask(simulator.url + BULK, "POST", fields, f"destination\n{numbers}").status == 200
        other = {"result_url": f"{receiver.url}-other"}
        assert ask(f"{simulator.url}/api/apps/7/4/bulk_queue", "POST", other, f"destination\n{numbers}").status == 200
        # A submission is dialed only after its GET is answered.
        eventually(lambda: len(receiver.received) == 2)
        answer = ask(f"{simulator.url}/api/apps/7/3/cancel", "DELETE")
        assert (answer.status, answer.body) == (202, b"")
        eventually(lambda: len(receiver.posts) >= 49)
        canceled = [each for each in receiver.posts if each.details["status"] == "canceled"]
        assert len(canceled) >= 49
        assert {each.path for each in canceled} == {"/results/a-token"}


@pytest.mark.parametrize("accept", KINDS)
def test_error_after_acceptance_still_queues(accept: str) -> None:
    rates = Rates(error_after_acceptance=1)
    with ResultUrl() as receiver, Simulator(Settings(speed=1e6, rates=rates)) as simulator:
        answer = ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV, accept=accept)
        assert (answer.status, answer.content) == (500, {"error": "database error"})
        assert settled(simulator.url)["calls"]["delivered"] == 3


def test_timeout_after_acceptance_dials_and_never_answers() -> None:
    rates = Rates(timeout_after_acceptance=1)
    with ResultUrl() as receiver, Simulator(Settings(speed=1e6, rates=rates)) as simulator:
        with pytest.raises(TimeoutError):
            ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV, timeout=0.5)
        assert settled(simulator.url)["calls"]["delivered"] == 3


def test_ledger_lists_a_result_url_that_was_queued_twice() -> None:
    with ResultUrl() as receiver, Simulator(Settings(speed=1e6)) as simulator:
        for url in (receiver.url, f"{receiver.url}2", receiver.url):
            assert ask(simulator.url + BULK, "POST", {"result_url": url}, CSV).status == 200
        ledger = settled(simulator.url)
        assert ledger["queued_more_than_once"] == [receiver.url]
        assert [each["times_queued"] for each in ledger["requests"]] == [2, 1, 2]
        assert {(each["application_id"], each["deployment_id"]) for each in ledger["requests"]} == {(7, 3)}


def test_window_that_is_over_cancels_every_call() -> None:
    with ResultUrl() as receiver, Simulator(Settings(speed=60)) as simulator:
        fields = {"result_url": receiver.url, "end_timestamp": str(int(time.time()) - 5)}
        assert ask(simulator.url + BULK, "POST", fields, CSV).status == 200
        assert settled(simulator.url)["statuses"] == {"canceled": 3}
        assert [each.details["end_timestamp"] for each in receiver.posts] == [fields["end_timestamp"]] * 3


def test_two_runs_of_one_seed_post_the_same_bytes() -> None:
    def run(seed: int) -> tuple[list[bytes], list[tuple[object, ...]]]:
        rates = Rates(*[0.2] * 10)  # all except slow senders and faults of the answer
        with ResultUrl() as receiver:
            settings = Settings(seed=seed, speed=1e6, epoch=1700000000, rates=rates, senders=4, lines=3)
            with Simulator(settings) as simulator:
                fields = {"result_url": receiver.url, "max_attempts": "3", "reattempt_wait": "60"}
                numbers = "".join(f"61755512{no:02d}\n" for no in range(30))
                for _ in range(2):
                    ask(simulator.url + BULK, "POST", fields, f"destination\n{numbers}")
                settled(simulator.url)
                names = ("submission_no", "row", "status", "attempts", "duration", "callback", "fault")
                lines = [tuple(line[name] for name in names) for line in ledger_lines(simulator.url)]
                eventually(lambda: _is_complete(simulator.url))
                return sorted(each.body for each in receiver.posts), lines

    first = run(1)
    assert len(first[0]) > 40
    assert run(1) == first
    assert run(2) != first


def _is_complete(url: str) -> bool:
    """Whether the duplicates and steps that follow a delivered result are also delivered."""
    wanted = 0
    for line in ledger_lines(url):
        if line["callback"] != "dropped":
            faults = (line["fault"] or "").split("+")
            wanted += 1 + ("duplicate" in faults) + ("step" in faults)
    attempted: int = ask(f"{url}/simulator/ledger").content["callbacks"]["attempted"]
    return attempted == wanted


def test_log_has_one_line_per_request_without_token_or_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "receiver.simulator")
    with ResultUrl() as receiver, Simulator(Settings(speed=1e6)) as simulator:
        ask(simulator.url + BULK, "POST", {"result_url": receiver.url}, CSV + "911,x\n")
        ask(f"{simulator.url}/api/apps/7/3/queue", "POST", {"phone_number": "6175551234"})
        settled(simulator.url)
    messages = [each.getMessage() for each in caplog.records if each.name.startswith("receiver.simulator")]
    where = receiver.url.removesuffix("a-token") + "…"
    assert messages == [
        f"bulk_queue application 7 deployment 3: 3 calls queued, 1 left out, result_url {where}",
        "queue application 7 deployment 3: ********34 queued, result_url none",
    ]


def test_redacted_url_has_no_secret_part() -> None:
    assert redacted("https://me:pw@example.com/results/tok/?key=1#x") == "https://example.com/results/…"
