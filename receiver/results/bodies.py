"""Reads the bodies of a group of callbacks, up to a total size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from receiver.results.reading.body_formats import MAX_DECOMPRESSED_BYTES, decode_body
from receiver.results.reading.call_details import CallDetails, read_call_details
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.stored import Stored

_FEW_EVENTS = 32


class Read(NamedTuple):
    """A callback and its parsed body. `unpacked_bytes`: the decompressed length of the body."""

    stored: Stored
    details: CallDetails | UnreadableBody
    unpacked_bytes: int


def read_bodies(group: Sequence[Stored], most_bytes: int | None = None) -> list[Read]:
    """Read bodies in this order, until their total decompressed size reaches `most_bytes`. Reads at least one."""
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
    # Settlement needs no events, and thousands of them would take memory.
    return details if len(details.events) <= _FEW_EVENTS else details._replace(events=())


def _unpacked_length(body: bytes, content_encoding: str) -> int:
    """The decompressed length of the body. The cost of reading it grows with this length."""
    if body.isascii():  # compressed bytes are never all ASCII
        return len(body)
    try:
        return len(decode_body(body, content_encoding))
    except UnreadableBody:
        return MAX_DECOMPRESSED_BYTES
