"""Every recorded or generated sample has exact values, regardless of its content type."""

from __future__ import annotations

import pytest

from receiver.results.reading.call_details import CallDetails
from tests.results.reading.samples import COMPLETED, CONTENT_TYPES, NEVER_CONNECTED, SAMPLES, at, events, read, reason

EXPECTED: dict[str, CallDetails | str] = {
    "completed.json": COMPLETED,
    "completed-wrapped.json": CallDetails(
        phone_number="16175551299",
        provider_status="completed",
        outcome="completed",
        attempts=2,
        max_attempts=3,
        queued_at=at(1700000200),
        started_at=at(1700000579),
        ended_at=at(1700000611),
        last_event_at=at(1700000611),
        duration_seconds=32,
        events=events(
            ("queued", 1700000200),
            ("dialing", 1700000203),
            ("dialing", 1700000563),
            ("connected", 1700000579),
            ("disconnected", 1700000611),
        ),
    ),
    # The scheduled window is not a time of an event of this call.
    "canceled-window.json": CallDetails(
        phone_number="6175550147",
        provider_status="canceled",
        outcome="canceled",
        attempts=1,
        max_attempts=1,
        queued_at=at(1700001465),
        started_at=None,
        ended_at=at(1700001474),
        last_event_at=at(1700001474),
        duration_seconds=None,
        events=events(("queued", 1700001465), ("canceled", 1700001474)),
    ),
    "failed-exhausted.json": CallDetails(
        phone_number="6175550188",
        provider_status="failed",
        outcome="failed",
        attempts=3,
        max_attempts=3,
        queued_at=at(1700002000),
        started_at=None,
        ended_at=None,
        last_event_at=at(1700002187),
        duration_seconds=None,
        events=events(
            ("queued", 1700002000), ("dialing", 1700002001), ("dialing", 1700002095), ("dialing", 1700002187)
        ),
    ),
    "details.xml": NEVER_CONNECTED,
    "form.txt": NEVER_CONNECTED,
    "events-numbered-object.json": CallDetails(
        phone_number="6175550122",
        provider_status="failed",
        outcome="failed",
        attempts=2,
        max_attempts=2,
        queued_at=at(1700003002),
        started_at=None,
        ended_at=None,
        last_event_at=at(1700003100),
        duration_seconds=None,
        events=events(("queued", 1700003002), ("dialing", 1700003004), ("dialing", 1700003100)),
    ),
    "cancelled-before-dialing.json": CallDetails(
        phone_number="16175550133",
        provider_status="Cancelled",
        outcome="canceled",
        attempts=1,
        max_attempts=1,
        queued_at=at(1700004000),
        started_at=None,
        ended_at=at(1700004030),
        last_event_at=at(1700004030),
        duration_seconds=None,
        events=events(("queued", 1700004000), ("cancelled", 1700004030)),
    ),
    "completed-without-events.json": CallDetails(
        phone_number="6175550144",
        provider_status="completed",
        outcome="completed",
        attempts=1,
        max_attempts=2,
        queued_at=at(1700005000),
        started_at=at(1700005020),
        ended_at=at(1700005050),
        last_event_at=at(1700005050),
        duration_seconds=30,
        events=(),
    ),
    "failed-without-events.json": CallDetails(
        phone_number="6175550145",
        provider_status="failed",
        outcome="failed",
        attempts=2,
        max_attempts=2,
        queued_at=at(1700005000),
        started_at=None,
        ended_at=None,
        last_event_at=at(1700005090),
        duration_seconds=None,
        events=(),
    ),
    "unknown-status-and-fields.json": CallDetails(
        phone_number="tel:+16175550155;ani=8009957586",
        provider_status="machine_left_message",
        outcome="other",
        attempts=1,
        max_attempts=1,
        queued_at=at(1700006000),
        started_at=None,
        ended_at=None,
        last_event_at=at(1700006020),
        duration_seconds=None,
        events=events(("queued", 1700006000), ("amd_detected", 1700006020)),
    ),
    "details-as-text-in-result.json": CallDetails(
        phone_number="6175550166",
        provider_status="rejected",
        outcome="rejected",
        attempts=1,
        max_attempts=1,
        queued_at=at(1700007000),
        started_at=None,
        ended_at=None,
        last_event_at=at(1700007003),
        duration_seconds=None,
        events=events(("queued", 1700007000), ("dialing", 1700007003)),
    ),
    "one-element-list.json": COMPLETED,
    "completed-utf16.json": COMPLETED,
    "completed-byte-order-mark.json": COMPLETED,
    "completed-latin1.json": COMPLETED,
    "completed.json.gz": COMPLETED,
    "form-json-field.txt": COMPLETED,
    "form-percent-encoded-json.txt": COMPLETED,
    "form-wrapped.txt": COMPLETED,
    "form-list-without-numbers.txt": COMPLETED,
    "multipart.txt": COMPLETED,
    "multipart-json-file.txt": COMPLETED,
    "repeated-event-elements.xml": COMPLETED,
    "repeated-events-elements.xml": COMPLETED,
    "event-attributes.xml": COMPLETED,
    "gateway-error.html": "not_recognised",
    "completed-cut-off.json": "malformed_json",
}


def test_every_sample_has_an_expectation() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("name", EXPECTED)
def test_sample_has_its_values_with_any_content_type(name: str, content_type: str) -> None:
    body = (SAMPLES / name).read_bytes()
    expected = EXPECTED[name]
    if isinstance(expected, str):
        assert reason(body, content_type) == expected
    else:
        assert read(body, content_type) == expected
