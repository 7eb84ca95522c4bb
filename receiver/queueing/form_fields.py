"""The fields of forms and of JSON bodies: what users write, and the faults that are reported for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from typing import Any
from zoneinfo import available_timezones

from marshmallow import Schema, ValidationError, fields, validate

from receiver.errors import Fault, InvalidInput
from receiver.model import rfc3339
from receiver.phone_numbers.numbering_plan import valid_region
from receiver.schedule import DAY_MINUTES, LEAST_HOURS

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""Python's calendar ends with the year 9999, and the grace time is added to this."""


class Coded(str):
    """The message of a fault that has another code than `invalid`."""

    code: str

    def __new__(cls, code: str, message: str) -> Coded:
        found = super().__new__(cls, message)
        found.code = code
        return found


NOT_A_TIME = "Enter Unix seconds, or a time with a UTC offset such as 2026-12-01T22:00:00Z."


class Timestamp(fields.Field[datetime]):
    """Unix seconds, or RFC 3339 with an offset. The precision is a microsecond, as in the database."""

    default_error_messages = {"invalid": NOT_A_TIME}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        text = str(value).strip()
        try:
            if text.isascii() and text.isdigit() and len(text) <= 12:
                moment = datetime.fromtimestamp(int(text), UTC)
            elif _RFC3339.fullmatch(text):
                moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
            else:
                raise self.make_error("invalid")
        except (ValueError, OverflowError):
            raise self.make_error("invalid") from None
        if moment > LATEST:
            raise self.make_error("invalid")
        return moment

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else rfc3339(value)


class WholeSecond(Timestamp):
    """A time that is sent to the provider in Unix seconds, so a fraction is removed."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        return super()._deserialize(value, *args, **kwargs).replace(microsecond=0)


class WholeNumber(fields.Integer):
    """Digits only. `7.0`, `1e3` and digits of other scripts are probably mistakes."""

    default_error_messages = {"invalid": "Enter a whole number."}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise self.make_error("invalid", input=text[:40])
        return int(text)


class Flag(fields.Boolean):
    """0 or 1, as the provider writes it, or true or false in any case, because Python writes `True`."""

    truthy = {"1", "true"}
    falsy = {"0", "false"}
    default_error_messages = {"invalid": "Enter 0, 1, true or false."}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        return super()._deserialize(str(value).lower(), *args, **kwargs)


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


HOURS_PATTERN = "^([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24):([0-5][0-9])$"


DAYS_PATTERN = f"^({'|'.join(DAYS)})(,({'|'.join(DAYS)}))*$"
"""What these two fields take, as patterns of JSON Schema."""


_HOURS = re.compile(HOURS_PATTERN)


class CallingHours(fields.Field[tuple[int, int]]):
    """`HH:MM-HH:MM`, as minutes after midnight."""

    default_error_messages = {
        "invalid": "Write a time span such as 09:00-21:00. The first time is earlier, the second at most 24:00.",
        "too_short": "They must be at least 30 minutes long.",
    }

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> tuple[int, int]:
        found = _HOURS.fullmatch(str(value).strip())
        if found is None:
            raise self.make_error("invalid")
        opens, closes = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if opens >= closes or closes > DAY_MINUTES:
            raise self.make_error("invalid")
        if timedelta(minutes=closes - opens) < LEAST_HOURS:
            raise self.make_error("too_short")
        return opens, closes

    def _serialize(self, value: tuple[int, int] | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else hours_text(*value)


def hours_text(opens_minute: int, closes_minute: int) -> str:
    """As a user writes them: 09:00-21:00."""
    return f"{opens_minute // 60:02}:{opens_minute % 60:02}-{closes_minute // 60:02}:{closes_minute % 60:02}"


class CallingDays(fields.Field[int]):
    """`mon,tue,…`, as a bit mask."""

    default_error_messages = {"invalid": f"Write days with commas between them, some of {','.join(DAYS)}."}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        mask = 0
        for day in str(value).lower().split(","):
            if day.strip() not in DAYS:
                raise self.make_error("invalid")
            mask |= 1 << DAYS.index(day.strip())
        return mask

    def _serialize(self, value: int | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else days_text(value)


def days_text(mask: int) -> str:
    """As a user writes them: mon,tue."""
    return ",".join(day for place, day in enumerate(DAYS) if mask >> place & 1)


@cache
def known_zones() -> frozenset[str]:
    """The IANA names that calling hours can be in."""
    return frozenset(available_timezones()) - {"Factory", "localtime"}


def check_time_zone(text: str) -> None:
    if text not in known_zones():
        raise ValidationError("Write an IANA name such as America/New_York.")


MOST_LABELS = 10

LARGEST_ID = 2**53
"""Beyond it, many JSON parsers lose digits."""


class Labels(fields.Dict):
    """A JSON object of texts, in a form field as its text."""

    default_error_messages = {
        "invalid": f"Write a JSON object with at most {MOST_LABELS} members: names of 1 to 64 characters without a"
        " colon, values of 1 to 255 characters."
    }

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self.make_error("invalid") from None
        if not isinstance(value, dict) or len(value) > MOST_LABELS:
            raise self.make_error("invalid")
        for name, text in value.items():
            if not (1 <= len(name) <= 64 and ":" not in name and isinstance(text, str) and 1 <= len(text) <= 255):
                raise self.make_error("invalid")
            storable(name)
            storable(text)
        return value


STORABLE = "^[^\\x00-\\x1f\\x7f]*$"
"""The texts that `storable` accepts, as a pattern of JSON Schema, without the rule for surrogates."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


