"""A service, a provider, their callers and an endpoint. Processes of the service are killed."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from receiver.supervisor.ports import free_port
from tests.acceptance.calling import simulator
from tests.acceptance.killing.endpoint import Inbox
from tests.acceptance.killing.load import POSTED_NUMBERS, Load, Record, application_id
from tests.acceptance.killing.plan import Kill, Volley
from tests.acceptance.killing.steps import Steps
from tests.acceptance.service import Process, Service, ask
from tests.relay.endpoint_server import receiving
from tests.waiting import eventually

LIMIT_SECONDS = 180.0
"""Much longer than any wait on an idle machine."""

PROVOKE_SECONDS = 10.0

PROVIDER = (
    *("--speed", "3600", "--no-check", "--senders", "8"),
    *("--duplicate", "0.2", "--delay", "0.2", "--drop", "0.1", "--reorder", "0.1", "--step", "0.1"),
    *("--unknown-status", "0.1", "--error-after-acceptance", "0.1"),
)


def has_ended(service: Service) -> bool:
    """Whether `serve` has ended. `Service.stop` reads the exit status later."""
    return os.waitid(os.P_PID, service.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class World:
    """A context manager, which stops everything at its end. `kills`: how often each victim was killed, by step."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.kills: Counter[str] = Counter()
        self.steps = Steps(folder / "steps")
        self.record = Record()
        self.provider = ""
        self.result_url = ""
        self.posted_batch = 0
        self.inbox = Inbox()
        self.endpoint_id = 0
        self._folder = folder
        self._draws = random.Random(f"{seed} victims")
        port = free_port()
        variables: dict[str, Any] = {
            **self.steps.environment,
            # `serve` must not give up, however often a child is killed. test_giving_up.py tests when it does.
            "KILLING_DEATHS_SECONDS": "0.1",
            "PLUM_URL": f"http://127.0.0.1:{port}",
            "PLUM_USER": "simulator",
            "PLUM_KEY": "simulator",
            "RELAY_NETWORKS": "127.0.0.0/8",
            # A refused event is sent again after 50 ms. An endpoint may fail for more than an hour.
            "TEST_RELAY_SPEED": "100",
            "WEB_CONCURRENCY": "2",
        }
        self._simulator = simulator(port, "--seed", str(seed), *PROVIDER)
        self.service = Service(folder, **variables)
        self._stack = ExitStack()

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self.provider = stack.enter_context(self._simulator)
            endpoint = stack.enter_context(receiving(self.inbox.answer))
            stack.enter_context(self.service)
            # Before the first batch: it gets the events from then on.
            eventually(lambda: self._create_endpoint(endpoint.url), LIMIT_SECONDS, self._log_tail)
            # The test posts the results of this batch itself, so the provider must not dial it during the test.
            contacts = self._folder / "posted.csv"
            contacts.write_text("\n".join(("destination", *POSTED_NUMBERS)))
            fields = {"application_id": str(application_id(0)), "start_timestamp": str(int(time.time()) + 315_000_000)}
            eventually(
                lambda: self.service.queue(contacts, "Idempotency-Key: posted", **fields).status in (201, 202),
                LIMIT_SECONDS,
                self._log_tail,
            )
            (self.posted_batch,) = (batch["id"] for batch in self.batches())
            eventually(lambda: len(self.ledger()["requests"]) == 1, LIMIT_SECONDS)
            self.result_url = self.ledger()["requests"][0]["result_url"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def ledger(self) -> dict[str, Any]:
        return ask(f"{self.provider}/simulator/ledger").json

    def load(self) -> Load:
        return Load(self.service, self.result_url, self._folder, self.record, self.seed)

    def kill(self, volley: Volley) -> None:
        """Perform all kills of a volley. Return when all of its steps were reached and `serve` is running."""
        named = [kill for kill in volley if kill.step is not None]
        for kill in named:
            self._arm(kill)
        for kill in volley:
            if kill.step is None:
                time.sleep(kill.seconds)
                self.kill_now(kill.victim)
        limit = time.monotonic() + LIMIT_SECONDS
        provoked_at = time.monotonic()
        while pending := [kill for kill in named if kill.step and not self.steps.is_reached(kill.step)]:
            assert time.monotonic() < limit, f"no process reached {pending}: {self._log_tail()}"
            self.restart_if_killed()
            if time.monotonic() > provoked_at + PROVOKE_SECONDS and any(kill.after == "database" for kill in pending):
                if self._is_ready():
                    # Postgres recovered before the step was reached often enough.
                    self.kill_now("backend")
                # Otherwise a slow machine needs longer: killed again now, Postgres would never finish its recovery.
                provoked_at = time.monotonic()
            time.sleep(0.02)
        for kill in named:
            self.kills[f"{kill.victim} {kill.step}"] += 1
        self.restart_if_killed()

    def kill_now(self, victim: str) -> None:
        """Kill it now, or as soon as it exists."""
        self.kills[victim] += 1
        if victim in ("serve", "everything"):
            processes = self.service.processes() if victim == "everything" else []
            # `serve` first, because it would start the others again.
            os.kill(self.service.pid, signal.SIGKILL)
            for process in processes:
                self._kill_process(process)
            os.waitid(os.P_PID, self.service.pid, os.WEXITED | os.WNOWAIT)
        else:
            limit = time.monotonic() + LIMIT_SECONDS
            while not (found := self._find(victim)):
                assert time.monotonic() < limit, f"there is no {victim}: {self._log_tail()}"
                self.restart_if_killed()
                time.sleep(0.02)
            self._kill_process(self._draws.choice(found))
        self.restart_if_killed()

    def restart_if_killed(self) -> None:
        """Start `serve` again if it was killed. It must not have ended in any other way."""
        if has_ended(self.service):
            status, _ = self.service.stop(signal.SIGKILL)
            assert status == -signal.SIGKILL, f"serve ended with {status}: {self._log_tail()}"
            self._start()

    def _start(self) -> None:
        """Start `serve`. If a step kills its Postgres before it has started, `serve` ends, and is started again."""
        for tries_left in reversed(range(5)):
            try:
                self.service.start()
                return
            except AssertionError as error:
                if not tries_left or "The database is unavailable" not in str(error):
                    raise

    def settle(self) -> None:
        """Return when everything sent has been delivered and settled, and nothing waits."""
        assert self.steps.disarm() == []
        eventually(self._is_settled, LIMIT_SECONDS, self._log_tail)

    def batches(self) -> list[dict[str, Any]]:
        return self.pages("/api/v1/batches", "batches")

    def pages(self, path: str, items: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.service.ask(f"{path}{'&' if '?' in path else '?'}limit=1000{cursor}")
            assert answer.status == 200, answer
            found += answer.json[items]
            if answer.json["next_cursor"] is None:
                return found
            cursor = f"&cursor={answer.json['next_cursor']}"

    def events_owed(self) -> dict[str, int]:
        """The events of the endpoint, by state."""
        answer = self.service.ask(f"/api/v1/endpoints/{self.endpoint_id}")
        assert answer.status == 200, answer
        found: dict[str, int] = answer.json["events_owed"]
        return found

    def _create_endpoint(self, url: str) -> bool:
        """Without `events`, it gets all of them."""
        body, headers = json.dumps({"url": url}).encode(), {"Content-Type": "application/json"}
        answer = self.service.ask("/api/v1/endpoints", "POST", body, headers)
        if answer.status == 201:
            self.endpoint_id, self.inbox.secret = answer.json["id"], answer.json["secret"]
        return answer.status == 201

    def _is_settled(self) -> bool:
        """Each condition stays true once those before it are."""
        self.restart_if_killed()  # a step is recorded as reached just before its victim dies
        try:
            return (
                self._is_released()
                and self._has_called()
                and self._is_ready()
                and all(batch["callbacks"]["waiting"] == 0 for batch in self.batches())
                and self.events_owed()["waiting"] == 0
            )
        except (OSError, http.client.HTTPException, AssertionError):
            return False  # the process that was killed last has not been restarted yet

    def _is_released(self) -> bool:
        """Whether all batches were sent. Resumes those that are paused: their answers were lost when the load ended."""
        batches = self.batches()
        for batch in batches:
            if batch["paused_at"] is not None:
                self.service.ask(f"/api/v1/batches/{batch['id']}/resume", "POST")
        return all(batch["state"] != "queueing" for batch in batches)

    def _has_called(self) -> bool:
        """Whether the provider has posted all results."""
        ledger = self.ledger()
        return bool(ledger["calls"]["to_come"] == len(POSTED_NUMBERS) and ledger["callbacks"]["to_come"] == 0)

    def _is_ready(self) -> bool:
        """Whether a web process stores callbacks in the database, and none is left on the spool."""
        try:
            ready = self.service.ask("/readyz")
        except OSError:
            return False  # the process that was killed last has not been restarted yet
        return ready.status == 200 and ready.json["spooled"] == 0

    def _arm(self, kill: Kill) -> None:
        assert kill.step is not None
        victim: str | int = kill.victim
        if kill.victim == "serve":
            victim = self.service.pid
        elif kill.victim == "postmaster":
            limit = time.monotonic() + LIMIT_SECONDS
            while not (found := self._find("postmaster")):
                assert time.monotonic() < limit, self._log_tail()
                time.sleep(0.02)
            victim = found[0].pid
        self.steps.arm(kill.step, kill.times, victim)

    def _find(self, victim: str) -> list[Process]:
        everything = self.service.processes()
        if victim == "worker":
            return [each for each in everything if each.command.rstrip().endswith("receiver work")]
        if victim in ("web", "gunicorn"):
            children = [each for each in everything if "-m gunicorn" in each.command]
            return [each for each in children if (each.parent == self.service.pid) == (victim == "gunicorn")]
        postmasters = [each for each in everything if " -D " in each.command and "postgres " in each.command]
        if victim == "postmaster":
            return postmasters
        # Any server process, for connections or maintenance, except two. Postgres does not restart for its logger. If
        # its startup process, which has no title at first, is killed early in the restart after a crash, then
        # Postgres 18.6 starts no other, and stays in recovery mode until it is killed.
        pids = {each.pid for each in postmasters}
        spared = (": logger", ": startup", " -D ")
        return [each for each in everything if each.parent in pids and not any(name in each.command for name in spared)]

    def _kill_process(self, process: Process) -> None:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has already ended

    def _log_tail(self) -> str:
        """The ends of the logs, and what runs now."""
        logs = [self.service.log, *self.service.data_dir.glob("postgres/log/*")]
        running = [f"{each.pid} {each.command}" for each in self.service.processes()]
        return "\n".join([*(log.read_text()[-6000:] for log in logs), *running])
