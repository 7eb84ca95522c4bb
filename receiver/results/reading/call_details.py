"""Reads the details of a call from a callback's bytes. No I/O, and no state.

The provider posts one body for each call that ended, "matching the format of the `call_details` attribute" (provider
page: The callback). `body_formats` parses the bytes into plain values. This module finds the call among them, and reads
its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from receiver.model import Outcome
from receiver.results.reading.body_formats import read_body, read_text
from receiver.results.reading.call_events import Event, list_events, read_events
from receiver.results.reading.field_values import (
    MAX_TEXT,
    canonical,
    folded,
    integer_of,
    may_hold_fields,
    name_of,
    text_of,
    time_of,
)
from receiver.results.reading.unreadable import UnreadableBody

MAX_WRAPPERS = 8
"""The most wrappers around the details of a call, including texts in fields."""

MAX_SMALLINT = 2**15 - 1
MAX_INTEGER = 2**31 - 1
"""The largest `smallint` and `integer` of Postgres. A larger number is read as None."""

# Provider page, The callback: completed, canceled, failed and rejected are final; queued, dialing and connected are
# steps before the end. Other names that can only mean a step are also steps. Every other status (busy, no-answer, …)
# may be an end, so it is final, and "other". Blanks, `-` and `_` are ignored.
_OUTCOMES: dict[str, Outcome] = {
    "completed": "completed",
    "failed": "failed",
    "canceled": "canceled",
    "rejected": "rejected",
}
_STEPS = frozenset(
    "queued pending initiated initiating dialing dialling connecting ringing answered connected inprogress".split()
)


def _outcome(status: str) -> Outcome | None:
    name = canonical(status)
    return _OUTCOMES.get(name) or (None if name.replace(" ", "") in _STEPS else "other")


class CallDetails(NamedTuple):
    """The details of a call in one callback.

    `phone_number` is as sent, without quotes and blanks around it: not yet E.164, and it may be `tel:…;ani=…`.
    `provider_status` is as sent; `outcome` is None if it is a step before the end. Times are in UTC. No text has a NUL
    or a lone surrogate, and every number fits its column.
    """

    phone_number: str
    provider_status: str
    outcome: Outcome | None
    attempts: int | None
    max_attempts: int | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    last_event_at: datetime | None
    duration_seconds: int | None
    events: tuple[Event, ...]

    @property
    def result_key(self) -> bytes:
        """16 bytes. Two callbacks for one call with equal keys have the same result, in any format.

        A digest, so that it takes little space and does not contain text from outside.
        """
        at = self.last_event_at.timestamp() if self.last_event_at is not None else None
        result = f"{self.attempts} {self.duration_seconds} {at} {canonical(self.provider_status)}"
        return blake2b(result.encode(), digest_size=16).digest()

    @property
    def stored(self) -> tuple[object, ...]:
        """What the tables store: the values of `DETAILS`."""
        return self[1:-1]


DETAILS = {
    "provider_status": "text",
    "outcome": "text",
    "attempts": "smallint",
    "max_attempts": "smallint",
    "queued_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "last_event_at": "timestamptz",
    "duration_seconds": "integer",
}
"""The columns of `result` and `set_aside` that store details, with their types, in the order of `CallDetails`."""


def stored_details(values: Sequence[Any]) -> CallDetails:
    """Details from the database: values in the order of `DETAILS`. The phone number and the events are not stored."""
    return CallDetails._make(("", *values, ()))


def read_call_details(body: bytes, content_type: str, content_encoding: str = "") -> CallDetails:
    """The details in a callback's body of at most 64 KiB. The headers may be wrong or empty.

    Raises only `UnreadableBody`.
    """
    fields = _call_fields(read_body(body, content_type, content_encoding))
    phone_number = text_of(fields.get("phone_number"))
    status = name_of(fields.get("status"))
    if not (phone_number or status):
        raise UnreadableBody("not_recognised")
    if len(phone_number) > MAX_TEXT or not any(map(str.isdigit, phone_number)):
        raise UnreadableBody("no_phone_number")
    if not status:
        raise UnreadableBody("no_status")
    outcome = _outcome(status)
    events, (queued_at, started_at, ended_at, last_event_at) = read_events(fields.get("events"))
    if last_event_at is None:
        # start_timestamp and end_timestamp are documented as the scheduled window. Only for connected calls they were
        # seen to be the times of the connection.
        if outcome == "completed":
            started_at = time_of(fields.get("start_timestamp"))
            ended_at = time_of(fields.get("end_timestamp"))
        last_event_at = time_of(fields.get("last_attempt_timestamp")) or ended_at
    if queued_at is None:
        queued_at = time_of(fields.get("queued_timestamp"))
    return CallDetails(
        phone_number=phone_number,
        provider_status=status,
        outcome=outcome,
        attempts=integer_of(fields.get("attempts"), most=MAX_SMALLINT),
        max_attempts=integer_of(fields.get("max_attempts"), most=MAX_SMALLINT),
        queued_at=queued_at,
        started_at=started_at,
        ended_at=ended_at,
        last_event_at=last_event_at or queued_at,
        # As sent. The provider page does not say that this is the time between two events; `started_at` and `ended_at`
        # show that time.
        duration_seconds=integer_of(fields.get("duration"), most=MAX_INTEGER),
        events=events,
    )


def read_call_events(
    body: bytes, content_type: str, content_encoding: str = "", *, most: int | None = None
) -> tuple[tuple[Event, ...], int]:
    """The first `most` events in a callback (None: all), and how many there are. Raises only `UnreadableBody`."""
    fields = _call_fields(read_body(body, content_type, content_encoding))
    return list_events(fields.get("events"), most)


def _call_fields(value: object) -> dict[str, object]:
    """The fields of the call in `value`, without wrappers."""
    outer_number: object = None
    for _ in range(MAX_WRAPPERS):
        if isinstance(value, str):
            value = read_text(value)
        elif isinstance(value, list):
            if len(value) > 1:
                raise UnreadableBody("several_calls")
            value = value[0] if value else None
        elif isinstance(value, dict):
            fields = folded(value)
            inner = _wrapped(fields)
            if inner is None:
                if outer_number is not None and "phone_number" not in fields:
                    return {**fields, "phone_number": outer_number}
                return fields
            # The provider page's table of fields has no phone number, so the number may be outside the details.
            outer_number = fields.get("phone_number", outer_number)
            value = inner
        else:
            raise UnreadableBody("not_recognised")
    raise UnreadableBody("too_deep")


def _wrapped(fields: dict[str, object]) -> object:
    """What `fields` wraps; None if `fields` are the details of the call."""
    if may_hold_fields(details := fields.get("call_details")):
        return details
    if "phone_number" in fields:
        return None
    inner = {name: value for name, value in fields.items() if name != "events" and may_hold_fields(value)}
    return inner.get("result") or (next(iter(inner.values())) if len(inner) == 1 else None)
