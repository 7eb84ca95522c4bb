"""Logs: one line for each event, as JSON for programs, or as text with colours for a terminal.

A line contains the time, the level, the event, the request's id, and fields such as ids and durations. Code that logs
must not pass a phone number or a secret. The formatters here are a second protection: they mask every phone number,
token, key and password that they find in a text.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.config import dictConfig
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The `X-Request-Id` of the current request."""


def about(event: str, **fields: object) -> dict[str, Any]:
    """`extra=` for a log call: the stable name of the event, and fields: ids, counts, durations (`…_seconds`).

    A number is written unchanged, so never pass a phone number as one.
    """
    return {"event": event, "fields": fields}


_LONG_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_MARKS = ("://", "earer ", "asic ", "=", "whsec_")
_SECRET = re.compile(
    r"""
    (?P<token>\b[1-9]\d{0,17}-[1-9]\d{0,8}\.)[A-Za-z0-9_-]{43}   # a result_url's token: its signature is removed
    | (?P<key>\brr_[A-Za-z0-9]{8}_)[A-Za-z0-9_-]{43}             # an API key: its public prefix stays
    | (?P<signing>\bwhsec_)[A-Za-z0-9+/_=-]{16,}                 # the secret of an endpoint
    | (?P<login>://[^/\s:@]*:)[^/\s]+(?=@)                       # a password in an address
    | (?P<scheme>\b(?:[Bb]earer|[Bb]asic)\ +)[A-Za-z0-9._~+/=-]{6,}
    | (?P<named>\b(?i:password|secret_key|plum_key|plum_user|metrics_key)=)\S+
    """,
    re.VERBOSE,
)
_DIGITS = re.compile(r"[+(\d][\d() .-]{6,22}\d")
_NUMBER = re.compile(
    r"(?<!\d)\d{9,15}(?!\d)"
    r"|(?<!\d)(?<!\d-)(?:\+?1[ .-]?)?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}(?!\d)"
    r"|\+(?=(?:[ .()-]*\d){7})\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"
)

_DATE_OR_NUMBER = re.compile(
    r"(?P<date>(?<!\d)(?:19|20)\d\d-[01]\d-[0-3]\d(?:[T ][0-2]\d:[0-5]\d)?(?![\s./()+\u2010-\u2015-]*\d))"
    r"|\d(?:[\s./()+\u2010-\u2015-]*\d){6,}"
)

_ESCAPE = re.compile(r"%(2[089BDE])", re.IGNORECASE)
"""A percent-encoded separator between the digits of a number in an address."""


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """The text without phone numbers, except their last two digits, and without secrets. `secrets`: exact texts.

    This takes a few microseconds for most lines: quick checks run before the exact expressions.
    """
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "[redacted]")
    if any(mark in text for mark in _MARKS) or _LONG_SECRET.search(text):
        text = _SECRET.sub(lambda match: f"{match[str(match.lastgroup)]}[redacted]", text)
    if "%2" in text:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return _DIGITS.sub(lambda run: _NUMBER.sub(_masked, run[0]), text)


def mask_digits(text: str) -> str:
    """The text in which each run of seven digits or more, with or without separators, keeps only its last two.

    For what people write about numbers: it masks local formats that `redact` leaves in a log line, where they could be
    ids or counts. A date such as 2026-12-01 stays.
    """
    return _DATE_OR_NUMBER.sub(lambda match: match[0] if match["date"] else _masked(match), text)


def _masked(match: re.Match[str]) -> str:
    """The number with all digits except the last two replaced. Its punctuation stays."""
    number = match[0]
    last_two = sorted(place for place, letter in enumerate(number) if letter.isdigit())[-2:]
    return "".join("*" if letter.isdigit() and at not in last_two else letter for at, letter in enumerate(number))


class _Formatter(logging.Formatter):
    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def _parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """The parts of a line in their order, redacted."""
        parts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": redact(record.getMessage(), self._secrets),
        }
        if (current := request_id.get()) is not None:
            parts["request_id"] = current
        for name, value in getattr(record, "fields", {}).items():
            plain = value is None or isinstance(value, int | float)
            parts[name] = value if plain else redact(str(value), self._secrets)
        if suppressed := getattr(record, "suppressed", 0):
            parts["suppressed"] = suppressed
        parts["logger"] = record.name
        parts["process"] = record.process
        if record.exc_info:
            parts["exception"] = redact(self.formatException(record.exc_info), self._secrets)
        return parts


_CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Characters that JSON does not escape, but that control a terminal or an editor: DEL, C1, line ends, directions."""


def _printable(text: str) -> str:
    """The text on one line, without control characters: it may come from outside."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


class JsonFormatter(_Formatter):
    """One JSON object on each line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self._parts(record), ensure_ascii=False, default=str).translate(_CONTROLS)


_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_NOT_FIELDS = ("time", "level", "event", "message", "logger", "process", "exception")


class TextFormatter(_Formatter):
    """Time, level, message and fields, for people."""

    def __init__(self, secrets: Sequence[str] = (), colour: bool = False) -> None:
        super().__init__(secrets)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        parts = self._parts(record)
        level = f"{parts['level']:<7}"
        fields = _printable(" ".join(f"{name}={value}" for name, value in parts.items() if name not in _NOT_FIELDS))
        if self._colour:
            level, fields = f"\x1b[{_COLOURS[parts['level']]}m{level}\x1b[0m", f"\x1b[2m{fields}\x1b[0m"
        line = f"{parts['time'][11:23]} {level} {_printable(parts['message'])}  {fields}".rstrip()
        # The lines of an exception are indented, so that none looks like a line of the log.
        return "\n  ".join([line, *map(_printable, parts.get("exception", "").splitlines())])


class OncePer(logging.Filter):
    """Passes one record of each event in `seconds`, with the number of records that were suppressed before it.

    For events that anybody can cause, such as requests to made-up addresses: they must not fill the log.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[object, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", record.msg)
        now = time.monotonic()
        until, suppressed = self._last.get(event, (0.0, 0))
        if now < until:
            self._last[event] = (until, suppressed + 1)
            return False
        self._last[event] = (now + self._seconds, 0)
        record.suppressed = suppressed
        return True


def logging_config(level: str, form: str | None, secrets: Sequence[str] = ()) -> dict[str, Any]:
    """The argument of `logging.config.dictConfig`: everything goes to standard output.

    `form`: one of FORMATS. None: text on a terminal, JSON elsewhere.
    """
    terminal = sys.stdout.isatty()
    formatter: dict[str, Any] = {"()": JsonFormatter, "secrets": tuple(secrets)}
    if (form or ("text" if terminal else "json")) == "text":
        colour = terminal and not os.environ.get("NO_COLOR")
        formatter = {"()": TextFormatter, "secrets": tuple(secrets), "colour": colour}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
        "root": {"level": level.upper(), "handlers": ["out"]},
        "loggers": {
            # It logs each lost connection many times. Our own code logs it once.
            "psycopg.pool": {"level": "ERROR"},
            # It logs complete addresses, and a query may contain a number.
            "urllib3": {"level": "WARNING"},
            # It logs addresses with their secrets.
            "apprise": {"level": "CRITICAL"},
            "gunicorn.error": {
                "level": level.upper() if level == "debug" else "WARNING",
                "handlers": [],
                "propagate": True,
            },
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


def start_logging(level: str, form: str | None, secrets: Sequence[str] = ()) -> None:
    """Send this process's log to standard output."""
    dictConfig(logging_config(level, form, secrets))
