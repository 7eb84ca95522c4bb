"""Pages of a list. A cursor says where the next page begins. It is signed, and valid only for its own list."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

from flask import Response
from itsdangerous import BadData

from receiver.errors import invalid_parameter
from receiver.web.json_answer import answer_json
from receiver.web.services import serializer

Item = TypeVar("Item")

ANSWER_BYTES = 4 << 20
"""Maximum length of a page: it ends before the item that would exceed it."""

ANSWER_SECONDS = 0.5
"""Maximum time for writing a page: it ends after the item that exceeds it. Reading one hostile callback takes 20 ms."""


Read = Callable[[int, tuple[int, ...] | None], tuple[Sequence[Item], bool]]
"""Reads at most so many items after a position; returns them, and whether more follow."""


def answer_page(
    list_name: str,
    query: Mapping[str, Any],
    read: Read[Item],
    position: Callable[[Item], tuple[int, ...]],
    write: Callable[[Item], str],
    *,
    length: int = 1,
    of: str = "",
    at_once: int = 1000,
) -> Response:
    """The page of a list that a `schemas.PageQuery` requests: its items, and the cursor of the next page or null.

    A position has `length` numbers. `position` returns an item's position, `write` its JSON text. `at_once`: the most
    items that are read at a time. `of` is the name of the items in the answer; default: the list's name. A page ends
    early at `ANSWER_BYTES` and `ANSWER_SECONDS`, but has at least one item. Raises InvalidInput for a cursor of another
    list, and what `read` raises.
    """
    after = read_cursor(list_name, query.get("cursor"), length)
    texts, after, more = read_texts(query["limit"], after, read, position, write, at_once)
    return answer_texts(of or list_name, texts, write_cursor(list_name, after) if more and after else None)


def read_texts(
    limit: int,
    after: tuple[int, ...] | None,
    read: Read[Item],
    position: Callable[[Item], tuple[int, ...]],
    write: Callable[[Item], str],
    at_once: int = 1000,
) -> tuple[list[str], tuple[int, ...] | None, bool]:
    """The items of a page as JSON texts, the position after them, and whether more follow. As for `answer_page`."""
    texts: list[str] = []
    size, seconds, more = 0, 0.0, True
    while more and len(texts) < limit and seconds < ANSWER_SECONDS:
        items, more = read(min(limit - len(texts), at_once), after)
        for item in items:
            began = perf_counter()
            text = write(item)
            size += len(text) if text.isascii() else len(text.encode())
            if (texts and size > ANSWER_BYTES) or seconds >= ANSWER_SECONDS:
                return texts, after, True
            texts.append(text)
            after = position(item)
            seconds += perf_counter() - began
    return texts, after, more


def answer_list(
    list_name: str,
    query: Mapping[str, Any],
    read: Callable[[int, int | None], Sequence[Item]],
    write: Callable[[Item], str],
    **more: Any,
) -> Response:
    """As `answer_page`, of items with an `id`. `read(limit, id)` lists those after an id; None: the first ones."""

    def found(limit: int, after: tuple[int, ...] | None) -> tuple[Sequence[Item], bool]:
        items = read(limit + 1, after[0] if after else None)
        return items[:limit], len(items) > limit

    return answer_page(list_name, query, found, lambda item: (item.id,), write, **more)  # type: ignore[attr-defined]


def answer_texts(name: str, texts: list[str], next_cursor: str | None) -> Response:
    return answer_json(f'{{"{name}":[{",".join(texts)}],"next_cursor":{json.dumps(next_cursor)}}}')


def write_cursor(list_name: str, position: Sequence[int]) -> str:
    """The cursor for a position in a list."""
    return str(serializer(f"cursor {list_name}").dumps(list(position)))


def read_cursor(list_name: str, cursor: str | None, length: int) -> tuple[int, ...] | None:
    """A cursor's position, `length` numbers; None without a cursor. Raises InvalidInput."""
    if cursor is None:
        return None
    try:
        position = serializer(f"cursor {list_name}").loads(cursor)
        if len(position) == length and all(isinstance(number, int) for number in position):
            return tuple(position)
    except (BadData, TypeError, ValueError):
        pass
    message = "It is not a cursor of this list. Start again without a cursor."
    raise invalid_parameter("cursor", "invalid_cursor", message)
