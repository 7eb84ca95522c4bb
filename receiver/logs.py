"""Logs: one line an event, JSON for programs, words and colour for a terminal.

A line says when, how bad, which event, in whose request, and what it is about by id and by number of
seconds. What it must not say is kept out where it is written; the formatters here are the last line of
defence, and mask every phone number, token, key and password that got into a text all the same.
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
"""The `X-Request-Id` of the request that is being answered."""


def about(event: str, **fields: object) -> dict[str, Any]:
    """`extra=` for a log call: the event's stable name, and ids, counts and durations (`…_seconds`) as fields.

    A field is written as it is, if it is a number: never give a phone number as one.
    """
    return {"event": event, "fields": fields}


_LONG_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_MARKS = ("://", "earer ", "asic ", "=")
_SECRET = re.compile(
    r"""
    (?P<token>\b[1-9]\d{0,17}-[1-9]\d{0,8}\.)[A-Za-z0-9_-]{43}   # a result_url's token: whose, not its signature
    | (?P<key>\brr_[A-Za-z0-9]{8}_)[A-Za-z0-9_-]{43}             # an API key: its public prefix stays
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

_ESCAPE = re.compile(r"%(2[089BDE])", re.IGNORECASE)
"""In an address: what stands between the digits of a number."""


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """The text without what no log may hold; of a phone number the last two digits stay. `secrets`: exact words.

    A usual line passes in a few microseconds: the exact expressions see only what might be something.
    """
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "[redacted]")
    if any(mark in text for mark in _MARKS) or _LONG_SECRET.search(text):
        text = _SECRET.sub(lambda match: f"{match[str(match.lastgroup)]}[redacted]", text)
    if "%2" in text:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return _DIGITS.sub(lambda run: _NUMBER.sub(_masked, run[0]), text)


def _masked(match: re.Match[str]) -> str:
    """The number with all digits but its last two replaced, its shape kept."""
    number = match[0]
    last_two = sorted(place for place, letter in enumerate(number) if letter.isdigit())[-2:]
    return "".join("*" if letter.isdigit() and at not in last_two else letter for at, letter in enumerate(number))


class _Formatter(logging.Formatter):
    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def _parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a line says, in its order; every text in it fit to be kept."""
        parts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": redact(record.getMessage(), self._secrets),
        }
        if (asked := request_id.get()) is not None:
            parts["request_id"] = asked
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


# What JSON may hold as it is, and a terminal or an editor obeys: DEL, C1, line ends, what turns a line around.
_MOVES_THE_CURSOR = {
    code: f"\\u{code:04x}"
    for code in (0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def _printable(text: str) -> str:
    """A text from outside must not look like a line of its own, nor move the cursor."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self._parts(record), ensure_ascii=False, default=str).translate(_MOVES_THE_CURSOR)


_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_ASIDE = ("time", "level", "event", "message", "logger", "process", "exception")


class TextFormatter(_Formatter):
    """Time, level, message and fields, for people; in colour unless `NO_COLOR` is set."""

    def __init__(self, secrets: Sequence[str] = (), colour: bool = False) -> None:
        super().__init__(secrets)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        parts = self._parts(record)
        level = f"{parts['level']:<7}"
        said = _printable(" ".join(f"{name}={value}" for name, value in parts.items() if name not in _ASIDE))
        if self._colour:
            level, said = f"\x1b[{_COLOURS[parts['level']]}m{level}\x1b[0m", f"\x1b[2m{said}\x1b[0m"
        line = f"{parts['time'][11:23]} {level} {_printable(parts['message'])}  {said}".rstrip()
        # Each line of it set in, so that none looks like one of the log's.
        return "\n  ".join([line, *map(_printable, parts.get("exception", "").splitlines())])


class OncePer(logging.Filter):
    """Lets one record of each event through in so many seconds, and tells how many it kept back before it.

    For what strangers can cause at will: a log must not be filled by whoever posts to made-up addresses.
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
    """What `logging.config.dictConfig` takes: everything to standard output, in one form.

    `form`: one of FORMATS; None: text on a terminal, JSON elsewhere.
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
            # It tells of each lost connection many times; who asked for one is told once.
            "psycopg.pool": {"level": "ERROR"},
            # They log addresses in full, where a query may hold a number.
            "urllib3": {"level": "WARNING"},
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
