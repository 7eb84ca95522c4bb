"""Writes the bodies of the provider's callbacks: `call_details` in each possible shape. No I/O.

It imitates the samples in tests/samples/callbacks.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode
from xml.sax.saxutils import escape, quoteattr

from urllib3.filepost import encode_multipart_formdata

from receiver.simulator.calls import Call

SHAPES = ("bare", "wrapped", "form", "field", "multipart", "xml")
"""`bare` and `wrapped` JSON; a `form` in PHP's style; one JSON text `field` of a form; the same form as
`multipart`; `xml`."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request. Timestamps are Unix seconds, `reattempt_wait` is in seconds."""

    start_timestamp: int | None = None
    end_timestamp: int | None = None
    max_attempts: int = 1
    reattempt_wait: int | None = None
    result_url: str | None = None


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one body is written; documented bodies differ in each of these.

    `queued_skew`: `queued_timestamp` minus the time of the `queued` event, in seconds.
    """

    flip_leading_one: bool = False
    queued_skew: int = 0
    text_timestamps: bool = False


def draw_spelling(draws: random.Random) -> Spelling:
    flip, skewed, as_text = draws.random() < 0.3, draws.random() < 0.2, draws.random() < 0.3
    return Spelling(flip, -draws.randint(1, 7) if skewed else 0, as_text)


def dialed_digits(destination: str) -> str:
    """The digits that are dialed: `tel:+16175551234;postd=2` gives `16175551234`."""
    return re.sub(r"\D", "", destination.partition(";")[0])


def spell_number(destination: str, *, flip_leading_one: bool) -> str:
    """The number as it is in a body: in apostrophes, sometimes with the country code 1 added or removed."""
    digits = dialed_digits(destination)
    if flip_leading_one and re.fullmatch(r"1?[2-9]\d\d[2-9]\d{6}", digits):
        digits = digits[1:] if len(digits) == 11 else f"1{digits}"
    return f"'{digits}'"


def call_details(call: Call, parameters: Parameters, queued_at: int, spelling: Spelling) -> dict[str, object]:
    """One call as the provider reports it. `queued_at`: Unix seconds of its acceptance.

    All numbers but `duration` are text. `start_timestamp` and `end_timestamp` are the times of the connection or,
    without one, the window, or empty (provider page: The callback).
    """
    moment = str if spelling.text_timestamps else int
    events = [{"event": name, "timestamp": moment(queued_at + at)} for name, at in call.events]
    # A call that was canceled before it was dialed has one attempt, too.
    attempts = str(max(len(call.dialed), 1))
    number = spell_number(call.destination, flip_leading_one=spelling.flip_leading_one)
    queued = str(queued_at + spelling.queued_skew)
    wait = str(parameters.reattempt_wait or 0)
    if call.connected is not None and call.ended is not None:
        return {
            "max_attempts": str(parameters.max_attempts),
            "attempts": attempts,
            "events": events,
            "phone_number": number,
            "status": call.status,
            "queued_timestamp": queued,
            "start_timestamp": str(queued_at + call.connected),
            "end_timestamp": str(queued_at + call.ended),
            "reattempt_wait": wait,
            "duration": call.duration,
        }
    details: dict[str, object] = {
        "status": call.status,
        "attempts": attempts,
        "max_attempts": str(parameters.max_attempts),
        "queued_timestamp": queued,
    }
    if call.outcome == "canceled" and call.ended is not None:
        details["last_attempt_timestamp"] = str(queued_at + call.ended)
    details["start_timestamp"] = "" if parameters.start_timestamp is None else str(parameters.start_timestamp)
    details["end_timestamp"] = "" if parameters.end_timestamp is None else str(parameters.end_timestamp)
    return {**details, "reattempt_wait": wait, "events": events, "phone_number": number}


def with_extra_fields(details: Mapping[str, object], call_id: str) -> dict[str, object]:
    """The details with additional undocumented fields, one of them nested."""
    return {**details, "call_id": call_id, "carrier": {"name": "Example Telecom", "hops": ["a", "b"]}, "cost": None}


def with_inconsistency(details: Mapping[str, object], inconsistency: str) -> dict[str, object]:
    """The details with one of `faults.INCONSISTENCIES`, if it applies to them."""
    changed = dict(details)
    events = changed["events"]
    if inconsistency == "start_Timestamp":
        return {("start_Timestamp" if name == "start_timestamp" else name): value for name, value in changed.items()}
    if inconsistency == "cancelled" and changed["status"] == "canceled":
        changed["status"] = "cancelled"
    elif inconsistency == "events_as_object" and isinstance(events, list):
        changed["events"] = {str(no): event for no, event in enumerate(events)}
    elif inconsistency == "events_missing":
        del changed["events"]
    return changed


def encode(details: Mapping[str, object], shape: str) -> tuple[bytes, str]:
    """The body and its content type, in one of `SHAPES`."""
    if shape == "wrapped":
        return compact_json({"call_details": details}), "application/json"
    if shape == "form":
        return urlencode(list(form_fields(details))).encode(), "application/x-www-form-urlencoded"
    if shape == "field":
        body = urlencode({"call_details": compact_json(details).decode()})
        return body.encode(), "application/x-www-form-urlencoded"
    if shape == "multipart":
        return multipart(details)
    if shape == "xml":
        return to_xml("result", {"call_details": details}).encode(), "application/xml"
    return compact_json(details), "application/json"


def compact_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def form_fields(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """A nested value with the field names of PHP: `events[0][event]=queued`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from form_fields(inner, f"{name}[{key}]" if name else str(key))
    elif isinstance(value, list):
        for no, inner in enumerate(value):
            yield from form_fields(inner, f"{name}[{no}]")
    else:
        yield name, "" if value is None else str(value)


def multipart(details: Mapping[str, object]) -> tuple[bytes, str]:
    # Derived from the content, so that a seeded run repeats byte for byte.
    boundary = f"----{hashlib.sha256(compact_json(details)).hexdigest()[:32]}"
    return encode_multipart_formdata(list(form_fields(details)), boundary)


def to_xml(tag: str, value: object) -> str:
    """An XML document. The entries of a list become `<item>`s, and so do keys that are not XML names."""
    return f'<?xml version="1.0"?>{_element(tag, value)}'


def _element(tag: str, value: object) -> str:
    opening = tag
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", tag):
        tag, opening = "item", f"item key={quoteattr(tag)}"
    if isinstance(value, Mapping):
        inner = "".join(_element(str(key), each) for key, each in value.items())
    elif isinstance(value, list):
        inner = "".join(_element("item", each) for each in value)
    else:
        inner = "" if value is None else escape(str(value))
    return f"<{opening}>{inner}</{tag}>"
