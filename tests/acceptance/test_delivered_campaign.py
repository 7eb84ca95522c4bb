"""A campaign with faults and dying workers: every endpoint gets every result, and the feed shows what the API shows."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.supervisor.ports import free_port
from tests.acceptance.calling import simulator
from tests.acceptance.service import DEFAULT_RUNNER, Service
from tests.waiting import eventually

pytestmark = pytest.mark.long

ROWS = 20_000
OWN_WORKER_SECONDS = 20.0
"""Interval between two kills of the service's own worker."""

DEAD_SECONDS = 8.0
"""How long the third endpoint refuses connections after the batch was queued."""

Key = tuple[int, int]


class Receiver:
    """An endpoint of the team. Keeps each call's result as its latest event has it, if the signature is valid.

    `fails_first`: it answers 503 to the first attempt of every second event.
    """

    def __init__(self, port: int = 0, *, fails_first: bool = False) -> None:
        self.webhook: Webhook | None = None
        self.seen: set[str] = set()
        self.results: dict[Key, dict[str, Any]] = {}
        self._at: dict[Key, datetime] = {}
        self.ended: set[int] = set()
        self.invalid = 0
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(dict(self.headers.items()), body, fails_first))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/results?from=service"

    def take(self, headers: dict[str, str], body: bytes, fails_first: bool) -> int:
        assert self.webhook is not None
        with self._lock:
            try:
                event = self.webhook.verify(body, headers)
            except WebhookVerificationError:
                self.invalid += 1
                return 400
            id_ = {name.lower(): text for name, text in headers.items()}["webhook-id"]
            first = id_ not in self.seen
            self.seen.add(id_)
            if fails_first and first and hash(id_) % 2:
                return 503
            if event["type"] == "call.result":
                call, at = event["data"], datetime.fromisoformat(event["timestamp"])
                key = call["batch_id"], call["row"]
                if key not in self._at or at >= self._at[key]:
                    self.results[key], self._at[key] = call, at
            else:
                self.ended.add(event["data"]["id"])
        return 204

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def create_endpoint(service: Service, url: str) -> tuple[int, Webhook]:
    asked = {"url": url, "description": "a receiver", "events": ["call.result", "batch.ended"]}
    headers = {"Content-Type": "application/json"}
    answer = service.ask("/api/v1/endpoints", "POST", json.dumps(asked).encode(), headers)
    assert answer.status == 201, answer
    return int(answer.json["id"]), Webhook(answer.json["secret"])


@contextlib.contextmanager
def dying_workers(service: Service) -> Iterator[list[int]]:
    """Run two more workers, and kill one of them, or the service's own, every second or so. Yields those killed.

    The service gives up after five deaths of its own worker within a minute, so that one is killed less often.
    """
    killed: list[int] = []
    stop = threading.Event()
    seeded = random.Random(5)

    def start() -> subprocess.Popen[bytes]:
        return DEFAULT_RUNNER.start(
            "work", env=service.environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )

    def kill() -> None:
        workers = [start(), start()]
        own_at = time.monotonic()
        while not stop.wait(seeded.uniform(0.5, 2)):
            if time.monotonic() - own_at > OWN_WORKER_SECONDS:
                own_at = time.monotonic()
                with contextlib.suppress(StopIteration, ProcessLookupError):
                    pid = service.process("receiver work", parent=service.pid).pid
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            place = seeded.randrange(len(workers))
            workers[place].kill()
            workers[place].wait()
            killed.append(workers[place].pid)
            workers[place] = start()
        for worker in workers:
            worker.kill()
            worker.wait()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def list_calls(service: Service, batch_id: int) -> dict[Key, dict[str, Any]]:
    calls: dict[Key, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = service.ask(f"/api/v1/batches/{batch_id}/calls?limit=1000{cursor and '&cursor=' + cursor}").json
        calls.update({(call["batch_id"], call["row"]): call for call in page["calls"]})
        cursor = page["next_cursor"]
    return calls


def follow(service: Service) -> dict[Key, dict[str, Any]]:
    """The feed from its first entry: each call as its last entry shows it."""
    calls: dict[Key, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = service.ask(f"/api/v1/results?limit=1000{cursor and '&cursor=' + cursor}").json
        if not page["results"]:
            return calls
        calls.update({(call["batch_id"], call["row"]): call for call in page["results"]})
        cursor = page["next_cursor"]


def balance(service: Service, endpoint_id: int) -> dict[str, int]:
    found: dict[str, int] = service.ask(f"/api/v1/endpoints/{endpoint_id}").json["events_owed"]
    return found


def test_every_endpoint_gets_every_result_while_workers_die(server_dir: Path) -> None:
    contacts = server_dir / "contacts.csv"
    contacts.write_text("destination,name\n" + "".join(f"{6_175_551_000 + n},Zoë {n}\n" for n in range(ROWS)))
    good, flaky, dead_port = Receiver(), Receiver(fails_first=True), free_port()
    receivers = [good, flaky]
    faulty = ("--faults", "0.05", "--drop", "0", "--timeout-after-acceptance", "0", "--slow-sender", "0")
    quick = ("--speed", "100000", "--lines", "1000", "--senders", "32", "--retry", "20", "--seed", "11")
    try:
        with (
            simulator(0, *faulty, *quick) as provider,
            Service(
                server_dir,
                PLUM_URL=provider,
                PLUM_USER="simulator",
                PLUM_KEY="simulator",
                SUBMISSION_ROWS="2000",
                RELAY_NETWORKS="127.0.0.0/8",
                TEST_RELAY_SPEED="5000",
            ) as service,
        ):
            eventually(service.is_ready)
            good_id, good.webhook = create_endpoint(service, good.url)
            flaky_id, flaky.webhook = create_endpoint(service, flaky.url)
            dead_id, dead_webhook = create_endpoint(service, f"http://127.0.0.1:{dead_port}/results")
            endpoints = (good_id, flaky_id, dead_id)
            with dying_workers(service) as killed:
                answer = service.queue(contacts, "Prefer: wait=0", name="Campaign")
                assert answer.status == 202, answer
                batch_id = int(answer.json["id"])
                queued_at = time.monotonic()

                def settled() -> bool:
                    batch = service.batch(batch_id)
                    # A result that was malformed, or contains another number, never becomes final.
                    return bool(batch["callbacks"]["received"] >= ROWS and batch["callbacks"]["waiting"] == 0)

                eventually(lambda: time.monotonic() - queued_at > DEAD_SECONDS, 300)
                dead = Receiver(dead_port)
                dead.webhook = dead_webhook
                receivers.append(dead)
                eventually(settled, 600, lambda: service.batch(batch_id))
                eventually(lambda: len(killed) >= 5, 120)
            # The schedule is compressed: on a busy machine, events can be given up before the endpoint is back.
            service.ask(
                f"/api/v1/endpoints/{dead_id}/retry",
                "POST",
                b'{"state": "given_up"}',
                {"Content-Type": "application/json"},
            )
            eventually(
                lambda: all(balance(service, each)["waiting"] == 0 for each in endpoints),
                300,
                lambda: [balance(service, each) for each in endpoints],
            )
            calls = {key: call for key, call in list_calls(service, batch_id).items() if call["state"] == "final"}
            assert len(calls) > 0.9 * ROWS
            for receiver in receivers:
                assert receiver.invalid == 0
                assert receiver.results == calls
            for endpoint_id in endpoints:
                owed = balance(service, endpoint_id)
                assert owed["given_up"] == 0
                assert owed["delivered"] >= len(calls)
            assert follow(service) == calls
            verified = service.run("verify")
            assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        for receiver in receivers:
            receiver.close()
