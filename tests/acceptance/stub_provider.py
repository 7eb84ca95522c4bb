"""A provider for tests, written only from the provider's documentation. It uses no code of the service.

    python tests/acceptance/stub_provider.py --port 8200 --user you@example.com --key your-developer-key

It accepts `bulk_queue`, checks the documented rules, sends a GET to the `result_url` before it dials, and then posts
the result of each call, in every observed format. `--ledger` appends a JSON line for each action. Nobody is called.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import re
import signal
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

QUEUE = re.compile(r"/api/apps/([1-9]\d*)/([1-9]\d*)/bulk_queue")
STATUS = re.compile(r"/api/outbound/([^/]+)")
DESTINATION = re.compile(r"(?:tel:)?\+?(\d{7,15})(?:;(?:ani=\d+|postd=[\d,#*pw]+))*")
ENDINGS = ("completed", "failed", "completed", "canceled", "rejected")
SHAPES = ("bare", "wrapped", "mislabelled", "form", "xml")
RESULT_URL_LENGTH = 255


class Refused(Exception):
    """A request that is refused with this status and message; nothing was queued."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


@dataclass(frozen=True, slots=True)
class Order:
    """The contents of a `bulk_queue` request. Times in Unix seconds."""

    numbers: list[str]
    result_url: str
    start: int | None
    end: int | None
    max_attempts: int
    reattempt_wait: int


class Dialing:
    """Makes the calls of orders, one after the other, and records each action."""

    def __init__(self, ledger: Path | None, pause: float) -> None:
        self._ledger, self._pause = ledger, pause
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def take(self, order: Order) -> None:
        thread = threading.Thread(target=self._dial, args=(order,))
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def note(self, **what: object) -> None:
        if self._ledger is not None:
            with self._lock, self._ledger.open("a") as file:
                file.write(json.dumps(what) + "\n")

    def _dial(self, order: Order) -> None:
        asked = _ask(urllib.request.Request(order.result_url, method="GET"))  # noqa: S310 the receiver's own address
        self.note(did="check", result_url=order.result_url, answered=asked)
        if asked != 200:
            return  # "drops the request unless it answers 200"
        self.note(did="heartbeat", answered=_ask(urllib.request.Request(order.result_url, b"", method="POST")))  # noqa: S310
        for at, number in enumerate(order.numbers):
            if self._stop.wait(self._pause):
                return
            status, shape = ENDINGS[at % len(ENDINGS)], SHAPES[at % len(SHAPES)]
            body, content_type = _shaped(shape, _call_details(order, number, status))
            request = urllib.request.Request(  # noqa: S310 as above
                order.result_url, body, {"Content-Type": content_type}, method="POST"
            )
            self.note(did="result", number=number, status=status, shape=shape, answered=_ask(request))


def _ask(request: urllib.request.Request) -> int:
    """The status of the answer; 0: no answer, or a redirect, because a POST does not follow it."""
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 as above
            status: int = answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return status


def _call_details(order: Order, number: str, status: str) -> dict[str, Any]:
    """The documented fields, in the observed types: numeric strings, and a phone number in apostrophes."""
    now = int(time.time())
    attempts = order.max_attempts if status == "failed" else 1
    events: list[dict[str, object]] = [{"event": "queued", "timestamp": now - 60}]
    events += [{"event": "dialing", "timestamp": str(now - 50 + each)} for each in range(attempts)]
    details: dict[str, Any] = {
        "phone_number": f"'{number.removeprefix('1') if len(number) == 11 else number}'",
        "status": status,
        "attempts": str(attempts),
        "max_attempts": str(order.max_attempts),
        "queued_timestamp": str(now - 58),
        "start_timestamp": "" if order.start is None else str(order.start),
        "end_timestamp": "" if order.end is None else str(order.end),
        "reattempt_wait": str(order.reattempt_wait),
    }
    if status == "completed":
        events += [{"event": "connected", "timestamp": now - 30}, {"event": "disconnected", "timestamp": now - 5}]
        details["duration"] = 25
    if status == "canceled":
        events = [events[0], {"event": "canceled", "timestamp": now}]
    return {**details, "events": events}


def _shaped(shape: str, details: dict[str, Any]) -> tuple[bytes, str]:
    if shape == "wrapped":
        return json.dumps({"call_details": details}).encode(), "application/json"
    if shape == "mislabelled":
        return json.dumps(details).encode(), "text/plain"
    if shape == "form":
        fields = {name: text for name, text in details.items() if name != "events"}
        for at, event in enumerate(details["events"]):
            fields |= {f"events[{at}][{name}]": text for name, text in event.items()}
        return urllib.parse.urlencode(fields).encode(), "application/x-www-form-urlencoded"
    if shape == "xml":
        items = "".join(f"<{n}>{escape(str(v))}</{n}>" for n, v in details.items() if n != "events")
        events = "".join(
            "<item>" + "".join(f"<{n}>{escape(str(v))}</{n}>" for n, v in event.items()) + "</item>"
            for event in details["events"]
        )
        return f"<result><call_details>{items}<events>{events}</events></call_details></result>".encode(), "text/xml"
    return json.dumps(details).encode(), "application/json"


