"""`/metrics`: right whichever process is asked, and open to nothing that it must not tell."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from urllib.request import urlopen

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from receiver.config import Config
from receiver.database.measured import Measurements, add_measured
from receiver.database.pool import Connection
from receiver.queueing.sender import register_worker
from receiver.web.counts import ANSWERS, Counts
from tests.factories import (
    UNKNOWN,
    answer_submissions,
    deliver,
    journal,
    make_batch,
    make_callback,
    phone_number,
    result_body,
)
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.conftest import patient_app
from tests.web.gunicorn import Sender, gunicorn_process

Samples = dict[tuple[str, str], float]


def read(text: str) -> Samples:
    """(name, value of its only label) to number; with several labels, their values joined."""
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ask(client: FlaskClient, headers: Mapping[str, str] | None = None) -> Samples:
    answer = client.get("/metrics", headers=dict(headers or {}))
    assert answer.status_code == 200, answer.text
    assert answer.content_type.startswith("text/plain")
    return read(answer.text)


def grown(before: Samples, after: Samples, name: str) -> dict[str, float]:
    """By how much the counts of a metric grew, by label."""
    return {
        label: value - before[counted, label]
        for (counted, label), value in after.items()
        if counted == name and value != before[counted, label]
    }


def test_every_request_to_a_result_url_is_counted_by_its_answer(app: Flask, stranger: FlaskClient) -> None:
    before = ask(stranger)
    for _ in range(3):
        stranger.post(results_path(), data=b"{}")
    stranger.get(results_path())
    stranger.post(results_path())
    stranger.post(results_path() + "x", data=b"{}")
    stranger.put(results_path(), data=b"{}")
    stranger.post(results_path(), data=b"x" * 70_000)
    after = ask(stranger)
    assert grown(before, after, "receiver_web_callbacks_total") == {
        "stored": 3, "ok": 2, "not_found": 1, "method_not_allowed": 1, "too_large": 1,
    }  # fmt: skip
    assert grown(before, after, "receiver_web_acknowledge_seconds_count") == {"": 3}, "only those that wait for a disk"
    assert after["receiver_web_acknowledge_seconds_sum", ""] > before["receiver_web_acknowledge_seconds_sum", ""]


def test_calls_callbacks_and_submissions_are_told_by_state(stranger: FlaskClient, conn: Connection) -> None:
    register_worker(conn, "here", 1)
    settled = make_batch(conn, [phone_number(n) for n in range(4)])
    deliver(conn, settled, *(result_body(phone_number(n)) for n in (0, 1, 1)), b"nonsense")
    journal(conn, make_callback(settled, result_body(phone_number(2))))
    make_batch(conn, [phone_number(9)], past_due=True)
    make_batch(conn, [phone_number(9)], send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    said = ask(stranger)

    def states(name: str) -> dict[str, float]:
        return {label: value for (each, label), value in said.items() if each == name and value}

    assert states("receiver_calls") == {"completed": 2, "pending": 3, "overdue": 1}
    assert states("receiver_callbacks") == {"applied": 2, "duplicate": 1, "unreadable": 1, "waiting": 1}
    assert states("receiver_submissions") == {"accepted": 2, "unknown": 1}
    assert (said["receiver_due_calls", ""], said["receiver_lost_calls", ""]) == (1, 1)
    assert said["receiver_oldest_waiting_seconds", ""] > 0
    assert said["receiver_workers", ""] >= 1 and said["receiver_worker_heartbeat_age_seconds", ""] < 30
    assert said["receiver_database_up", ""] == 1


def test_what_workers_measured_is_told_as_histograms(stranger: FlaskClient, conn: Connection) -> None:
    measurements = Measurements()
    measurements.observe("settle", [0.04, 0.2, 9.0])
    measurements.count("send_result", "accepted")
    measurements.count("failure", "settle")
    add_measured(conn, measurements.take())
    conn.commit()
    said = ask(stranger)
    buckets = {float(le): n for (name, le), n in said.items() if name == "receiver_settle_seconds_bucket"}
    assert (buckets[0.05], buckets[0.25], buckets[5.0], buckets[10.0], buckets[float("inf")]) == (1, 2, 2, 3, 3)
    assert said["receiver_settle_seconds_sum", ""] == pytest.approx(9.24)
    assert said["receiver_sends_total", "accepted"] == 1
    assert said["receiver_worker_failures_total", "settle"] == 1


def test_metrics_answer_while_the_database_is_away(app_without_database: Flask) -> None:
    client = app_without_database.test_client()
    before = ask(client)
    assert client.post(results_path(), data=b"{}").status_code == 200
    said = ask(client)
    assert grown(before, said, "receiver_web_callbacks_total") == {"spooled": 1}
    assert (said["receiver_database_up", ""], said["receiver_web_spool_callbacks", ""]) == (0, 1)
    assert said["receiver_web_processes_spooling", ""] == 1
    assert ("receiver_workers", "") not in said, "what is not known is not told"


def test_metrics_key_is_asked_for_where_there_is_one(config: Config, database_url: str) -> None:
    with patient_app(replace(config, metrics_key="only-for-prometheus"), database_url) as app:
        client = app.test_client()
        for given in ({}, {"Authorization": "Bearer another"}, {"Authorization": "Bearer only-for-prometheus "}):
            answer = client.get("/metrics", headers=given)
            assert (answer.status_code, answer.json and answer.json["code"]) == (401, "unauthorized")
        assert ask(client, {"Authorization": "Bearer only-for-prometheus"})


def test_nothing_but_a_programs_own_words_stands_in_a_label(stranger: FlaskClient, conn: Connection) -> None:
    make_batch(conn, [phone_number(0)], name="For +16175551234 only")
    stranger.post(results_path() + "x", data=b"{}", headers={"X-Request-Id": "made-up-by-a-stranger"})
    stranger.get("/api/v1/calls?phone_number=16175551234")
    stranger.open("/no/such/page/16175551234", method="BREW")
    text = stranger.get("/metrics").text
    assert len(text.splitlines()) < 300
    assert not any(word in text for word in ("6175551234", "made-up", "BREW", "/api", "127.0.0.1", "token"))


def test_counting_a_callback_takes_no_time_that_anybody_would_notice() -> None:
    counts = Counts(1)
    rounds = []
    for _ in range(20):
        began = perf_counter()
        for _ in range(1000):
            counts.callback(0, perf_counter(), timed=True)
        rounds.append((perf_counter() - began) / 1000)
    assert median(rounds) < 5e-6, "five microseconds, on a machine that does other things, too"


def test_slot_of_a_process_that_is_gone_keeps_its_counts_and_forgets_its_state() -> None:
    counts = Counts(3)
    first, second = object(), object()
    assert [counts.reserve(first), counts.reserve(second)] == [0, 1]
    for slot in (0, 1):
        counts.claim(slot)
        counts.callback(ANSWERS.index("spooled"), perf_counter(), timed=True)
        counts.pool({"requests_num": 2, "usage_ms": 1500}, {"pool_size": 4, "pool_available": 1})
    total = counts.total()
    assert (total.answers["spooled"], total.processes_spooling, total.pool_size, total.pool_in_use) == (2, 2, 8, 6)
    counts.release(first)
    total = counts.total()
    assert (total.answers["spooled"], total.processes_spooling, total.pool_size, total.pool_in_use) == (2, 1, 4, 3)
    assert total.pool["receiver_web_pool_usage_seconds"] == 3.0
    assert counts.reserve(object()) == 0, "taken again, so that their number stays what it is"


def test_counts_of_all_processes_are_told_by_each_and_outlive_a_killed_one(
    session_folder: Path, database_url: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, WEB_CONCURRENCY="2") as (parent, port):

        def post(number: int) -> None:
            for _ in range(number):
                sender = Sender(port)
                head = f"POST {results_path()} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
                assert sender.send(head.encode(), b"{}").answer().status == 200
                sender.close()

        def told() -> float:
            with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                said = read(answer.read().decode())
            return said["receiver_web_callbacks_total", "stored"] + said["receiver_web_callbacks_total", "spooled"]

        post(30)
        assert [told() for _ in range(8)] == [30.0] * 8
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        eventually(
            lambda: (
                len(now := Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()) == 2
                and children[0] not in now
            )
        )
        time.sleep(0.5)
        post(10)
        assert [told() for _ in range(8)] == [40.0] * 8
