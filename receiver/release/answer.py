"""Decide what the provider's answer to `bulk_queue` proves. No I/O.

Only an answer that the provider page (Queue multiple calls) documents is a proof. Everything else is `unknown`, because
sending again could call every person twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Literal

from receiver.model import masked
from receiver.text.xml_events import MalformedXml, read_elements

AnswerState = Literal["accepted", "refused", "unknown", "not_sent"]
"""accepted: calls were queued. refused: nothing was queued, and the same request would be refused again. unknown: calls
may have been queued, so never send it again. not_sent: no byte of the request left this machine, so send it later.
"""

ERROR_CHARACTERS = 2_000
ANSWER_BYTES = 1 << 20

_REFUSALS: Mapping[int, str] = {
    400: "data improperly formatted or invalid",
    401: "authentication invalid, or account inactive",
    403: "user lacks permission",
    404: "deployment not found",
    405: "method other than POST",
    409: "user, deployment or application deleted earlier",
}
"""The only statuses that prove that nothing was queued, with the reasons on the provider page."""

_CHARSETS: Mapping[str, str] = {
    # Only these: the sender of an answer must not choose among all codecs of Python (`idna`, `unicode_escape`, ...).
    "utf-8": "utf-8-sig",
    "utf-16": "utf-16",
    "iso-8859-1": "cp1252",
    "windows-1252": "cp1252",
}
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w-]+)", re.ASCII)
_TAG = re.compile(r"(<[^<>]*>)")  # cannot run over a second "<", so 1 MiB of "<" stays linear
_UNSEEN_ELEMENTS = ("script", "style")
_COUNT = re.compile(r"\s*([0-9]{1,10})\s*", re.ASCII)
_LARGEST_COUNT = 2**31 - 1
_PHONE_NUMBER = re.compile(r"\+?\(?\d(?:[ .()\-\u2010-\u2015]{0,3}\d){6,}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d)?")


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one `bulk_queue` request.

    `provider_status`: the HTTP status. None: there was no answer.
    `calls_queued`: the provider's count, from 0. It may differ from the number of rows.
    `error`: why it was not accepted, if possible in the provider's words: one printable line of at most 2,000
    characters, without credentials, and with masked phone numbers. None: it was accepted without a message.
    `answer_text`: the complete answer, at most 1 MiB as UTF-8, without NUL, surrogates and credentials. Its phone
    numbers are *not* masked: it is stored (it may contain call ids), and never logged.
    """

    state: AnswerState
    provider_status: int | None = None
    calls_queued: int | None = None
    error: str | None = None
    answer_text: str | None = field(default=None, repr=False)


def parse_answer(status: int, content_type: str, body: bytes, secrets: Sequence[str] = ()) -> Answer:
    """Read an HTTP answer in JSON or XML, or from a gateway. Never raises.

    `body` has no content-encoding, and may be incomplete. Every spelling in `secrets` is removed from the result.

    * 200 with an integer `calls_queued`: accepted. A 200 without it proves nothing: unknown.
    * the six documented refusals: refused, regardless of the body.
    * everything else: unknown. This includes 5xx (documented: calls may have been queued), other 2xx, redirects, and
      the statuses of gateways (408, 413, 429, ...). Most of these mean that nothing was passed on, but this is not
      documented, and a wrong guess calls every person twice.
    """
    text = _decoded(body, content_type)
    items = _items(text)
    if len(body) >= ANSWER_BYTES:
        # The reader stopped here, perhaps within a credential, whose first half nothing would recognise.
        text = _without(text, secrets)
        text = text[: len(text) - max(map(len, secrets), default=0)]
    calls_queued = _count(items.get("calls_queued"))
    words = printable_line(_words(items, text, content_type), secrets)
    if status == 200 and calls_queued is not None:
        state: AnswerState = "accepted"
        error = printable_line(_stated_error(items), secrets)
    elif status == 200:
        state = "unknown"
        error = printable_line(_stated_error(items), secrets) or "the provider answered 200 without calls_queued"
    elif status in _REFUSALS:
        state = "refused"
        error = words or f"the provider answered {status}: {_REFUSALS[status]}"
    elif 300 <= status < 400:
        # Following it would send the contacts and the credentials to an address that is not configured.
        state = "unknown"
        error = f"the provider answered {status}, a redirect, which is not followed: check PLUM_URL"
    else:
        state = "unknown"
        error = words or f"the provider answered {status}, which does not say whether calls were queued"
    return Answer(state, status, calls_queued, error or None, _kept(text, secrets))


