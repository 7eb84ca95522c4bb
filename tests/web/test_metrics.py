"""`/metrics`: correct from every process, and without sensitive data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import thread_time
from urllib.request import urlopen

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from receiver import metric_files
from receiver.changes.events import Events
from receiver.config import Config
from receiver.counts import Counts
from receiver.database.pool import Connection
from receiver.database.worker_metrics import Measurements, add_measured
from receiver.relay.endpoints import create_endpoint
from receiver.release.presence import register_worker
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
from tests.web.gunicorn import OURS, ROOT, Sender, gunicorn_process

Samples = dict[tuple[str, str], float]


def read(text: str) -> Samples:
    """(name, label value) to number. Several label values are joined."""
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
    """The increase of a metric by label."""
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


def test_calls_callbacks_and_submissions_are_counted_by_state(stranger: FlaskClient, conn: Connection) -> None:
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


def test_workers_times_are_histograms(stranger: FlaskClient, conn: Connection) -> None:
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


def test_debt_to_each_endpoint_is_shown(stranger: FlaskClient, conn: Connection) -> None:
    made, _ = create_endpoint(conn, {"url": "https://93.184.215.14/"}, (), by="test")
    idle, _ = create_endpoint(conn, {"url": "https://93.184.215.14/", "events": ["batch.ended"]}, (), by="test")
    events = Events()
    events.replace("call.result", [(make_batch(conn), 1)])
    events.write(conn)
    conn.execute("update owed_event set owed_at = now() - interval '1 hour'")
    measurements = Measurements()
    measurements.count("delivery", "failed")
    add_measured(conn, measurements.take())
    conn.commit()
    text = stranger.get("/metrics").text
    assert f'receiver_endpoint_events{{endpoint="{made.id}",state="waiting"}} 1.0' in text
    assert f'receiver_endpoint_events{{endpoint="{idle.id}",state="waiting"}} 0.0' in text
    assert f'receiver_endpoint_oldest_waiting_seconds{{endpoint="{made.id}"}} 36' in text
    assert f'receiver_endpoint_oldest_waiting_seconds{{endpoint="{idle.id}"}} 0.0' in text
    assert 'receiver_deliveries_total{result="failed"} 1.0' in text


def test_metrics_answer_while_the_database_is_away(app_without_database: Flask) -> None:
    client = app_without_database.test_client()
    before = ask(client)
    assert client.post(results_path(), data=b"{}").status_code == 200
    said = ask(client)
    assert grown(before, said, "receiver_web_callbacks_total") == {"spooled": 1}
    assert (said["receiver_database_up", ""], said["receiver_web_spool_callbacks", ""]) == (0, 1)
    assert said["receiver_web_processes_spooling", ""] == 1
    assert ("receiver_workers", "") not in said, "what is not known is not told"


def test_metrics_key_is_required_if_it_is_set(config: Config, database_url: str) -> None:
    with patient_app(replace(config, metrics_key="only-för-prometheus"), database_url) as app:
        client = app.test_client()
        for given in ({}, {"Authorization": "Bearer another"}, {"Authorization": "Bearer only-for-prometheus"}):
            answer = client.get("/metrics", headers=given)
            assert (answer.status_code, answer.json and answer.json["code"]) == (401, "unauthorized")
        assert ask(client, {"Authorization": "Bearer only-för-prometheus".encode().decode("latin-1")})


def test_labels_have_only_our_own_values(stranger: FlaskClient, conn: Connection) -> None:
    make_batch(conn, [phone_number(0)], name="For +16175551234 only")
    stranger.post(results_path() + "x", data=b"{}", headers={"X-Request-Id": "made-up-by-a-stranger"})
    stranger.get("/api/v1/calls?phone_number=16175551234")
    stranger.open("/no/such/page/16175551234", method="BREW")
    text = stranger.get("/metrics").text
    assert len(text.splitlines()) < 300
    assert not any(word in text for word in ("6175551234", "made-up", "BREW", "/api", "127.0.0.1", "token"))


def test_counting_a_callback_is_fast() -> None:
    counts = Counts()
    rounds = []
    for _ in range(20):
        began = thread_time()
        for _ in range(1000):
            counts.callback("stored", 0.001)
        rounds.append((thread_time() - began) / 1000)
    assert min(rounds) < 5e-6, "five microseconds of CPU"


_COUNT = """
import sys
from receiver import metric_files
metric_files.claim(int(sys.argv[1]))
from receiver.counts import counts
counts.callback("spooled", 0.02)
counts.pool({"requests_num": 2, "usage_ms": 1500}, {"pool_size": 4, "pool_available": 1})
counts.flush()
if sys.argv[2:]:
    metric_files.release(sys.argv[2])
