"""Reads one field of a callback as text, whole number or time, from any type.

Numbers are sent as int, float or numeric string, unset ones as empty string or null (provider page: The callback, "seen
as"). A value that cannot be read is None, never an error: one unusual field must not lose the result. If a field was
sent several times, the last value counts, as in JSON.
"""

from __future__ import annotations

import html
import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import unquote

EDGES = " \t\r\n\f\v\0\u00a0\ufeff'\"`\u2018\u2019\u201c\u201d"
"""Stripped from both ends of a field: blanks, and quotes, which are part of phone numbers as sent."""

MAX_TEXT = 200
"""The longest status, event name and phone number, in characters."""

_FIELDS = frozenset(
    "status attempts max_attempts queued_timestamp start_timestamp end_timestamp last_attempt_timestamp"
    " reattempt_wait events duration phone_number call_details result event timestamp".split()
)
_FOLDED_NAMES = re.compile(r"[a-z0-9_]*", re.ASCII)
_SURROGATES = re.compile("[\ud800-\udfff]")

_ESCAPED_EDGES = EDGES + "\\"
_MAX_ESCAPED = 4 * MAX_TEXT
_MAX_ESCAPES = 3
_BACKSLASHED = re.compile(r"""\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(['"`/\\]))""")

# From each of these numbers on, a time is in the next unit: 10**11 is the year 5138 in seconds, 1973 in milliseconds.
_FIRST_MILLISECOND = 10**11
_FIRST_MICROSECOND = 10**14
_FIRST_NANOSECOND = 10**17
_FIRST_TOO_LATE = 10**20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UTC_NAME = re.compile(r" ?(?:Z|UTC?|GMT)$", re.IGNORECASE)
# In a form, the plus sign of an offset becomes a blank.
_MISSING_PLUS = re.compile(r"(?<=:[0-9]{2}) (?=[0-9]{2}:?[0-9]{2}$)")
_BLANK_BEFORE_OFFSET = re.compile(r" (?=[+-][0-9:]{2,6}$)")
_RFC_2822 = re.compile(
    r"(?:[A-Z]{3,9},? )?"
    r"(?:[0-9]{1,2}[ -][A-Z]{3}[ -][0-9]{2,4} [0-9:]{5,8}|[A-Z]{3} [0-9]{1,2} [0-9:]{8} [0-9]{4})"
    r"(?: (?:[+-][0-9]{4}|UTC?|GMT|Z|[ECMP][SD]T))?(?: ?\([^()]*\))?",
    re.IGNORECASE,
)


def storable(text: str) -> str:
    """The text as Postgres can store it: without NULs, and with U+FFFD for lone surrogates."""
    if "\0" in text:
        text = text.replace("\0", "")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def text_of(value: object) -> str:
    """A text or number as storable, stripped text; "" for any other value.

    Escapes are undone in a text that was escaped once too often: otherwise the digits of `&#39;` or `%27` would become
    digits of the phone number.
    """
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, str):
        text = storable(value).strip(EDGES)
        return text if text.isalnum() else _unescaped(text)
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # `str` of an int with thousands of digits raises an error, and such a number has no meaning.
        return str(value) if abs(value) < 10**40 else ""
    return ""


def _unescaped(text: str) -> str:
    """A stripped text without the escapes of HTML, JavaScript and URLs, stripped again. Long texts stay unchanged."""
    if len(text) > _MAX_ESCAPED:
        return text
    for _ in range(_MAX_ESCAPES):
        before = text
        if "&" in text:
            text = html.unescape(text)
        if "\\" in text:
            text = _BACKSLASHED.sub(
                lambda found: chr(int(found[1] or found[2], 16)) if not found[3] else found[3], text
            )
        if "%" in text:
            text = unquote(text)
        if text == before:
            break
        text = storable(text).strip(_ESCAPED_EDGES)
    return text


def name_of(value: object) -> str:
    """A status or event name as sent: as `text_of`, truncated to `MAX_TEXT` characters."""
    text = text_of(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT].rstrip(EDGES)


@lru_cache(maxsize=256)
def canonical(name: str) -> str:
    """A status or event name for comparison, without differences in case, spelling and separators."""
    name = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
    return "canceled" if name == "cancelled" else name


def folded(fields: dict[str, object]) -> dict[str, object]:
    """The fields with lower-case names (`start_Timestamp` was seen). Of names differing only in case, the last wins."""
    if _FIELDS.issuperset(fields) or _FOLDED_NAMES.fullmatch("".join(fields)):
        return fields
    return {name.strip().lower(): value for name, value in fields.items()}


def may_hold_fields(value: object) -> bool:
    """Whether the value may contain fields: a list or dict that is not empty, or a text that begins like one."""
    if isinstance(value, str):
        return value.lstrip()[:1] in ("{", "[", "<", '"')
    return isinstance(value, (dict, list)) and bool(value)


def integer_of(value: object, *, most: int) -> int | None:
    """A whole number from 0 to `most`, without its fraction; None for any other value."""
    number = _number(value)
    return int(number) if number is not None and 0 <= number <= most else None


def time_of(value: object) -> datetime | None:
    """A time in UTC: from Unix time in seconds, milli-, micro- or nanoseconds, or from RFC 3339, ISO 8601 or RFC 2822.

    None for any other value. A text without a time zone is in UTC. Zero and times before 1970 are None: the field was
    not set.
    """
    number = value if type(value) is int else _number(value)
    if number is None:
        return _written_time(value) if isinstance(value, str) else None
    if 0 < number < _FIRST_MILLISECOND:
        return datetime.fromtimestamp(number, UTC)
    if not 0 < number < _FIRST_TOO_LATE:
        return None
    if number < _FIRST_MICROSECOND:
        microseconds = int(number * 1000)
    else:
        microseconds = int(number) if number < _FIRST_NANOSECOND else int(number) // 1000
    return _EPOCH + timedelta(microseconds=microseconds)


def _number(value: object) -> int | float | None:
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, str):
        if value.isdecimal() and len(value) <= 18:
            return int(value)
        text = _unescaped(value.strip(EDGES))
        if len(text) > 40 or "_" in text:  # Python would read 1_000 as a number
            return None
        try:
            value = float(text)
        except ValueError:
            return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _written_time(value: str) -> datetime | None:
    if len(value) > _MAX_ESCAPED:
        return None
    text = " ".join(_unescaped(value.strip(EDGES)).split())
    if not 15 <= len(text) <= 64:  # a shorter text is a date without a time
        return None
    if not (as_in_mail := _RFC_2822.fullmatch(text)):
        text = _MISSING_PLUS.sub(" +", text)
        as_in_mail = _RFC_2822.fullmatch(text)
    try:
        if as_in_mail:
            at = parsedate_to_datetime(text)
        else:
            if named := _UTC_NAME.search(text):
                text = f"{text[: named.start()]}+00:00"
            at = datetime.fromisoformat(_BLANK_BEFORE_OFFSET.sub("", text))
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if at.year >= 1970 else None
