"""A service whose Postgres fails, results that arrive during the failure, and the check that each is stored."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.acceptance.calling import AcceptingProvider
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import Answer, Process, Service, ask
from tests.waiting import eventually

NUMBERS = [str(6_173_000_000 + index) for index in range(4000)]
SECRET = "a secret that only this test uses"
OWED_SECONDS = 2.0
"""Longest time that a callback may wait for its answer."""

KNOWN_SECONDS = 0.1
"""Longest median wait of callbacks when the process knows that the database is unavailable."""

TIMES = 3
"""How often a measurement of time is repeated: a busy machine can delay a process once, but a service that is too slow
is slow every time.
"""


@dataclass(frozen=True, slots=True)
class Posted:
    """One callback, identified by its mark, and its answer. Status 0: no answer."""

    mark: int
    status: int
    seconds: float
    headers: Mapping[str, str]


@dataclass(slots=True)
class Results:
    """Posts results to a `result_url`, each for another call, and keeps each answer.

    Each has its own connection, so that any web process can receive it.
    """

    result_url: str
    posted: list[Posted] = field(default_factory=list)

    def post(self, number: int, *, at_once: int = 1, bytes_each: int = 0) -> list[Posted]:
        """Post this many, with up to `at_once` requests at the same time."""
        marks = range(len(self.posted), len(self.posted) + number)
        with ThreadPoolExecutor(at_once) as posting:
            answered = list(posting.map(lambda mark: self._post(mark, bytes_each), marks))
        self.posted += answered
        return answered

    def repeat(self, mark: int) -> Posted:
        """Post one of them again, as a duplicate."""
        return self._post(mark, 0)

    def acknowledged(self) -> list[int]:
        return [each.mark for each in self.posted if each.status == 200]

    def _post(self, mark: int, bytes_each: int) -> Posted:
        address = urlsplit(self.result_url)
        content = {"phone_number": f"'{NUMBERS[mark]}'", "status": "completed", "attempts": "1", "mark": mark}
        body = json.dumps(content | {"note": secrets.token_urlsafe(bytes_each * 3 // 4)})  # nothing can compress it
        connection = http.client.HTTPConnection(address.netloc, timeout=30)
        began = time.monotonic()
        with contextlib.closing(connection):
            try:
                connection.request("POST", address.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                status, headers = answer.status, dict(answer.headers)
            except (OSError, http.client.HTTPException):
                status, headers = 0, {}
        return Posted(mark, status, time.monotonic() - began, headers)


class World:
    """`serve` with two web processes and a worker on `postgres`; one batch is queued, and its results can be posted."""

    def __init__(self, folder: Path, database_url: str, postgres: Postgres, provider: AcceptingProvider, **more: Any):
        self.postgres = postgres
        self.provider = provider
        self._contacts = folder / "contacts.csv"
        given: dict[str, Any] = {
            "PLUM_URL": provider.url,
            "PLUM_USER": "user",
            "PLUM_KEY": "key",
            "WEB_CONCURRENCY": "2",
        }
        given |= {"DATABASE_URL": database_url, "SECRET_KEY": SECRET}
        self.service = Service(folder, **given, **more)
        self.batch_id = 0
        self.results = Results("")
        self._cookie = ""

    def begin(self) -> None:
        answer = self.queue(NUMBERS)
        assert answer.status == 201, answer.body
        self.batch_id = int(answer.json["id"])
        self.results.result_url = self.provider.result_urls[-1]
        self._cookie = sign_in(self.service)

    def queue(self, numbers: Sequence[str] = NUMBERS[:5]) -> Answer:
        self._contacts.write_text("\n".join(("destination", *numbers, "")))
        return self.service.queue(self._contacts, "Prefer: wait=60")

    def page(self, path: str) -> Answer:
        """Request a dashboard like a browser that is signed in."""
        return ask(self.service.url + path, headers={"Accept": "text/html", "Cookie": self._cookie})

    def web_processes(self) -> list[Process]:
        running = [each for each in self.service.processes() if "gunicorn" in each.command]
        masters = {each.pid for each in running if each.parent == self.service.pid}
        return [each for each in running if each.parent in masters]

    def await_connections(self) -> None:
        """Return when each web process stores callbacks in the database. Sessions do not show it: a process that only
        tries whether the database is back has one, too.
        """

        def all_use_it() -> bool:
            last = self._last_logged(0)
            return all(last.get(each.pid) == "database_stores" for each in self.web_processes())

        eventually(all_use_it, otherwise=self._describe)

    def post_until_all_know(self, log_start: int) -> list[Posted]:
        """Post until every web process has logged, after `log_start`, that the database is unavailable. Until then, a
        process may still write to the database while others write to the spool.
        """
        posted: list[Posted] = []

        def all_know() -> bool:
            last = self._last_logged(log_start)
            if all(last.get(each.pid) == "database_away" for each in self.web_processes()):
                return True
            posted.extend(self.results.post(4, at_once=4))
            return False

        eventually(all_know, otherwise=self._describe)
        return posted

    def _last_logged(self, log_start: int) -> dict[int, str]:
        """For each process that logged whether it uses the database: the last of these events."""
        lines = self.service.log.read_bytes()[log_start:].splitlines()
        entries = [json.loads(line) for line in lines if b'"receiver.intake.' in line and line.endswith(b"}")]
        events = ("database_away", "database_stores")
        return {each["process"]: each["event"] for each in entries if each["event"] in events}

    def log_size(self) -> int:
        return self.service.log.stat().st_size

    def kill_web_process(self) -> None:
        """Kill one of them with SIGKILL, and return when another has replaced it."""
        killed = self.web_processes()[0]
        os.kill(killed.pid, signal.SIGKILL)
        eventually(lambda: len({each.pid for each in self.web_processes()} - {killed.pid}) == 2)

    def kill_worker(self) -> None:
        """Kill it with SIGKILL, and return when `serve` has logged that it cannot start another one now."""
        os.kill(self.service.process("receiver work", parent=self.service.pid).pid, signal.SIGKILL)
        eventually(lambda: "worker ended while the database is unavailable" in self.service.log.read_text())

    def kill_everything(self) -> None:
        """Kill all processes of the service as in a power cut, and start it again."""
        for process in self.service.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.service.stop()
        eventually(lambda: self.service.processes() == [])
        self.service.start()

    def journal(self) -> list[int]:
        """The marks of all settled callbacks, in the journal's order. A callback's mark is its row minus one."""
        found = self.postgres.execute(
            "select row - 1 from (select callback_id, row from result union all select callback_id, row from set_aside)"
            " settled order by callback_id"
        )
        return [mark for (mark,) in found]

    def stored(self) -> int:
        """How many callbacks the journal has."""
        ((number,),) = self.postgres.execute("select count(*) from callback")
        return int(number)

    def spooled(self) -> int:
        """The number of callbacks in the spool, which all web processes of a machine share."""
        depth = self.service.ask("/readyz").json["spooled"]
        return depth if isinstance(depth, int) else 0

    def is_settled(self) -> bool:
        """Every spool is empty, and nothing waits."""
        ready = self.service.ask("/readyz")
        return (
            ready.status == 200
            and ready.json["spooled"] == 0
            and self.service.batch(self.batch_id)["callbacks"]["waiting"] == 0
        )

    def _describe(self) -> str:
        return f"{self.service.ask('/readyz').body!r}\n{self.service.log.read_text()[-3000:]}"

    def check_all_are_stored_once(self) -> None:
        """Check that every acknowledged callback is in the journal once, and that no other callback is there twice."""
        eventually(self.is_settled, 60, self._describe)
        journal = self.journal()
        assert len(journal) == self.stored()
        assert [mark for mark, times in Counter(journal).items() if times > 1] == [], "stored twice"
        assert set(self.results.acknowledged()) - set(journal) == set(), "acknowledged, but lost"
        refused = {each.mark for each in self.results.posted if each.status not in (0, 200)}
        assert set(journal) & refused == set(), "refused, but stored"
        counted = self.service.batch(self.batch_id)
        assert counted["callbacks"]["received"] == counted["counts"]["final"] == len(journal)

    def check_verified(self) -> None:
        verified = self.service.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr


@contextlib.contextmanager
def world(folder: Path, postgres: Postgres, database_url: str | None = None, **more: Any) -> Iterator[World]:
    with AcceptingProvider() as provider:
        running = World(folder, database_url or postgres.url, postgres, provider, **more)
        with running.service:
            running.begin()
            yield running


def post_in_time(post: Callable[[], list[Posted]]) -> list[Posted]:
    """Post groups until a complete group is answered in time; return all callbacks."""
    groups: list[list[Posted]] = []
    while len(groups) < TIMES:
        groups.append(post())
        if worst(groups[-1]) < OWED_SECONDS:
            return [each for group in groups for each in group]
    raise AssertionError(f"at worst {', '.join(f'{worst(group):.2f}' for group in groups)} s")


def median(posted: Sequence[Posted]) -> float:
    return sorted(each.seconds for each in posted)[len(posted) // 2]


def worst(posted: Sequence[Posted]) -> float:
    return max(each.seconds for each in posted)


def sign_in(service: Service) -> str:
    """The cookie of a session on the pages."""
    form = ask(f"{service.url}/login")
    token = re.search(rb'name="csrf_token" value="([^"]+)"', form.body)
    assert token is not None, form.body
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.netloc, timeout=30)
    with contextlib.closing(connection):
        fields = {"csrf_token": token[1].decode(), "key": service.key}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": _cookie(form.headers)}
        connection.request("POST", "/login", urlencode(fields), headers)
        answer = connection.getresponse()
        assert answer.status in (302, 303), answer.read()
        return _cookie(dict(answer.headers))


def _cookie(headers: Mapping[str, str]) -> str:
    return headers["Set-Cookie"].partition(";")[0]