for metric in counts.collect():
    for sample in metric.samples:
        if sample.value:
            print(sample.name, sample.labels.get("le", ""), sample.value)
"""


def test_new_process_continues_the_files_of_its_slot(tmp_path: Path) -> None:
    def run(slot: int) -> dict[str, float]:
        environment = {"PATH": os.environ["PATH"], metric_files.VARIABLE: str(tmp_path)}
        ran = subprocess.run(
            [sys.executable, "-c", _COUNT, str(slot)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {line.rpartition(" ")[0].strip(): float(line.split()[-1]) for line in ran.stdout.splitlines()}

    (tmp_path / "counter_2.db").touch()  # a third process is just creating its files
    assert run(0)["receiver_web_callbacks_total"] == 1
    (tmp_path / "counter_2.db").unlink()
    both = run(1)
    assert both["receiver_web_callbacks_total"] == 2
    assert (both["receiver_web_pool_connections"], both["receiver_web_processes_spooling"]) == (8, 2)
    again = run(0)
    assert again["receiver_web_callbacks_total"] == 3 and again["receiver_web_pool_usage_seconds_total"] == 4.5
    assert again["receiver_web_acknowledge_seconds_bucket 0.025"] == 3
    assert again["receiver_web_acknowledge_seconds_sum"] == pytest.approx(0.06)
    assert (again["receiver_web_pool_connections"], again["receiver_web_processes_spooling"]) == (8, 2)
    assert len(list(tmp_path.iterdir())) == 2 * 4, "counters, histograms and two kinds of gauges of two slots"


def test_slot_is_reused_when_its_process_has_ended() -> None:
    first, second, third = object(), object(), object()
    assert [metric_files.reserve(first), metric_files.reserve(second)] == [0, 1]
    metric_files.release(first)
    assert metric_files.reserve(third) == 0
    metric_files.release(second)
    metric_files.release(third)


def test_each_process_shows_the_counts_of_all_even_of_killed_ones(session_folder: Path, database_url: str) -> None:
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
        eventually(lambda: [told() for _ in range(8)] == [30.0] * 8)  # each process writes its counts once a second
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        eventually(
            lambda: (
                len(now := Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()) == 2
                and children[0] not in now
            )
        )
        post(10)
        eventually(lambda: [told() for _ in range(8)] == [40.0] * 8)


@pytest.mark.long
@pytest.mark.parametrize("entry_point", OURS)
def test_no_counter_ever_falls_while_processes_are_killed_and_replaced(
    session_folder: Path, database_url: str, entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point=entry_point, WEB_CONCURRENCY="2") as (parent, port):
        seen: Samples = {}

        def children() -> set[str]:
            return set(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())

        def look() -> Samples | None:
            """Send a callback, and read all metrics. None if the process has just died."""
            try:
                for method, path, body in (("POST", results_path(), b"{}"), ("GET", "/metrics", b"")):
                    sender = Sender(port)
                    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                    answer = sender.send(head.encode(), body).answer()
                    sender.close()
            except OSError:
                return None
            return read(answer.body.decode()) if answer.status == 200 else None

        def none_falls_until(met: Callable[[], bool]) -> None:
            def check() -> bool:
                for name, value in (look() or {}).items():
                    if name[0].endswith(("_total", "_count", "_sum", "_bucket")):
                        assert value >= seen.get(name, 0), name
                        seen[name] = value
                return met()

            eventually(check)

        def stored() -> float:
            return seen.get(("receiver_web_callbacks_total", "stored"), 0)

        for how in (signal.SIGKILL, signal.SIGHUP, signal.SIGKILL, signal.SIGHUP):
            at_least, before = stored() + 20, children()
            none_falls_until(lambda at_least=at_least: stored() >= at_least)  # type: ignore[misc]
            os.kill(parent.pid if how == signal.SIGHUP else int(min(before)), how)
            kept = 0 if how == signal.SIGHUP else 1
            none_falls_until(
                lambda kept=kept, before=before: len(children()) == 2 and len(children() & before) == kept  # type: ignore[misc]
            )
        at_last = stored() + 20
        none_falls_until(lambda: stored() >= at_last)
