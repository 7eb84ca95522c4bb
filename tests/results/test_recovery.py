"""Results that were not delivered are fetched from the provider, at a limited rate, and not for ever."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from receiver.config import Config
from receiver.database.pool import Connection, Pool, open_pool
from receiver.release.answer import Answer
from receiver.release.provider import Got, Provider, QueueRequest, bulk_queue, get
from receiver.release.sender import csv_blocks
from receiver.results import polls
from receiver.results.maintenance import Maintenance
from receiver.results.polls import MOST_TRIES, claim_poll, plan_polls
from receiver.results.recovery import Polled, poll_once
from receiver.simulator.faults import Rates
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from tests import factories
from tests.factories import (
    answer_submissions,
    deliver,
    differences,
    make_batch,
    phone_number,
    present,
    read_batch,
    result_body,
)
from tests.release.provider_server import Server, hold, http, serving
from tests.results.polling import plan_all
from tests.simulator.receiving import settled
from tests.waiting import eventually

NUMBERS = [phone_number(index) for index in range(5)]
FAST = 10_000.0


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    opened = open_pool(database_url, max_size=4, name="test")
    yield opened
    opened.close()


@contextlib.contextmanager
def silent_provider(call_ids: Literal["list", "map"] | None, speed: float = 50_000) -> Iterator[Simulator]:
    """Dials every call, returns ids, and delivers nothing."""
    settings = Settings(
        check=False, speed=speed, call_ids=call_ids, rates=Rates(drop=1), outcomes={"completed": 1, "failed": 1}
    )
    with Simulator(settings) as simulator:
        yield simulator


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[Server]:
    """Read a request without a body, answer it, and close the connection."""

    def script(connection: socket.socket, server: Server) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += connection.recv(4096)
        server.requests.append(request)
        connection.sendall(answer)

    with serving(script) as server:
        yield server


def provider_at(url: str) -> Provider:
    return Provider(url, "simulator", "simulator", connect_timeout=60, read_timeout=60)


def make_overdue(conn: Connection, url: str, numbers: list[int] = NUMBERS) -> int:
    """A batch that this provider accepted, with all calls overdue."""
    batch_id = make_batch(conn, numbers, send=False)

    def send(outgoing: Any) -> Answer:
        request = QueueRequest(7, 3, "http://127.0.0.1:9/results/x")
        return bulk_queue(provider_at(url), request, csv_blocks(conn, outgoing), outgoing.csv_bytes)

    answer_submissions(conn, send)
    factories.make_overdue(conn, batch_id)
    return batch_id


def make_poll(conn: Connection, call_id: str, *, tries: int = 0) -> int:
    """An overdue batch with one poll planned."""
    batch_id = make_batch(conn, NUMBERS[:1], past_due=True)
    conn.execute("update submission set answer = %s", (json.dumps({"call_ids": [call_id]}),))
    assert plan_polls(conn) is not None
    conn.execute("update poll set tries = %s", (tries,))
    conn.commit()
    return batch_id


def poll_row(conn: Connection) -> tuple[int, timedelta | None, int | None, str | None] | None:
    """(tries, how long until the next one, provider status, error) of the only poll."""
    row = conn.execute("select tries, next_try_at - now(), provider_status, error from poll").fetchone()
    conn.commit()
    return row


@pytest.mark.parametrize("call_ids", ["list", "map"])
def test_every_overdue_result_is_fetched(conn: Connection, pool: Pool, call_ids: Literal["list", "map"]) -> None:
    with silent_provider(call_ids) as simulator:
        batch_id = make_overdue(conn, simulator.url, [*NUMBERS, phone_number(9)])
        settled(simulator.url)
        deliver(conn, batch_id, result_body(phone_number(9)))
        assert plan_all(conn) == 5
        asked: list[Polled] = []
        while len(asked) < 5:
            if (one := poll_once(pool, provider_at(simulator.url), FAST)) is not None:
                asked.append(one[1])
    assert asked == ["result"] * 5
    batch = read_batch(conn, batch_id)
    assert (batch.counts["overdue"], batch.counts["final"]) == (0, 6)
    assert present(batch.callbacks) == {"received": 1, "applied": 1}
    assert conn.execute("select count(*) from poll").fetchone() == (0,)
    assert differences(conn) == []


def test_call_in_progress_stays_overdue_and_is_polled_later(conn: Connection, pool: Pool) -> None:
    with silent_provider("list", speed=0.01) as simulator:
        batch_id = make_overdue(conn, simulator.url, NUMBERS[:1])
        plan_all(conn)
        asked = poll_once(pool, provider_at(simulator.url), FAST)
    assert asked is not None and asked[1] == "later"
    assert present(read_batch(conn, batch_id).counts) == {"rows": 1, "overdue": 1}
    row = poll_row(conn)
    assert row is not None and row[1] is not None and timedelta(seconds=50) < row[1] <= timedelta(minutes=1)
    assert poll_once(pool, provider_at("http://127.0.0.1:9"), FAST) is None
    assert differences(conn) == []


@pytest.mark.parametrize(
    ("call_id", "polled", "status"),
    [("404", "never", 404), ("403", "never", 403), ("9-9", "never", 404), ("500", "later", 500)],
)
def test_refused_poll_is_repeated_only_if_that_can_help(
    conn: Connection, pool: Pool, call_id: str, polled: Polled, status: int
) -> None:
    make_poll(conn, call_id)
    with silent_provider(None) as simulator:
        asked = poll_once(pool, provider_at(simulator.url), FAST)
    assert asked is not None and asked[1] is polled
    row = poll_row(conn)
    assert row is not None and row[2] == status and row[3]
    assert (row[1] is None) == (polled == "never")


def test_refused_credentials_pause_all_polls_without_counting_a_try(conn: Connection, pool: Pool) -> None:
    make_poll(conn, "1-1")
    with silent_provider(None) as simulator:
        wrong = Provider(simulator.url, "simulator", "another key")
        asked = poll_once(pool, wrong, FAST)
    assert asked is not None and asked[1] == "paused"
    assert "another key" not in asked[2]
    row = poll_row(conn)
    assert row is not None and (row[0], row[2]) == (0, 401)
    make_poll_due(conn)
    assert poll_once(pool, provider_at("http://127.0.0.1:9"), FAST) is None


def make_poll_due(conn: Connection) -> None:
    conn.execute("update poll set next_try_at = now()")
    conn.commit()


@pytest.mark.parametrize(("said", "seconds"), [("90", 90), ("1", 60), ("999999999999", 3600), ("Wed, 21 Oct", 300)])
def test_retry_after_of_the_provider_is_respected(conn: Connection, pool: Pool, said: str, seconds: int) -> None:
    make_poll(conn, "1-1")
    with answering(http(429, b"{}", "application/json", f"Retry-After: {said}")) as server:
        asked = poll_once(pool, provider_at(server.url), FAST)
    assert asked is not None and asked[1] == "paused"
    row = conn.execute("select next_at - now() from upkeep where task = 'poll'").fetchone()
    assert row is not None and abs(row[0].total_seconds() - seconds) < 10


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"<html>Log in</html>", "text/html"),
        http(200, b""),
        http(200, b'{"call_details": []}'),
        http(200, b'{"phone_number": "6175550000", "status": "completed", "x": "' + b"x" * 70_000 + b'"}'),
        http(302, b"", "text/html", "Location: http://127.0.0.1:9/"),
        http(200, result_body(NUMBERS[0]))[:-20],
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_answer_without_details_is_not_stored_and_requested_again(conn: Connection, pool: Pool, answer: bytes) -> None:
    batch_id = make_poll(conn, "1-1")
    with answering(answer) as server:
        asked = poll_once(pool, provider_at(server.url), FAST)
    assert asked is not None and asked[1] == "later", asked
    assert conn.execute("select count(*) from callback").fetchone() == (0,)
    assert present(read_batch(conn, batch_id).counts) == {"rows": 1, "overdue": 1}


def test_unreachable_or_silent_provider_is_asked_again(conn: Connection, pool: Pool) -> None:
    make_poll(conn, "1-1")
    assert poll_once(pool, provider_at("http://127.0.0.1:9"), FAST) is not None
    make_poll_due(conn)
    with serving(hold) as server:
        provider = Provider(server.url, "u", "k", read_timeout=0.2)
        asked = poll_once(pool, provider, FAST)
    assert asked is not None and asked[1] == "later"
    row = poll_row(conn)
    assert row is not None and row[0] == 2 and row[1] is not None and row[1] > timedelta(seconds=100)


def test_no_call_is_polled_for_ever(conn: Connection, pool: Pool) -> None:
    make_poll(conn, "500", tries=MOST_TRIES - 1)
    with silent_provider(None) as simulator:
        assert poll_once(pool, provider_at(simulator.url), FAST) is not None
    row = poll_row(conn)
    assert row is not None and row[:2] == (MOST_TRIES, None)


def test_id_of_another_call_is_not_polled_again(conn: Connection, pool: Pool) -> None:
    batch_id = make_poll(conn, "1-1")
    with answering(http(200, result_body(phone_number(77)))) as server:
        asked = poll_once(pool, provider_at(server.url), FAST)
    assert asked is not None and asked[1] == "never"
    assert present(read_batch(conn, batch_id).callbacks) == {}
    assert differences(conn) == []


def test_id_cannot_lead_to_another_address(conn: Connection, pool: Pool) -> None:
    make_poll(conn, "../apps/7/3/cancel?a=b#c")
    with answering(http(404, b"{}")) as server:
        poll_once(pool, provider_at(server.url), FAST)
    request = server.requests[0]
    assert request.startswith(b"GET /api/outbound/..%2Fapps%2F7%2F3%2Fcancel%3Fa%3Db%23c HTTP/1.1\r\n")
    assert b"Content-Length" not in request and b"Content-Type" not in request


def test_all_workers_together_keep_the_rate(conn: Connection, pool: Pool) -> None:
    make_batch(conn, [phone_number(index) for index in range(60)], past_due=True)
    conn.execute("update submission set answer = %s", (json.dumps({"call_ids": list(range(1, 61))}),))
    assert plan_all(conn) == 60
    claimed: list[tuple[datetime, int]] = []
    enough = threading.Event()

    def claim() -> None:
        while not enough.is_set():
            with pool.connection() as own:
                if (poll := claim_poll(own, 20.0)) is not None:
                    row = own.execute("select now()").fetchone()
                    assert row is not None
                    claimed.append((row[0], poll.row))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(claimed) >= 10)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    # The database's time, at the beginning of each transaction that claimed a poll.
    moments = sorted(moment for moment, _ in claimed)
    assert min(after - before for before, after in pairwise(moments)) >= timedelta(seconds=0.05)
    assert len({row for _, row in claimed}) == len(claimed)


def test_request_of_a_dead_worker_is_repeated_after_its_lease(conn: Connection) -> None:
    make_poll(conn, "1-1")
    assert claim_poll(conn, FAST) is not None
    conn.commit()
    row = poll_row(conn)
    assert row is not None and row[0] == 1 and row[1] is not None and row[1] > polls.LEASE - timedelta(seconds=30)


def test_calls_that_ended_meanwhile_are_not_polled(conn: Connection) -> None:
    batch_id = make_poll(conn, "1-1")
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    assert claim_poll(conn, FAST) is None
    conn.commit()
    assert poll_row(conn) is None


def test_nothing_is_planned_before_calls_are_overdue_nor_without_ids(conn: Connection) -> None:
    early, without = make_batch(conn, NUMBERS), make_batch(conn, NUMBERS, past_due=True)
    conn.execute("update submission set answer = %s where batch_id = %s", ('{"call_ids": ["a"]}', early))
    conn.execute("update submission set answer = %s where batch_id = %s", ('{"calls_queued": 5}', without))
    assert plan_all(conn) == 0
    factories.make_overdue(conn)
    conn.commit()
    assert plan_all(conn) == 1
    assert plan_polls(conn) is None


def test_result_that_is_delivered_during_its_poll_wins(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_poll(conn, "1-1")

    def get_slowly(provider: Provider, path: str) -> Got:
        deliver(conn, batch_id, result_body(NUMBERS[0], "failed"))
        return get(provider, path)

    monkeypatch.setattr("receiver.results.recovery.get", get_slowly)
    with answering(http(200, result_body(NUMBERS[0], "failed"))) as server:
        asked = poll_once(pool, provider_at(server.url), FAST)
    assert asked is not None and asked[1] == "result"
    assert present(read_batch(conn, batch_id).callbacks) == {"received": 1, "applied": 1}
    assert poll_row(conn) is None
    assert differences(conn) == []


def test_maintenance_reports_overdue_calls_and_polls_them(
    conn: Connection, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = Config(data_dir=Path("/nowhere"), public_url="", port=1, result_poll_rate=100)
    with silent_provider("map") as simulator:
        batch_id = make_overdue(conn, simulator.url)
        settled(simulator.url)
        conn.execute("update submission set overdue_at = null")
        conn.execute("update batch_count set overdue = 0")
        conn.execute("update batch set overdue_noticed = false")
        conn.commit()
        maintenance = Maintenance(pool, provider_at(simulator.url), config, threading.Event())
        assert [name for name, _ in maintenance.steps()] == [
            "overdue",
            "feed",
            "slots",
            "plan-polls",
            "poll-1",
            "poll-2",
        ]
        for _ in range(2):
            maintenance.check_overdue()
            maintenance.plan_polls()
        eventually(lambda: (maintenance.poll(), read_batch(conn, batch_id).counts["overdue"] == 0)[1])
    told = [record.getMessage() for record in caplog.records if record.name == "receiver.results.maintenance"]
    assert told[:2] == [
        f"batch {batch_id}: 5 of its 5 calls are overdue",
        f"batch {batch_id}, submission 1: fetching the results of 5 overdue calls",
    ]
    assert len(told) == 7
    assert not any(str(number)[-10:] in line for number in NUMBERS for line in told)
