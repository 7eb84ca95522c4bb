"""Shared by the tests of reading callbacks."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

import pytest

from receiver.results.reading.call_details import CallDetails, read_call_details
from receiver.results.reading.call_events import Event
from receiver.results.reading.unreadable import REASONS, UnreadableBody

SAMPLES = Path(__file__).parents[2] / "samples" / "callbacks"
CONTENT_TYPES = (
    "",
    "application/json",
    "text/plain; charset=utf-16",
    "application/x-www-form-urlencoded",
    'multipart/form-data; boundary="----boundary7d1f"',
    "text/xml",
)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def events(*pairs: tuple[str, int]) -> tuple[Event, ...]:
    return tuple(Event(name, at(seconds)) for name, seconds in pairs)


COMPLETED = CallDetails(
    phone_number="6175551234",
    provider_status="completed",
    outcome="completed",
    attempts=1,
    max_attempts=1,
    queued_at=at(1700000100),
    started_at=at(1700000131),
    ended_at=at(1700000178),
    last_event_at=at(1700000178),
    duration_seconds=47,
    events=events(
        ("queued", 1700000100),
        ("dialing", 1700000102),
        ("connected", 1700000131),
        ("disconnected", 1700000178),
    ),
)
NEVER_CONNECTED = COMPLETED._replace(
    started_at=None, events=events(("queued", 1700000100), ("disconnected", 1700000178))
)


def read(body: bytes | str | dict[str, object], content_type: str = "", encoding: str = "") -> CallDetails:
    if isinstance(body, dict):
        body = json.dumps(body)
    return read_call_details(body.encode() if isinstance(body, str) else body, content_type, encoding)


def reason(body: bytes | str | dict[str, object], content_type: str = "", encoding: str = "") -> str:
    with pytest.raises(UnreadableBody) as caught:
        read(body, content_type, encoding)
    assert str(caught.value) == REASONS[caught.value.code]
    return caught.value.code


def form_fields(value: object, name: str = "") -> list[tuple[str, str]]:
    """Nested values as the names and values of a form in PHP's style."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in form_fields(item, f"{name}[{key}]" if name else key)]
    if isinstance(value, list):
        return [pair for place, item in enumerate(value) for pair in form_fields(item, f"{name}[{place}]")]
    return [(name, str(value))]


XML_CANNOT_HOLD = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def renderings(sent: dict[str, object], *, xml: bool = True, multipart: bool = True) -> dict[str, bytes]:
    """The details of a call in every format. XML and multipart cannot contain every character."""
    wrapped = {"call_details": sent}
    plain = json.dumps(sent)
    found = {
        "JSON": plain.encode(),
        "wrapped JSON": json.dumps(wrapped, ensure_ascii=False).encode(),
        "JSON in JSON": json.dumps({"call_details": plain}).encode(),
        "UTF-16 with a mark": plain.encode("utf-16"),
        "UTF-16": json.dumps(sent, ensure_ascii=False).encode("utf-16-be"),
        "UTF-32": json.dumps(sent, ensure_ascii=False).encode("utf-32"),
        "form": urlencode(form_fields(sent)).encode(),
        "wrapped form": urlencode(form_fields(wrapped)).encode(),
        "JSON in a form": f"call_details={quote(plain)}".encode(),
        "JSON in multipart": _multipart({"call_details": plain}),
        "gzip": gzip.compress(plain.encode(), 1),
    }
    if multipart:
        found["multipart"] = _multipart(sent)
    if xml:
        found["XML"] = f"<result>{_xml(wrapped, 'item')}</result>".encode()
        found["XML with events of one name"] = f"<call_details>{_xml(sent, 'event')}</call_details>".encode()
    return found


def _xml(value: object, list_item: str) -> str:
    if isinstance(value, dict):
        return "".join(f"<{key}>{_xml(item, list_item)}</{key}>" for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"<{list_item}>{_xml(item, list_item)}</{list_item}>" for item in value)
    return escape(str(value), {"\r": "&#13;"})


def _multipart(value: object) -> bytes:
    parts = [
        f'--b0undary\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in form_fields(value)
    ]
    return ("".join(parts) + "--b0undary--\r\n").encode()
