"""Parses forms: `application/x-www-form-urlencoded` and `multipart/form-data`, with names in PHP's style.

`call_details[events][0][event]=queued` becomes nested dicts. A list becomes a dict with the numbers as keys, as in PHP.
Multipart is not split by the standard library's `email`, which also reads nested parts: it needed 400 ms for a hostile
body of 64 KiB. This code needs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl

from receiver.results.reading.unreadable import UnreadableBody

MAX_FIELDS = 4096
"""The most fields of a form; 1,000 events have 2,000."""

MAX_DEPTH = 8
"""The most levels in a field's name; `result[call_details][events][0][event]` has five."""

MAX_ESCAPES = 32_768
"""The most `%` in a percent-encoded text: more than fit into an uncompressed body. Each costs time and 200 bytes."""

_MAX_HEAD = 2048  # characters of a part's headers that are searched for its name


def read_form(text: str) -> dict[str, object]:
    """The fields of a urlencoded form, nested by the brackets in their names. Of equal names, the last wins.

    Raises `UnreadableBody`.
    """
    if text.count("%") > MAX_ESCAPES:
        raise UnreadableBody("too_many_items")
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise UnreadableBody("too_many_items") from None
    return _nested(fields)


def read_multipart(text: str, boundary: str) -> dict[str, object]:
    """The fields of a multipart form; parts without a name are left out.

    Raises `UnreadableBody`, also if the closing boundary is missing: then the last field may be truncated.
    """
    lines = "\n" + text.replace("\r\n", "\n")
    parts = lines.split("\n--" + boundary, MAX_FIELDS + 2)[1:]
    if len(parts) > MAX_FIELDS + 1:
        raise UnreadableBody("too_many_items")
    fields = []
    is_whole = False
    for part in parts:
        if part.startswith("--"):  # the closing boundary; no part follows it
            is_whole = True
            break
        head, _, value = part.partition("\n\n")
        name = _part_name(head)
        if name:
            fields.append((name, value))
    if not fields:
        raise UnreadableBody("not_recognised")
    if not is_whole:
        raise UnreadableBody("malformed_form")
    return _nested(fields)


def _part_name(head: str) -> str:
    for line in head[:_MAX_HEAD].split("\n"):
        if line[:20].lower() == "content-disposition:":
            for parameter in line.split(";"):
                key, _, value = parameter.partition("=")
                if key.strip().lower() == "name":
                    return value.strip().strip('"')
    return ""


def _nested(fields: Iterable[tuple[str, str]]) -> dict[str, object]:
    root: dict[str, object] = {}
    for name, value in fields:
        head, bracket, rest = name.partition("[")
        if not (head and bracket and rest.endswith("]")):
            root[name] = value
            continue
        steps = [head, *rest[:-1].split("][", MAX_DEPTH)]
        if len(steps) > MAX_DEPTH:
            raise UnreadableBody("too_deep")
        node = root
        for at, step in enumerate(steps[:-1]):
            child = node.get(key := step or _item_key(node, steps[at + 1]))
            if not isinstance(child, dict):
                child = node[key] = {}
            node = child
        node[steps[-1] or str(len(node))] = value
    return root


def _item_key(items: dict[str, object], field: str) -> str:
    """The key for `events[][field]`: the last item, or a new one if the last item already has the field."""
    last = str(len(items) - 1)
    item = items.get(last)
    return last if isinstance(item, dict) and field and field not in item else str(len(items))
