"""Cursors: where the next page begins, signed, and good only for the list that gave them."""

from __future__ import annotations

from collections.abc import Sequence

from itsdangerous import BadData, URLSafeSerializer

from receiver.errors import Fault, InvalidInput
from receiver.web.services import services


def write_cursor(list_name: str, position: Sequence[int]) -> str:
    """A cursor at a position in a list."""
    return str(_serializer(list_name).dumps(list(position)))


def read_cursor(list_name: str, cursor: str | None, length: int) -> tuple[int, ...] | None:
    """The position, of `length` numbers; None without a cursor. Raises InvalidInput."""
    if cursor is None:
        return None
    try:
        position = _serializer(list_name).loads(cursor)
        if len(position) == length and all(isinstance(number, int) for number in position):
            return tuple(position)
    except (BadData, TypeError, ValueError):
        pass
    raise InvalidInput(
        "Some parameters cannot be taken.",
        [Fault("cursor", "invalid_cursor", "It did not come from this list; begin again without a cursor.")],
    )


def _serializer(list_name: str) -> URLSafeSerializer:
    return URLSafeSerializer(list(reversed(services().config.secret_keys)), salt=f"cursor {list_name}")
