"""A callback's body: it is refused, or read as values that Postgres can store, the same values in every format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC

from receiver.intake.journal import BODY_BYTES
from receiver.model import OUTCOMES
from receiver.results.reading.call_details import CallDetails, read_call_details
from receiver.results.reading.unreadable import REASONS, UnreadableBody
from tests.fuzz.envelope import join_input, split_input
from tests.results.reading.samples import SAMPLES, XML_CANNOT_HOLD, renderings

_MULTIPART_CHANGES = re.compile(r"[\r\n]")


def check_callback_body(inputs: bytes) -> None:
    """The input: a line with the content type, a line with the content encoding, and the body."""
    (content_type, encoding), body = split_input(inputs, 2)
    details = read_or_refuse(body[:BODY_BYTES], content_type, encoding)
    if details is None:
        return
    documented = as_documented(details)
    texts = (details.phone_number, details.provider_status, *(event.event for event in details.events))
    rendered_bodies = renderings(
        documented,
        xml=not any(map(XML_CANNOT_HOLD.search, texts)),
        multipart=not any(map(_MULTIPART_CHANGES.search, texts)),
    )
    for name, rendered in rendered_bodies.items():
        assert read_call_details(rendered, "") == details, name


def read_or_refuse(body: bytes, content_type: str, encoding: str = "") -> CallDetails | None:
    """Read a body and check that every value is within its documented limits; None if the body is refused."""
    try:
        details = read_call_details(body, content_type, encoding)
    except UnreadableBody as error:
        assert error.code in REASONS
        return None
    for text in (details.phone_number, details.provider_status, *(event.event for event in details.events)):
        text.encode()
        assert text and "\0" not in text and len(text) <= 200
    for count, most in (
        (details.attempts, 2**15),
        (details.max_attempts, 2**15),
        (details.duration_seconds, 2**31),
    ):
        assert count is None or (type(count) is int and 0 <= count < most)
    times = (details.queued_at, details.started_at, details.ended_at, details.last_event_at)
    for moment in (*times, *(event.at for event in details.events)):
        assert moment is None or moment.utcoffset() == UTC.utcoffset(None)
    assert details.outcome is None or details.outcome in OUTCOMES
    assert len(details.events) <= 1000
    hash(details.result_key)
    return details


def as_documented(details: CallDetails) -> dict[str, object]:
    """The same details as fields that the provider's page describes."""
    fields = {
        "phone_number": details.phone_number,
        "status": details.provider_status,
        "attempts": details.attempts,
        "max_attempts": details.max_attempts,
        "duration": details.duration_seconds,
        "queued_timestamp": details.queued_at and details.queued_at.isoformat(),
        "start_timestamp": details.started_at and details.started_at.isoformat(),
        "end_timestamp": details.ended_at and details.ended_at.isoformat(),
        "last_attempt_timestamp": details.last_event_at and details.last_event_at.isoformat(),
        "events": [
            {"event": event.event, **({"timestamp": event.at.isoformat()} if event.at else {})}
            for event in details.events
        ],
    }
    return {name: value for name, value in fields.items() if value not in (None, [])}


def samples() -> Iterator[bytes]:
    for path in sorted(SAMPLES.iterdir()):
        yield join_input("", "", path.read_bytes())
    yield join_input("multipart/form-data; boundary=b", "deflate", b"preamble\n--b\n")