def read_order(content_type: str, body: bytes) -> Order:
    """Check each field by the rules of the page about bulk_queue. Raises Refused."""
    whole = BytesParser(policy=policy.HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    if whole.get_content_type() != "multipart/form-data" or not isinstance(whole, EmailMessage):
        raise Refused(400, "data improperly formatted: not multipart/form-data")
    parts: dict[str, bytes] = {}
    for part in whole.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts[str(part.get_param("name", header="content-disposition"))] = content
    if "csv" not in parts:
        raise Refused(400, "csv is missing")
    fields = {name: content.decode() for name, content in parts.items() if name != "csv"}
    if wrong := fields.keys() - {
        "start_timestamp", "end_timestamp", "max_attempts", "reattempt_wait", "result_url", "is_pci"
    }:  # fmt: skip
        raise Refused(400, f"unknown: {', '.join(sorted(wrong))}")
    if fields.get("is_pci", "0") not in ("0", "1"):
        raise Refused(400, "is_pci must be 0 or 1")
    result_url = fields.get("result_url", "")
    if not result_url.startswith(("http://", "https://")) or len(result_url) > RESULT_URL_LENGTH:
        raise Refused(400, "result_url is no URL of at most 255 characters")
    max_attempts = _whole(fields, "max_attempts", 1, 10)
    reattempt_wait = _whole(fields, "reattempt_wait", 60, 86400)
    if (max_attempts or 1) > 1 and reattempt_wait is None:
        raise Refused(400, "reattempt_wait is required when max_attempts is more than 1")
    start, end = (_whole(fields, f"{edge}_timestamp", 1, 1 << 40) for edge in ("start", "end"))
    return Order(_numbers(parts["csv"]), result_url, start, end, max_attempts or 1, reattempt_wait or 0)


def _whole(fields: dict[str, str], name: str, low: int, high: int) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    if not text.isdigit() or not low <= int(text) <= high:
        raise Refused(400, f"{name} must be a whole number from {low} to {high}")
    return int(text)


def _numbers(content: bytes) -> list[str]:
    rows = list(csv.reader(io.StringIO(content.decode())))
    if not rows or rows[0][0] != "destination":
        raise Refused(400, "the CSV's first column must be called destination")
    numbers: list[str] = []
    for row in filter(None, rows[1:]):
        found = DESTINATION.fullmatch(row[0])
        if found is None or len(row) > len(rows[0]):
            raise Refused(400, f"the CSV's row {len(numbers) + 1} is invalid")
        numbers.append(found[1])
    return numbers


class Front(BaseHTTPRequestHandler):
    """The provider's addresses."""

    dialing: Dialing
    login: str
    deployments: frozenset[tuple[str, str]]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer_with(lambda: self._queue(body))

    def do_GET(self) -> None:
        self._answer_with(self._status)

    do_PUT = do_DELETE = do_PATCH = do_GET

    def _answer_with(self, answer: Any) -> None:
        try:
            if self.headers["Authorization"] != self.login:
                raise Refused(401, "authentication invalid")
            status, content = 200, answer()
        except Refused as refused:
            status, content = refused.status, {"error": str(refused)}
        xml = self.headers["Accept"] == "application/xml"
        items = "".join(f"<{name}>{escape(str(text))}</{name}>" for name, text in content.items())
        body = f"<result>{items}</result>" if xml else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/xml" if xml else "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def _queue(self, body: bytes) -> dict[str, object]:
        found = QUEUE.fullmatch(self.path)
        if found is None or (found[1], found[2]) not in self.deployments:
            raise Refused(404, "deployment not found")
        order = read_order(self.headers["Content-Type"] or "", body)
        self.dialing.note(did="queue", calls=len(order.numbers), result_url=order.result_url)
        self.dialing.take(order)
        return {"calls_queued": len(order.numbers)}

    def _status(self) -> dict[str, object]:
        if QUEUE.fullmatch(self.path):
            raise Refused(405, "method not allowed")
        raise Refused(404, "call not found" if STATUS.fullmatch(self.path) else "not found")

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A provider that follows the documentation, and calls nobody.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--deployment", default="7/3", help="application/deployment that exists; default: %(default)s")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two results; default: %(default)s")
    parser.add_argument("--ledger", type=Path, help="append a JSON line for each action")
    given = parser.parse_args()
    login = base64.b64encode(f"{given.user}:{given.key}".encode()).decode()
    application, _, deployment = given.deployment.partition("/")
    Front.login, Front.deployments = f"Basic {login}", frozenset([(application, deployment)])
    Front.dialing = Dialing(given.ledger, given.pause)
    with ThreadingHTTPServer(("127.0.0.1", given.port), Front) as server:
        server.daemon_threads = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"http://127.0.0.1:{given.port}", flush=True)
        server.serve_forever(0.1)
    Front.dialing.stop()


if __name__ == "__main__":
    main()
