"""From a callback's bytes to what it says about its call. No I/O, and no state.

The provider posts one body for each call that ended, "matching the format of the `call_details`
attribute" (provider page: The callback). `body_formats` turns the bytes into plain values; here the
call is found among them and its fields are read.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple, Protocol

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
from receiver.results.reading.unreadable import REASONS, UnreadableBody

__all__ = ["REASONS", "CallDetails", "Event", "UnreadableBody", "read_call_details", "read_call_events"]

MAX_WRAPPERS = 8
"""Most wrappers, texts within fields included, around one call's details."""

MAX_SMALLINT = 2**15 - 1
MAX_INTEGER = 2**31 - 1
"""What Postgres' `smallint` and `integer` hold; a number beyond is read as None."""

# Provider page, The callback: completed, canceled, failed and rejected are final; queued, dialing and
# connected are earlier steps. Other words that can only name a step are steps, too. Every other status
# (busy, no-answer, …) can name an end, so it is final, and "other". Blanks, `-` and `_` are ignored.
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
    """What one callback says about one call.

    `phone_number` is as sent, quotes and blanks around it stripped: not E.164 yet, and possibly
    `tel:…;ani=…`. `provider_status` is as sent; `outcome` is None where it is a step before the end.
    Every time is in UTC. No text holds a NUL or a lone surrogate, every number fits its column.
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
        """See `result_key_of`."""
        return result_key_of(self.provider_status, self.attempts, self.duration_seconds, self.last_event_at)


def result_key_of(
    provider_status: str, attempts: int | None, duration_seconds: int | None, last_event_at: datetime | None
) -> bytes:
    """16 bytes. Two callbacks for one call with equal keys have the same result, in whatever format.

    A digest, so that it can be stored in little space and does not contain text from outside.
    """
    at = last_event_at.timestamp() if last_event_at is not None else None
    said = f"{attempts} {duration_seconds} {at} {canonical(provider_status)}"
    return blake2b(said.encode(), digest_size=16).digest()


class StoredDetails(Protocol):
    """A row of `result` or of `set_aside`."""

    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def provider_status(self) -> str | None: ...
    @property
    def attempts(self) -> int | None: ...
    @property
    def max_attempts(self) -> int | None: ...
    @property
    def queued_at(self) -> datetime | None: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def ended_at(self) -> datetime | None: ...
    @property
    def last_event_at(self) -> datetime | None: ...
    @property
    def duration_seconds(self) -> int | None: ...


def stored_details(row: StoredDetails) -> CallDetails:
    """What a callback said that was read earlier: without its number and its events, which nobody needs to decide."""
    return CallDetails(
        "",
        row.provider_status or "",
        row.outcome,
        row.attempts,
        row.max_attempts,
        row.queued_at,
        row.started_at,
        row.ended_at,
        row.last_event_at,
        row.duration_seconds,
        (),
    )


def read_call_details(body: bytes, content_type: str, content_encoding: str = "") -> CallDetails:
    """What the callback `body` says; both headers are hints, and may be wrong or empty.

    The body is expected to be within the endpoint's limit of 64 KiB. Raises only `UnreadableBody`.
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
        # start_timestamp and end_timestamp are documented as the scheduled window, and were seen as
        # the connected call's only for calls that were: for any other they tell nothing about it.
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
        # As sent: the page calls it the seconds of a completed call, and does not say that it is the
        # time between two events. Who wants that has started_at and ended_at.
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
    """The fields of the one call that `value` is about, every known wrapper taken off."""
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
            # The number is missing in the page's table of fields, so it may stand outside of them.
            outer_number = fields.get("phone_number", outer_number)
            value = inner
        else:
            raise UnreadableBody("not_recognised")
    raise UnreadableBody("too_deep")


def _wrapped(fields: dict[str, object]) -> object:
    """What `fields` is only a wrapper of; None where it is the call's details itself."""
    if may_hold_fields(details := fields.get("call_details")):
        return details
    if "phone_number" in fields:
        return None
    inner = {name: value for name, value in fields.items() if name != "events" and may_hold_fields(value)}
    return inner.get("result") or (next(iter(inner.values())) if len(inner) == 1 else None)