_SURROGATE = re.compile(r"[\ud800-\udfff]")


def storable(text: str) -> None:
    """A validator for text that Postgres can store and a page can show. Raises ValidationError."""
    if _CONTROL.search(text) or _SURROGATE.search(text):
        raise ValidationError("It must not contain control characters.")


def made_storable(text: str) -> str:
    """The text with a replacement for each character that `storable` does not accept."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))


def check_region(text: str) -> None:
    if not valid_region(text.upper()):
        raise ValidationError("It must be a two-letter country code such as US or GB.")


def says(description: str, **more: Any) -> dict[str, Any]:
    """The metadata of a field for the API's description."""
    return {"description": description, **more}


def short_text(most: int, description: str, *, least: int = 0, **options: Any) -> fields.String:
    """A line of text that can be stored and shown, of at most so many characters."""
    checks: list[Callable[[str], object]] = [validate.Length(max=most), storable]
    if least:
        checks.insert(0, validate.Length(min=least))
    return fields.String(validate=checks, metadata=says(description, pattern=STORABLE), **options)


def whole_number(low: int, high: int, description: str, *, required: bool = False, **said: Any) -> WholeNumber:
    """`said`: more of its description."""
    return WholeNumber(required=required, validate=validate.Range(low, high), metadata=says(description, **said))


def policy(choices: Sequence[str], rows: str) -> fields.String:
    """What is done with some rows. The first choice is the default."""
    described = says(f"What to do with {rows}", default=choices[0])
    return fields.String(validate=validate.OneOf(choices), metadata=described)


def read_fields(schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema reads. Raises InvalidInput with each fault."""
    try:
        return dict(schema.load(given))
    except ValidationError as error:
        raise InvalidInput("Some parameters are not valid.", faults(error)) from None


def faults(error: ValidationError) -> list[Fault]:
    """The messages of marshmallow, each as a fault with a code of our own."""
    found: list[Fault] = []
    for where, messages in error.normalized_messages().items():  # type: ignore[no-untyped-call]
        # Those of a list are numbered by its items.
        for message in dict.fromkeys(messages if isinstance(messages, list) else chain(*messages.values())):
            coded = _OF_MARSHMALLOW.get(message, message)
            found.append(Fault(where, coded.code if isinstance(coded, Coded) else _code(coded), str(coded)))
    return found


_OF_MARSHMALLOW = {
    fields.Field.default_error_messages["required"]: Coded("required", "It is required."),
    Schema().error_messages["unknown"]: Coded("unknown_field", "Unknown field."),
}


def _code(message: str) -> str:
    """Of a message without one: marshmallow's, or one of ours whose code is `invalid`."""
    if message.startswith((f"Must be {validate.Range.message_gte}", f"Must be {validate.Range.message_lte}")):
        return "out_of_range"
    return "too_long" if message.startswith(_TOO_LONG) else "invalid"


_TOO_LONG = validate.Length.message_max.partition("{")[0]
