"""One request to an endpoint, signed as in Standard Webhooks, and what came of it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import random
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from secrets import token_hex
from time import monotonic
from typing import Any

import certifi
from standardwebhooks.webhooks import Webhook

from receiver import __version__
from receiver.config import Network
from receiver.logs import mask_digits
from receiver.model import rfc3339
from receiver.relay.addresses import connect, read_url, seconds_left
from receiver.release.connection import BoundedResponse

ANSWER_SECONDS = 15.0
"""Longest time from the first look-up of the name to the last byte of the answer."""

EXCERPT_CHARACTERS = 500

SPEED = float(os.environ.get("TEST_RELAY_SPEED", "1"))
"""Only tests set this: all waits between attempts are divided by it."""

SCHEDULE = tuple(
    timedelta(seconds=seconds) / SPEED
    for seconds in (5, 300, 1800, 7200, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""The waits after the first failed attempt, the second, and so on. After one more, an event is given up."""

LONGEST_RETRY_AFTER = timedelta(days=1)

_GONE = 410


@dataclass(frozen=True, slots=True)
class Attempt:
    """`status`: of the answer; None if there is none. `error`: why it failed, or the first characters of the answer."""

    at: datetime
    status: int | None
    duration_seconds: int
    error: str | None
    retry_after: timedelta = timedelta()

    @property
    def delivered(self) -> bool:
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants no events any more."""
        return self.status == _GONE

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        answer = "no answer" if self.status is None else f"status {self.status}"
        took = f"{answer} after {self.duration_seconds} s"
        return f"Delivered: {took}" if self.delivered else f"Not delivered: {took}: {self.error}"

    def members(self) -> dict[str, Any]:
        """As it is stored, and as the API shows it."""
        return {
            "at": rfc3339(self.at),
            "status": self.status,
            "duration_seconds": self.duration_seconds,
            "error": self.error,
        }


def send_test(endpoint_id: int, url: str, secrets: Sequence[str], networks: Sequence[Network]) -> Attempt:
    """Send one event of type `endpoint.test`. Never raises."""
    sender = Sender(url, networks)
    body = event_body("endpoint.test", datetime.now(UTC), f'{{"endpoint_id":{endpoint_id}}}')
    try:
        return sender.send(f"msg_test_{token_hex(16)}", body, secrets)
    finally:
        sender.close()


def event_body(event: str, at: datetime, data: str) -> str:
    """The body of a request. `data`: a JSON object."""
    return f'{{"type":"{event}","timestamp":"{rfc3339(at)}","data":{data}}}'


def next_wait(failures: int, retry_after: timedelta) -> timedelta | None:
    """The wait after so many failed attempts. None: give up. If people retry it, the waits begin again."""
    place = (failures - 1) % (len(SCHEDULE) + 1)
    if place == len(SCHEDULE):
        return None
    return max(SCHEDULE[place] * random.uniform(1, 1.2), retry_after)  # noqa: S311 no secret


class Sender:
    """Sends to one endpoint. Threads may share it. A request uses an idle connection, or makes one.

    It follows no redirects, and uses no proxy and no credentials of the environment.
    """

    def __init__(self, url: str, networks: Sequence[Network]) -> None:
        self.url = url
        self.closed = False
        """Whether no more requests should begin."""
        self._place = read_url(url)
        self._networks = networks
        self._idle: deque[socket.socket] = deque()

    def send(self, message_id: str, body: str, secrets: Sequence[str]) -> Attempt:
        """Send an event. Never raises. `secrets`: each of them signs."""
        at, began = datetime.now(UTC), monotonic()
        status, error, wait = None, None, timedelta()
        try:
            request = self._request(message_id, at, body, secrets)
            answer, excerpt, failure = self._post(request, began + ANSWER_SECONDS)
            status, wait = answer.status, _retry_after(answer.getheader("Retry-After"), at)
            if failure is not None:
                raise failure
            if not 200 <= status < 300:
                error = excerpt or f"It answered {status} {answer.reason}".strip()
        except Exception as caught:  # whatever an event or an answer causes: an event must not get stuck
            error = str(caught) or type(caught).__name__
        shown = None if error is None else mask_digits(error)[:EXCERPT_CHARACTERS]
        return Attempt(at, status, round(monotonic() - began), shown, wait)

    def close(self) -> None:
        self.closed = True
        while self._idle:
            self._idle.pop().close()

    def _request(self, message_id: str, at: datetime, body: str, secrets: Sequence[str]) -> bytes:
        content = body.encode()
        headers = {
            "Host": self._place.netloc,
            "User-Agent": f"result-url-receiver/{__version__}",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, body) for secret in secrets),
        }
        lines = [
            f"POST {self._place.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + content

    def _post(self, request: bytes, until: float) -> tuple[http.client.HTTPResponse, str, Exception | None]:
        """The answer, the first characters of its body, and why the body could not be read."""
        with contextlib.suppress(IndexError, ConnectionError, http.client.BadStatusLine):
            # The endpoint may have closed an idle connection. If it got the event all the same, it gets it twice.
            return self._exchange(self._idle.pop(), request, until)
        connected = connect(self._place, self._networks, until)
        if self._place.scheme == "https":
            connected = _trust().wrap_socket(connected, server_hostname=self._place.host)
        return self._exchange(connected, request, until)

    def _exchange(
        self, connection: socket.socket, request: bytes, until: float
    ) -> tuple[http.client.HTTPResponse, str, Exception | None]:
        excerpt, is_complete, failure = b"", False, None
        try:
            connection.settimeout(seconds_left(until))
            connection.sendall(request)
            answer = BoundedResponse(connection, method="POST", limits=lambda: (ANSWER_SECONDS, until))
            with answer:
                answer.begin()
                try:
                    excerpt = answer.read(4 * EXCERPT_CHARACTERS)
                    is_complete = not answer.read(1)
                except Exception as broken:  # the status counts all the same
                    failure = broken
        except BaseException:
            connection.close()
            raise
        if is_complete and not answer.will_close and not self.closed:
            self._idle.append(connection)
        else:
            connection.close()
        return answer, _printable(excerpt), failure


@functools.cache
def _trust() -> ssl.SSLContext:
    """The certificates of certifi, as for the provider, and those of the system."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _printable(excerpt: bytes) -> str:
    text = excerpt.decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _retry_after(value: str | None, now: datetime) -> timedelta:
    """Seconds or a date; at most LONGEST_RETRY_AFTER."""
    if not value:
        return timedelta()
    try:
        if value.strip().isdigit():
            wait = timedelta(seconds=min(int(value), 10**6))
        else:
            when = parsedate_to_datetime(value)
            wait = (when if when.tzinfo else when.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return timedelta()
    return min(max(wait, timedelta()), LONGEST_RETRY_AFTER)
