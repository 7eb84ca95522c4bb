"""The load while processes are killed: results are posted, and batches are queued.

It records what was sent and how it was answered.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.acceptance.service import Service

POSTED_NUMBERS = [str(6_173_000_000 + index) for index in range(2_000)]
BATCH_ROWS = 6
POSTERS = 3


@dataclass(slots=True)
class Record:
    """`posted`: the bodies by mark. `acknowledged`: the marks of the bodies that were answered 200.

    `queued`: the batch ids by Idempotency-Key.
    """

    posted: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    queued: dict[str, int] = field(default_factory=dict)


class Load:
    """Threads that post results and queue batches until the context ends. The content type contains the body's mark."""

    def __init__(self, service: Service, result_url: str, folder: Path, record: Record, seed: int) -> None:
        self._service, self._folder, self._record, self._seed = service, folder, record, seed
        self._address = urlsplit(result_url)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(POSTERS)]
        self._threads.append(threading.Thread(target=self._queue))

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
        """Queue one batch after the other. Each request is repeated with the same key until it is answered."""
        number = len(self._record.queued)
        while not self._stop.is_set():
            number += 1
            contacts = self._folder / "contacts.csv"
            contacts.write_text(
                "\n".join(["destination,name", *(f"{called_number(number, row)},N" for row in range(BATCH_ROWS))])
            )
            key = f"key-{number}"
            while True:
                try:
                    answer = self._service.queue(
                        contacts,
                        f"Idempotency-Key: {key}",
                        "Prefer: wait=0",
                        application_id=str(application_id(number)),
                    )
                except (subprocess.SubprocessError, ValueError, IndexError):
                    pass  # no process was running, or it was killed before its answer
                else:
                    if answer.status in (201, 202):
                        self._record.queued[key] = int(answer.json["id"])
                        break
                    assert answer.status >= 500, answer.body
                if self._stop.wait(0.2):
                    return
            self._stop.wait(0.4)


def application_id(number: int) -> int:
    """It identifies a batch here and at the provider."""
    return 1000 + number


def called_number(batch: int, row: int) -> int:
    """Each number is in only one batch."""
    return 6_174_000_000 + batch * BATCH_ROWS + row


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