def error_words(content_type: str, body: bytes, secrets: Sequence[str] = ()) -> str:
    """The error message of an answer, as an `Answer.error`. "": there is none, or the body is too long."""
    if len(body) >= ANSWER_BYTES:
        return ""
    text = _decoded(body, content_type)
    return printable_line(_words(_items(text), text, content_type), secrets)


def _decoded(body: bytes, content_type: str) -> str:
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    named = _CHARSET.search(content_type.lower())
    for charset in (_CHARSETS.get(named[1] if named else ""), "utf-8-sig"):
        if charset is not None:
            try:
                return body.decode(charset)
            except UnicodeDecodeError:
                continue
    return body.decode("cp1252", "replace")


def _items(text: str) -> Mapping[str, object]:
    """The answer's items by name: those of a JSON object, or the elements in `<result>`, else none."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, an endless number, or endless nesting
        return _xml_items(text)
    if not isinstance(answer, dict):
        return {}
    result = answer.get("result")
    return result if isinstance(result, dict) else answer


def _xml_items(text: str) -> Mapping[str, object]:
    if not text.lstrip().startswith("<"):
        return {}
    result = _Result()
    try:
        read_elements(text.strip(), result)
    except MalformedXml:
        return {}
    return result.items


class _Result:
    """Collects the elements in `<result>`, which is the root or the first element with this name."""

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self._depth = 0  # of the elements that are open
        self._result: int | None = None  # depth of the `<result>` that counts, while it is open
        self._over = False
        self._text: list[str] = []

    def start(self, name: str, attributes: object) -> None:
        if name == "result" and self._depth < 2 and self._result is None and not self._over:
            self._result = self._depth
        elif self._result is not None and self._depth == self._result + 1:
            self._text.clear()  # of what stood between two items
        self._depth += 1

    def text(self, text: str) -> None:
        if self._result is not None:
            self._text.append(text)

    def end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == self._result:
            self._result, self._over = None, True
        elif self._result is not None and self._depth == self._result + 1:
            self.items[name] = "".join(self._text)
            self._text.clear()


def _count(value: object) -> int | None:
    if isinstance(value, str) and (digits := _COUNT.fullmatch(value)):
        value = int(digits[1])
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT:
        return value
    return None


def _stated_error(items: Mapping[str, object]) -> str:
    error = items.get("error")
    if error is None or isinstance(error, str):
        return error or ""
    try:
        return json.dumps(error, ensure_ascii=False)
    except (ValueError, RecursionError):  # an integer, or a nesting, that could be read but not written
        return ""


def _words(items: Mapping[str, object], text: str, content_type: str) -> str:
    """The provider's own message, else the visible text of the page."""
    if words := _stated_error(items):
        return words
    if "html" not in content_type.lower() and not text.lstrip().startswith("<"):
        return text
    seen: dict[str, None] = {}  # keeps the order; a page tends to say the same in title and heading
    unseen = ""
    for piece in _TAG.split(text):
        if piece.startswith("<"):
            name = piece[1:-1].split(None, 1)[0].lower() if piece[1:-1].strip() else ""
            if unseen:
                unseen = "" if name == f"/{unseen}" else unseen
            elif name in _UNSEEN_ELEMENTS:
                unseen = name
        elif not unseen and (words := unescape(piece).strip()):
            seen.setdefault(words)
    return " ".join(seen)


def _without(text: str, secrets: Sequence[str]) -> str:
    spellings = "|".join(re.escape(secret) for secret in sorted(secrets, key=len, reverse=True) if secret)
    return re.sub(spellings, "[redacted]", text) if spellings else text


def printable_line(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` as an `Answer.error`: one printable line of limited length, without `secrets`, numbers masked."""
    # In this order: what is cut or spaced out first could no longer be recognised.
    text = _without(text, secrets)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = _PHONE_NUMBER.sub(lambda m: m[0] if _DATE.fullmatch(m[0]) else masked(m[0]), text)
    return text if len(text) <= ERROR_CHARACTERS else text[: ERROR_CHARACTERS - 1].rstrip() + "…"


def _kept(text: str, secrets: Sequence[str]) -> str | None:
    text = _without(text, secrets).replace("\x00", "\ufffd")
    return text.encode("utf-8", "replace")[:ANSWER_BYTES].decode("utf-8", "ignore") or None
