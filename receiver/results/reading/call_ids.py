"""Reads the call ids in the provider's answer to `bulk_queue`, if it has any. No I/O.

One page says that the bulk API returns them, but the table of fields does not list them (provider page: Queue multiple
calls, "Silent"). So each likely form is read: a list in the order of the rows, a map from number to id or from id to
number, and a list of objects with both. Any other answer has no ids; it is never an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from receiver.phone_numbers.destination import candidates
from receiver.results.reading.body_formats import read_text
from receiver.results.reading.field_values import text_of
from receiver.results.reading.unreadable import UnreadableBody
from receiver.text.csv_line import read_csv_line

MAX_ID = 200
"""The longest id, in characters."""

_LISTS = ("call_ids", "calls", "call_id", "ids")
_IDS = ("call_id", "id")
_NUMBERS = ("phone_number", "destination", "number")
_FEWEST_DIGITS = 7


@dataclass(frozen=True, slots=True)
class CallIds:
    """`in_order`: by the position of the call in its submission, None for a missing id. `named`: by destination."""

    in_order: tuple[str | None, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.in_order or self.named)

    def find(self, calls: Iterable[tuple[int, int, str]], region: str) -> list[str | None]:
        """The id of each call, given as (position in the submission from 1, number, line of the CSV)."""
        by_number: dict[int, str] = {}
        found: list[str | None] = []
        if self.named:
            readings = [(candidates(name, region), call_id) for name, call_id in self.named.items()]
            for attempt in range(max(len(numbers) for numbers, _ in readings)):
                for numbers, named_id in readings:
                    if attempt < len(numbers):
                        by_number.setdefault(numbers[attempt], named_id)
        for place, number, line in calls:
            call_id = self.in_order[place - 1] if place <= len(self.in_order) else None
            if self.named:
                call_id = self.named.get(read_csv_line(line)[0]) or by_number.get(number) or call_id
            found.append(call_id)
        return found


def read_call_ids(answer: str) -> CallIds:
    """The ids in the text of an answer; empty if it has none. Never raises."""
    try:
        # Not with the limits of `read_text`: an answer has as many items as the submission has calls.
        content: object = json.loads(answer)
    except (ValueError, RecursionError):
        try:
            content = read_text(answer) if answer.lstrip().startswith("<") else None
        except UnreadableBody:
            return CallIds()
    content = _unwrapped(content)
    if isinstance(content, dict):
        return _from_map(content)
    return _from_list(content) if isinstance(content, list) else CallIds()


def _unwrapped(content: object) -> object:
    """The list or map of ids inside the answer."""
    for _ in range(3):
        if not isinstance(content, dict):
            break
        fields = {str(name).lower(): value for name, value in content.items()}
        inner = next((fields[name] for name in (*_LISTS, "result", "item") if fields.get(name)), None)
        if inner is None:
            # If there is a count or an error but no list, this is an answer without ids, and not a map.
            return None if {"calls_queued", "error"} & fields.keys() else content
        content = inner if isinstance(inner, (dict, list)) else [inner]
    return content


def _from_list(items: list[Any]) -> CallIds:
    in_order: list[str | None] = []
    named: dict[str, str] = {}
    for item in items:
        if isinstance(item, dict):
            call_id, number = _id(_first(item, _IDS)), text_of(_first(item, _NUMBERS))
            if call_id and number:
                named[number] = call_id
            in_order.append(None if number else call_id)
        else:
            in_order.append(_id(item))
    return CallIds(tuple(in_order) if any(in_order) else (), named)


def _from_map(items: dict[Any, Any]) -> CallIds:
    if items and all(str(key).isdecimal() and len(str(key)) < _FEWEST_DIGITS for key in items):
        # PHP writes a list with a gap as an object with numeric keys.
        return _from_list([items[key] for key in sorted(items, key=lambda key: int(key))])
    named: dict[str, str] = {}
    for key, value in items.items():
        if isinstance(value, dict):
            call_id, number = _id(_first(value, _IDS)), text_of(_first(value, _NUMBERS))
            # The key is the value that the object itself lacks.
            call_id, number = call_id or _id(key), number or str(key)
        elif _is_number(key) or not _is_number(value):
            call_id, number = _id(value), str(key)
        else:
            call_id, number = _id(key), text_of(value)
        if call_id and _is_number(number):
            named[number] = call_id
    return CallIds(named=named)


def _first(item: dict[Any, Any], names: tuple[str, ...]) -> object:
    return next((item[name] for name in names if item.get(name)), None)


def _id(value: object) -> str | None:
    """An id that is safe in a URL: visible ASCII, and not only dots, which would change the path."""
    text = text_of(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    return text if 0 < len(text) <= MAX_ID and text.isascii() and text.isprintable() and text.strip(". ") else None


def _is_number(value: object) -> bool:
    """Whether it can be a destination: enough digits before any parameter, and no letters except `tel:`."""
    text = text_of(value).lower().removeprefix("tel:").partition(";")[0]
    return sum(map(str.isdecimal, text)) >= _FEWEST_DIGITS and not any(map(str.isalpha, text))
