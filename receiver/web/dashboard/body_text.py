"""A callback's body, for people: as text where it is text, put in order where its format is known, else its bytes.

Whatever is returned is shown through `visible.disclosed`, so nothing here has to be harmless; it has to be short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from receiver.intake.journal import ERASED_BODY
from receiver.results.reading.body_formats import decode_body
from receiver.results.reading.unreadable import UnreadableBody

MOST_CHARACTERS = 8_000
"""What is shown of a text; escaped, five times as many bytes."""

MOST_DUMPED = 512
"""Bytes shown of what is no text."""

_BLANKS = "\t\r\n"

_FORM = re.compile(r"[^\s=&{}<>]+=[^\s{}<>]*")


@dataclass(frozen=True, slots=True)
class BodyText:
    """`text` is at most `MOST_CHARACTERS` long, `left` says how much more there is, `form` what it is."""

    text: str
    form: str
    left: str = ""
    is_binary: bool = False


def body_text(body: bytes, content_encoding: str, *, as_received: bool = False) -> BodyText:
    """A body to be looked at: put in order, or, as received, only decoded."""
    if body == ERASED_BODY:
        return BodyText("", "erased together with a phone number")
    try:
        text = decode_body(body, content_encoding)
    except UnreadableBody:
        text = ""
    if not _is_text(text):
        dump = "\n".join(_dumped(body[at : at + 16], at) for at in range(0, min(len(body), MOST_DUMPED), 16))
        left = len(body) - MOST_DUMPED
        return BodyText(dump, "bytes", f"{left:,} more bytes" if left > 0 else "", is_binary=True)
    form = "text"
    if not as_received:
        for name, arrange in _ARRANGED.items():
            if (arranged := arrange(text)) is not None:
                text, form = arranged, name
                break
    left = len(text) - MOST_CHARACTERS
    return BodyText(text[:MOST_CHARACTERS], form, f"{left:,} more characters" if left > 0 else "")


def _is_text(text: str) -> bool:
    """Whether what was decoded is anything that a person could read: nearly no controls, nothing undecodable."""
    strange = sum(1 for character in text if character == "\ufffd" or (character < " " and character not in _BLANKS))
    return bool(text) and strange * 20 <= len(text)


def _json(text: str) -> str | None:
    try:
        return json.dumps(json.loads(text, object_pairs_hook=_repeated), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return None


def _repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of a name that stands twice, JSON keeps the last; what was received must not look shorter than it was."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _xml(text: str) -> str | None:
    return re.sub(r">[ \t\r\n]*<", ">\n<", text) if text.lstrip()[:1] == "<" else None


def _form(text: str) -> str | None:
    if not _FORM.fullmatch(text.strip()):
        return None
    try:
        pairs = parse_qsl(text.strip(), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        return None
    return "\n".join(f"{name} = {value}" for name, value in pairs)


_ARRANGED: dict[str, Callable[[str], str | None]] = {"JSON": _json, "XML": _xml, "form": _form}


def _dumped(line: bytes, at: int) -> str:
    """`00000010  7b 22 70 …  {"p…`, as hexdump writes it."""
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
    return f"{at:08x}  {line.hex(' '):<47}  {shown}"
