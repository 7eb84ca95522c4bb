"""The load while processes are killed: results are posted, batches are queued and followed up, and some are paused.

It records what was sent and how it was answered.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.acceptance.service import Answer, Service

POSTED_NUMBERS = [str(6_173_000_000 + index) for index in range(2_000)]
BATCH_ROWS = 6
POSTERS = 3

PACE = 40
"""Calls per minute of a batch with a pace: it is divided into three submissions, and is released within six seconds."""

PAUSE_SECONDS = 4.0

LEFT_ALONE = 6
"""A batch is followed up when so many were queued after it: most of its results have arrived then."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of a batch: the unreleased submissions in the answers to the pause and to the resumption."""

    batch_id: int
    at_pause: set[int]
    at_resumption: set[int]


@dataclass(slots=True)
class Record:
    """`posted`: the bodies by mark. `acknowledged`: the marks of the bodies that were answered 200.

    `numbers`: how many batches were requested. `queued`: the batch ids by Idempotency-Key; `follow_ups`: the earlier
    batches of those that are follow-ups. `to_follow_up`, `to_pause`: batches for which this is still to be done.
    """

    posted: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    numbers: int = 0
    queued: dict[str, int] = field(default_factory=dict)
    follow_ups: dict[int, int] = field(default_factory=dict)
    pauses: list[Pause] = field(default_factory=list)
    to_follow_up: deque[int] = field(default_factory=deque)
    to_pause: deque[int] = field(default_factory=lambda: deque(maxlen=1))


class Load:
    """Threads that send requests until the context ends. The content type of a result contains its body's mark."""

    def __init__(self, service: Service, result_url: str, folder: Path, record: Record, seed: int) -> None:
        self._service, self._folder, self._record, self._seed = service, folder, record, seed
        self._address = urlsplit(result_url)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(POSTERS)]
        self._threads += [threading.Thread(target=self._queue), threading.Thread(target=self._pause)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a request was neither answered nor closed"

    def _post(self, poster: int) -> None:
        draws = random.Random(f"{self._seed} {poster} {len(self._record.posted)}")
        record = self._record
        connection = http.client.HTTPConnection(self._address.netloc, timeout=30)
        while not self._stop.is_set():
            mark = f"{poster}-{len(record.posted)}-{draws.getrandbits(32):08x}"
            record.posted[mark] = body = _draw_body(draws, mark)
            headers = {"Content-Type": f"application/json; mark={mark}"}
            try:
                connection.request("POST", self._address.path, body, headers)
                answer = connection.getresponse()
                answer.read()
                acknowledged = answer.status == 200
            except (OSError, http.client.HTTPException):
                acknowledged = False
                connection.close()
            if acknowledged:
                record.acknowledged.add(mark)
            self._stop.wait(0.05 if acknowledged else 0.1)
        connection.close()

    def _queue(self) -> None:
        """Queue one batch after the other: of two, one is a follow-up or has a pace."""
        record = self._record
        while not self._stop.is_set():
            record.numbers += 1
            number, earlier = record.numbers, None
            if number % 4 == 0 and len(record.to_follow_up) > LEFT_ALONE:
                earlier = record.to_follow_up.popleft()
                batch_id = self._follow_up(number, earlier)
            else:
                batch_id = self._queue_contacts(number, paced=number % 4 == 2)
            if batch_id is not None:
                record.queued[f"key-{number}"] = batch_id
                record.to_follow_up.append(batch_id)
                if earlier is not None:
                    record.follow_ups[batch_id] = earlier
                elif number % 4 == 2:
                    record.to_pause.append(batch_id)
            self._stop.wait(0.4)

    def _queue_contacts(self, number: int, *, paced: bool) -> int | None:
        contacts = self._folder / "contacts.csv"
        contacts.write_text(
            "\n".join(["destination,name", *(f"{called_number(number, row)},N" for row in range(BATCH_ROWS))])
        )
        fields = {"application_id": str(application_id(number))} | ({"calls_per_minute": str(PACE)} if paced else {})
        key = f"Idempotency-Key: key-{number}"
        answer = self._repeat(lambda: self._service.queue(contacts, key, "Prefer: wait=0", **fields))[0]
        return None if answer is None else _queued(answer)

    def _follow_up(self, number: int, batch_id: int) -> int | None:
        """None: no call of the batch can be followed up, or the load ended before the answer."""
        headers = {"Idempotency-Key": f"key-{number}", "Prefer": "wait=0", "Content-Type": "application/json"}
        body = json.dumps({"application_id": application_id(number)}).encode()
        path = f"/api/v1/batches/{batch_id}/follow-ups"
        answer = self._repeat(lambda: self._service.ask(path, "POST", body, headers))[0]
        if answer is None or answer.json.get("code") == "nothing_to_follow_up":
            return None
        return _queued(answer)

    def _pause(self) -> None:
        """Pause the newest batch with a pace, and resume it; then the next one. `World.settle` resumes the last one."""
        record = self._record
        while not self._stop.wait(0.05):
            if not record.to_pause:
                continue
            batch_id = record.to_pause.pop()
            paused, _ = self._change(batch_id, "pause")
            self._stop.wait(PAUSE_SECONDS)
            resumed, sent_once = self._change(batch_id, "resume")
            if paused is not None and resumed is not None and sent_once:
                record.pauses.append(Pause(batch_id, _unreleased(paused), _unreleased(resumed)))

    def _change(self, batch_id: int, action: str) -> tuple[dict[str, Any] | None, bool]:
        """The batch after this, None if the load ended before the answer; and whether one request was enough."""
        answer, sent_once = self._repeat(lambda: self._service.ask(f"/api/v1/batches/{batch_id}/{action}", "POST"))
        if answer is None:
            return None, sent_once
        assert answer.status == 200, answer
        return answer.json, sent_once

    def _repeat(self, request: Callable[[], Answer]) -> tuple[Answer | None, bool]:
        """Repeat the same request until the service answers it; None: the load ended. And whether it was sent once."""
        sent_once = True
        while True:
            try:
                answer = request()
                if answer.status < 500 and answer.json:
                    return answer, sent_once
            except (OSError, http.client.HTTPException, subprocess.SubprocessError, ValueError, IndexError):
                pass  # no process was running, or it was killed before its answer
            sent_once = False
            if self._stop.wait(0.2):
                return None, False


def application_id(number: int) -> int:
    """It identifies a batch here and at the provider."""
    return 1000 + number


def called_number(batch: int, row: int) -> int:
    """Each number is in only one batch, and in its follow-ups."""
    return 6_174_000_000 + batch * BATCH_ROWS + row


def _queued(answer: Answer) -> int:
    assert answer.status in (201, 202), answer
    return int(answer.json["id"])


def _unreleased(batch: dict[str, Any]) -> set[int]:
    return {submission["id"] for submission in batch["submissions"] if submission["state"] == "pending"}


def _draw_body(draws: random.Random, mark: str) -> bytes:
    """A result of a random call. A few bodies are unreadable or have an unmatched number."""
    kind = draws.random()
    if kind < 0.03:
        return f"not readable {mark}".encode()
    number = "6172009999" if kind < 0.06 else draws.choice(POSTED_NUMBERS)
    result = {
        "phone_number": f"'{number}'",
        "status": draws.choice(("completed", "completed", "failed", "rejected", "voicemail", "dialing")),
        "attempts": str(draws.randint(1, 3)),
        "events": [{"event": "disconnected", "timestamp": draws.randint(1_760_000_000, 1_760_000_009)}],
        "mark": mark,
    }
    return json.dumps(result).encode()
