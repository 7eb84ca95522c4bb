"""Several machines with one Postgres and one secret: four receive results, and three of them run a worker."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from receiver.supervisor.ports import free_port
from tests.acceptance.calling import simulator
from tests.acceptance.machines import Balancer, Machine
from tests.acceptance.service import ask, run_command
from tests.acceptance.test_whole_path import Expected, wait_for_the_last_callback
from tests.database.proxy import Proxy
from tests.waiting import eventually

pytestmark = pytest.mark.long

BATCHES = 2
ROWS = 3000
"""In all batches together."""

RATE_LIMIT = 60
"""Low, so that even a slow test sends requests faster than the limit refills."""

SECRET = secrets.token_urlsafe(32)
CONTESTED = 20
"""Calls for which a second, different result is posted."""


def make_key(machine: Machine, name: str, scope: str = "admin") -> str:
    made = run_command("keys", "create", name, "--scope", scope, environment=machine.environment)
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()[-1]


def queue(url: str, key: str, csv: str, **headers: str) -> tuple[int, dict[str, Any]]:
    fields = {"application_id": "7", "deployment_id": "3"}
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}' for name, text in fields.items()]
    parts.append(f'Content-Disposition: form-data; name="csv"; filename="contacts.csv"\r\n\r\n{csv}')
    body = "".join(f"--B\r\n{part}\r\n" for part in parts) + "--B--\r\n"
    given = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=B", **headers}
    answer = ask(f"{url}/api/v1/batches", "POST", body.encode(), given, timeout=120)
    return answer.status, answer.json


def post_contradictions(machines: list[Machine], expected: Expected) -> None:
    """Post a second result for some calls. Its call ended earlier, so it is stored as a conflict and does not win."""
    for index, call in enumerate(expected.final[:CONTESTED]):
        body = {
            "phone_number": f"'{call['phone_number']}'",
            "status": "failed" if call["status"] != "failed" else "completed",
            "attempts": "1",
            "events": [{"event": "queued", "timestamp": 1000}, {"event": "disconnected", "timestamp": 1001}],
        }
        machine = machines[index % len(machines)]
        address = machine.url + urlsplit(call["result_url"]).path
        assert ask(address, "POST", json.dumps(body).encode(), {"Content-Type": "application/json"}).status == 200


def test_campaign_on_four_machines_is_complete_although_one_is_killed_and_one_loses_its_database(
    server_dir: Path, database_url: str
) -> None:
    numbers = [str(6_175_550_000 + row) for row in range(ROWS)]
    files = ["\n".join(("destination", *numbers[at::BATCHES], "")) for at in range(BATCHES)]
    provider_port = free_port()
    given = {
        "SECRET_KEY": SECRET,
        "PLUM_URL": f"http://127.0.0.1:{provider_port}",
        "PLUM_USER": "simulator",
        "PLUM_KEY": "simulator",
        "SUBMISSION_ROWS": "500",
    }
    # The simulator repeats deliveries that the killed machine did not answer, and sends one in ten twice.
    faults = ("--duplicate", "0.1", "--retry", "5", "--seed", "4")
    pace = ("--speed", "60", "--lines", "60", "--senders", "24")
    balancer = Balancer()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(database_url))
        given["PUBLIC_URL"] = balancer.url
        machines = [
            Machine(server_dir / name, works=works, DATABASE_URL=url, **given)
            for name, works, url in (
                ("first", True, database_url),
                ("second", True, database_url),
                ("killed", True, database_url),
                ("cut off", False, proxy.url),
            )
        ]
        for machine in machines:
            stack.enter_context(machine)
        for machine in machines:
            machine.await_start()
        first, second, killed, cut_off = machines
        stack.enter_context(balancer.before(machines))
        provider = stack.enter_context(simulator(provider_port, *faults, *pace))
        key = make_key(first, "campaign")
        assert [machine.ask("/api/v1/batches", key).status for machine in machines] == [200] * 4
        eventually(lambda: first.metric("receiver_workers") == 3)

        addresses: list[str] = []

        def queue_next(url: str) -> None:
            status, batch = queue(url, key, files[len(addresses)], Prefer="wait=60")
            assert (status, batch["state"], len(batch["submissions"])) == (201, "queued", 3)
            addresses.append(f"/api/v1/batches/{batch['id']}")

        def get_batches(machine: Machine) -> list[dict[str, Any]]:
            return [machine.ask(address, key).json for address in addresses]

        def callbacks(state: str) -> int:
            return sum(batch["callbacks"][state] for batch in get_batches(first))

        def have_ended(share: float) -> bool:
            return bool(sum(batch["counts"]["final"] for batch in get_batches(first)) >= share * ROWS)

        def spooled(machine: Machine) -> float:
            return machine.metric("receiver_web_spool_callbacks")

        queue_next(balancer.url)
        eventually(lambda: have_ended(0.1), 90)
        proxy.close()
        proxy.cut()
        killed.kill()
        # Results of this batch arrive after the failures, however slow the machine is.
        queue_next(first.url)
        eventually(lambda: spooled(cut_off) > 0)
        eventually(lambda: have_ended(0.5), 90)
        # Slow commits may have sent a few callbacks to these spools.
        eventually(lambda: spooled(first) == spooled(second) == 0)
        assert spooled(cut_off) > 0
        proxy.open()
        eventually(lambda: spooled(cut_off) == 0)

        wait_for_the_last_callback(provider)
        expected = Expected(provider)
        post_contradictions([first, second, cut_off], expected)
        eventually(lambda: callbacks("received") >= expected.received + CONTESTED)
        eventually(lambda: callbacks("waiting") == 0)

        ended = get_batches(first)
        assert get_batches(second) == get_batches(cut_off) == ended
        check_against_ledger(ended, expected)
        assert min(balancer.passed[machine.port] for machine in machines) > 0
        assert first.metric("receiver_workers") >= 2
        verified = run_command("verify", environment=second.environment)
        assert verified.returncode == 0, verified.stdout + verified.stderr


def check_against_ledger(batches: list[dict[str, Any]], expected: Expected) -> None:
    """Check that all batches together agree with the ledger."""

    def total(name: str) -> Counter[str]:
        return sum((Counter(batch[name]) for batch in batches), Counter())

    counts, callbacks = total("counts"), total("callbacks")
    assert len(expected.calls) == len(expected.final) == ROWS == counts["rows"] == counts["final"]
    assert expected.summary["queued_more_than_once"] == []
    outcomes = Counter({name: counts[name] for name in ("completed", "failed", "canceled", "rejected", "other")})
    assert +outcomes == +expected.outcomes()
    assert sum(batch["attempts"] for batch in batches) == sum(max(call["attempts"], 1) for call in expected.calls)
    assert sum(batch["duration_seconds"] for batch in batches) == sum(call["duration"] or 0 for call in expected.calls)
    assert (callbacks["applied"], callbacks["conflict"]) == (ROWS, CONTESTED)
    assert (callbacks["unmatched"], callbacks["unreadable"]) == (0, 0)
    # The simulator repeated callbacks that the killed machine had stored but not answered.
    stored_unanswered = callbacks["received"] - CONTESTED - expected.received
    assert 0 <= stored_unanswered <= expected.summary["callbacks"]["failed"]
    assert callbacks["duplicate"] == expected.received + stored_unanswered - ROWS > 0


class Visitor:
    """A person with a browser whose requests go to different machines. Cookies are valid for all ports."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(self, machine: Machine, path: str) -> tuple[str, str]:
        with self._opener.open(machine.url + path, timeout=30) as answer:
            return urlsplit(answer.url).path, answer.read().decode()

    def sign_in(self, form_from: Machine, sent_to: Machine, key: str) -> str:
        """Sign in. Returns the path of the page that follows."""
        token = re.search(r'name="csrf_token" value="([^"]+)"', self.get(form_from, "/login")[1])
        assert token is not None
        form = urlencode({"csrf_token": token[1], "key": key}).encode()
        with self._opener.open(f"{sent_to.url}/login", form, timeout=30) as answer:
            return str(urlsplit(answer.url).path)


