"""A callback's body for people: formatted if its format is known, otherwise as text or as a dump of its bytes.

Templates show the result through `safe_text.disclosed`, so it may contain any characters, but it must be short.
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
"""Characters of a text that are shown. Escaped, they can take five times as many bytes."""

MOST_DUMPED = 512
"""Bytes of a binary body that are shown."""

_BLANKS = "\t\r\n"

_FORM = re.compile(r"[^\s=&{}<>]+=[^\s{}<>]*")


@dataclass(frozen=True, slots=True)
class BodyText:
    """`text`: at most `MOST_CHARACTERS`. `left`: how many characters or bytes are not shown. `form`: the format in
    words."""

    text: str
    form: str
    left: str = ""
    is_binary: bool = False


def body_text(body: bytes, content_encoding: str, *, as_received: bool = False) -> BodyText:
    """A body, formatted or (`as_received`) only decoded."""
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
    """Whether a person could read this: it has few control characters and few undecodable ones."""
    strange = sum(1 for character in text if character == "\ufffd" or (character < " " and character not in _BLANKS))
    return bool(text) and strange * 20 <= len(text)


def _json(text: str) -> str | None:
    try:
        return json.dumps(json.loads(text, object_pairs_hook=_refuse_repeated), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return None


def _refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse repeated names: the parser would keep only the last one, and the body would look shorter than it is."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is repeated")
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
    """`00000010  7b 22 70 …  {"p…`, as in hexdump."""
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
    return f"{at:08x}  {line.hex(' '):<47}  {shown}"
