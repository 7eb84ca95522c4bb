"""Cursors: where the next page begins, signed, and good only for the list that gave them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from itsdangerous import BadData, URLSafeSerializer

from receiver.errors import Fault, InvalidInput
from receiver.web.services import services

Item = TypeVar("Item")


def read_page(
    list_name: str,
    query: Mapping[str, Any],
    read: Callable[[int, tuple[int, ...] | None], list[Item]],
    position: Callable[[Item], tuple[int, ...]],
    *,
    length: int = 1,
) -> tuple[list[Item], str | None]:
    """The page of a list that a `schemas.PageQuery` asks for, and the cursor of the next one, None at the end.

    `read` returns at most so many items, those after a position of `length` numbers; `position` is where an item
    stands. Raises InvalidInput for a cursor of another list, and what `read` raises.
    """
    limit = query["limit"]
    # One more than fits shows that another page follows.
    found = read(limit + 1, read_cursor(list_name, query.get("cursor"), length))
    page = found[:limit]
    return page, write_cursor(list_name, position(page[-1])) if len(found) > limit else None


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