def ask_until_refused(machine: Machine, key: str, limit: int) -> int:
    """How many requests with the key, on one connection, were answered 200 before the first 429."""
    conn = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=30)
    try:
        for answered in range(limit):
            conn.request("GET", "/api/v1/batches?limit=1", headers={"Authorization": f"Bearer {key}"})
            answer = conn.getresponse()
            answer.read()
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                return answered
            assert answer.status == 200
        raise AssertionError("no request was answered 429")
    finally:
        conn.close()


def test_machines_share_keys_sessions_cursors_and_batches_but_not_rate_limits(
    server_dir: Path, database_url: str
) -> None:
    given = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET, "RATE_LIMIT": str(RATE_LIMIT)}
    with ExitStack() as stack:
        left, right = (
            stack.enter_context(Machine(server_dir / name, works=False, **given)) for name in ("left", "right")
        )
        left.await_start()
        right.await_start()
        key, busy = make_key(left, "visitor"), make_key(right, "busy", "read")

        csv = "destination\n6175551234\n"
        sent = {"Idempotency-Key": "one", "Prefer": "wait=0"}
        (status, batch), (status_again, again) = (queue(url, key, csv, **sent) for url in (left.url, right.url))
        assert (status, status_again) == (202, 202) and batch["id"] == again["id"], "one batch for both machines"
        queue(left.url, key, csv, Prefer="wait=0")
        cursor = left.ask("/api/v1/batches?limit=1", key).json["next_cursor"]
        page = right.ask(f"/api/v1/batches?limit=1&cursor={cursor}", key).json
        assert [each["id"] for each in page["batches"]] == [batch["id"]]
        tag = left.ask(f"/api/v1/batches/{batch['id']}", key).headers["ETag"]
        assert right.ask(f"/api/v1/batches/{batch['id']}", key, {"If-None-Match": tag}).status == 304

        visitor = Visitor()
        assert visitor.sign_in(left, right, key) == "/"
        assert [visitor.get(machine, "/batches")[0] for machine in (left, right, left)] == ["/batches"] * 3

        began = time.monotonic()
        refused_after = ask_until_refused(left, busy, 3000)
        refilled = RATE_LIMIT / 60 * (time.monotonic() - began) + 1
        assert RATE_LIMIT <= refused_after <= RATE_LIMIT + refilled
        assert right.ask("/api/v1/batches?limit=1", busy).status == 200, "each machine has its own limit"

        revoked = run_command("keys", "revoke", "visitor", environment=right.environment)
        assert revoked.returncode == 0, revoked.stderr
        assert [machine.ask("/api/v1/batches", key).status for machine in (left, right)] == [401, 401]
        assert visitor.get(left, "/batches")[0] == "/login"
        assert not list(right.data_dir.glob("secret-key")), "no machine made its own secret"
