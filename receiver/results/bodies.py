"""Reading the bodies of a group of callbacks, within bounds: a group ends where it becomes too much work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from receiver.results.reading.body_formats import MAX_DECOMPRESSED_BYTES, decode_body
from receiver.results.reading.call_details import CallDetails, UnreadableBody, read_call_details
from receiver.results.stored import Stored

_FEW_EVENTS = 32


class Read(NamedTuple):
    """A callback and what its body said. `unpacked_bytes`: the length of what was read."""

    stored: Stored
    details: CallDetails | UnreadableBody
    unpacked_bytes: int


def read_body_of(stored: Stored) -> CallDetails | UnreadableBody:
    """What a callback's body says."""
    return _read(stored.body, stored)


def read_bodies(group: Sequence[Stored], most_bytes: int | None = None) -> list[Read]:
    """Read bodies in this order until they were `most_bytes` long in all, compressed ones unpacked; at least one."""
    read: list[Read] = []
    total = 0
    for stored in group:
        if most_bytes is not None and total >= most_bytes:
            break
        body = stored.body
        unpacked_bytes = _unpacked_length(body, stored.content_encoding)
        read.append(Read(stored, _read(body, stored), unpacked_bytes))
        total += unpacked_bytes
    return read


def _read(body: bytes, stored: Stored) -> CallDetails | UnreadableBody:
    try:
        details = read_call_details(body, stored.content_type, stored.content_encoding)
    except UnreadableBody as unreadable:
        return unreadable
    # There may be thousands of events, and nobody who settles needs them.
    return details if len(details.events) <= _FEW_EVENTS else details._replace(events=())


def _unpacked_length(body: bytes, content_encoding: str) -> int:
    """The length of the body once every compression is undone: what reading it costs grows with this."""
    if body.isascii():  # compressed bytes are never all ASCII
        return len(body)
    try:
        return len(decode_body(body, content_encoding))
    except UnreadableBody:
        return MAX_DECOMPRESSED_BYTES
