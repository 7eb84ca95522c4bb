"""An endpoint of the team, which gets all events while processes of the service are killed. It is never killed."""

from __future__ import annotations

import json
import threading
import zlib
from collections import defaultdict
from typing import Any

from standardwebhooks import WebhookVerificationError

from tests.relay.endpoint_server import Request

Subject = tuple[int, ...]
"""(batch_id, row) of a call, (batch_id,) of a batch, (batch_id, id) of a submission or a callback."""

REFUSED_OF = 10
"""One event of so many is refused the first time, and sent again later."""


def subject_of(event: dict[str, Any]) -> Subject:
    about, kind = event["data"], event["type"].partition(".")[0]
    if kind == "batch":
        return (about["id"],)
    return about["batch_id"], about["row" if kind == "call" else "id"]


def as_delivered(call: dict[str, Any]) -> str:
    """A call for comparisons. Its follow-up is left out: this changes without an event."""
    return json.dumps(call | {"followed_by": None}, sort_keys=True)


class Inbox:
    """What the endpoint got. `meanings`: of each `webhook-id`, the events that it named: type, time and subject.

    `results`: each call as the events showed it that were answered 200. `requests`: how many arrived. `faults`: what
    must not have arrived.
    """

    def __init__(self) -> None:
        self.secret = ""
        self.requests = 0
        self.meanings: defaultdict[str, set[tuple[str, str, Subject]]] = defaultdict(set)
        self.results: defaultdict[Subject, set[str]] = defaultdict(set)
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Verified at once, because a signature is valid for five minutes."""
        with self._lock:
            self.requests += 1
            try:
                event = request.verified(self.secret)
            except WebhookVerificationError as error:
                self.faults.append(f"{request.id}: {error}")
                return 400, {}, b""
            subject, is_first = subject_of(event), request.id not in self.meanings
            self.meanings[request.id].add((event["type"], event["timestamp"], subject))
            if is_first and zlib.crc32(request.id.encode()) % REFUSED_OF == 0:
                return 503, {}, b"not now"
            if event["type"] == "call.result":
                self.results[subject].add(as_delivered(event["data"]))
            return 200, {}, b""

    def types(self) -> set[str]:
        return {type_ for meant in self.meanings.values() for type_, _, _ in meant}

    def subjects(self, event: str) -> set[Subject]:
        """What the events of this type are about."""
        return {subject for meant in self.meanings.values() for type_, _, subject in meant if type_ == event}
