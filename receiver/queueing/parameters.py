"""The parameters of a batch besides its CSV: one schema for the form, the API and the command line.

Ranges and rules are the provider's (provider page: Queue multiple calls). They are checked here, so that a fault is
reported with its field before anything is stored or sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal
from zoneinfo import available_timezones

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate, validates_schema

from receiver.errors import Fault, InvalidInput
from receiver.model import rfc3339
from receiver.phone_numbers.numbering_plan import valid_region
from receiver.schedule import DAY_MINUTES, EVERY_DAY, LEAST_HOURS, Gates, Hours, due_at, earliest

CLOCK_TOLERANCE = timedelta(minutes=5)
"""A start in the past is accepted within this time: filling in the form takes time, and clocks differ."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""Python's calendar ends with the year 9999, and the grace time is added to this."""


@dataclass(frozen=True, slots=True)
class BatchParameters:
    """Checked parameters. None: the parameter is not sent, and the provider's default applies."""

    application_id: int
    deployment_id: int
    name: str = ""
    start_timestamp: datetime | None = None
    end_timestamp: datetime | None = None
    max_attempts: int | None = None
    reattempt_wait: int | None = None
    """Seconds."""
    is_pci: bool = False
    default_region: str = "US"
    on_invalid: Literal["refuse", "skip"] = "refuse"
    on_duplicate: Literal["refuse", "skip", "keep"] = "refuse"
    on_recent: Literal["allow", "skip", "refuse"] = "allow"
    recent_hours: int = 24
    dry_run: bool = False
    destination_column: str | None = None
    calls_per_minute: int | None = None
    calling_hours: tuple[int, int] | None = None
    """From when to when, in minutes after the callee's midnight."""
    calling_days: int | None = None
    """A bit mask: Monday is 1, Sunday 64."""
    time_zone: str | None = None
    time_zone_column: str | None = None
    external_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def gates(self) -> Gates:
        return Gates(self.start_timestamp, self.end_timestamp, self.hours, self.calls_per_minute)

    @property
    def hours(self) -> Hours | None:
        return None if self.calling_hours is None else Hours(*self.calling_hours, self.calling_days or EVERY_DAY)

    @property
    def retries(self) -> timedelta:
        """How long all waits between a call's attempts take."""
        return timedelta(seconds=((self.max_attempts or 1) - 1) * (self.reattempt_wait or 0))

    def due_at(self, now: datetime, grace_seconds: int) -> datetime:
        """When a call that is released now becomes overdue if it has no result."""
        return due_at(self.start_timestamp, self.end_timestamp, self.retries, now, timedelta(seconds=grace_seconds))


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

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
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

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else rfc3339(value)


class WholeSecond(Timestamp):
    """A time that is sent to the provider in Unix seconds, so a fraction is removed."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        return super()._deserialize(value, attr, data, **kwargs).replace(microsecond=0)


class WholeNumber(fields.Integer):
    """Digits only. `7.0`, `1e3` and digits of other scripts are probably mistakes."""

    default_error_messages = {"invalid": "Enter a whole number."}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise self.make_error("invalid", input=text[:40])
        return int(text)


class Flag(fields.Boolean):
    """0 or 1, as the provider writes it, or true or false in any case, because Python writes `True`."""

    truthy = {"1", "true"}
    falsy = {"0", "false"}
    default_error_messages = {"invalid": "Enter 0, 1, true or false."}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        return super()._deserialize(str(value).lower(), attr, data, **kwargs)


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

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> tuple[int, int]:
        found = _HOURS.fullmatch(str(value).strip())
        if found is None:
            raise self.make_error("invalid")
        opens, closes = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if opens >= closes or closes > DAY_MINUTES:
            raise self.make_error("invalid")
        if timedelta(minutes=closes - opens) < LEAST_HOURS:
            raise self.make_error("too_short")
        return opens, closes

    def _serialize(self, value: tuple[int, int] | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else hours_text(*value)


def hours_text(opens_minute: int, closes_minute: int) -> str:
    """As a user writes them: 09:00-21:00."""
    return f"{opens_minute // 60:02}:{opens_minute % 60:02}-{closes_minute // 60:02}:{closes_minute % 60:02}"


class CallingDays(fields.Field[int]):
    """`mon,tue,…`, as a bit mask."""

    default_error_messages = {"invalid": f"Write days with commas between them, some of {','.join(DAYS)}."}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        mask = 0
        for day in str(value).lower().split(","):
            if day.strip() not in DAYS:
                raise self.make_error("invalid")
            mask |= 1 << DAYS.index(day.strip())
        return mask

    def _serialize(self, value: int | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else days_text(value)


def days_text(mask: int) -> str:
    """As a user writes them: mon,tue."""
    return ",".join(day for place, day in enumerate(DAYS) if mask >> place & 1)


@cache
def known_zones() -> frozenset[str]:
    """The IANA names that calling hours can be in."""
    return frozenset(available_timezones()) - {"Factory", "localtime"}


def _time_zone(text: str) -> None:
    if text not in known_zones():
        raise ValidationError("Write an IANA name such as America/New_York.")


MOST_LABELS = 10


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


def _region(text: str) -> None:
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


class BatchForm(Schema):
    """The fields besides `csv`. An unknown one is refused, because a misspelt option must not be ignored."""

    class Meta:
        unknown = RAISE

    application_id = whole_number(1, 2**53, "The provider's id of the application.", required=True, examples=[7])
    deployment_id = whole_number(1, 2**53, "The provider's id of the deployment.", required=True, examples=[3])
    name = short_text(200, "A name for lists; default: the file's name.")
    start_timestamp = WholeSecond(metadata=says("When dialing may begin; default: at once."))
    end_timestamp = WholeSecond(metadata=says("When dialing must stop."))
    max_attempts = whole_number(1, 10, "Maximum attempts per number; more than 1 requires `reattempt_wait`.")
    reattempt_wait = whole_number(60, 86400, "Seconds between two attempts.")
    is_pci = Flag(metadata=says("Run connected calls in the provider's HIPAA/PCI environment."))
    default_region = fields.String(
        validate=_region,
        metadata=says("Country of numbers without a country code; default: `DEFAULT_REGION`.", pattern="^[A-Za-z]{2}$"),
    )
    on_invalid = policy(["refuse", "skip"], "invalid rows: refuse the batch, or skip them.")
    on_duplicate = policy(
        ["refuse", "skip", "keep"],
        "repeated destinations: refuse the batch, skip the later ones, or keep them all.",
    )
    destination_column = short_text(
        1000,
        "The column that contains the numbers, if it is not `destination`. It is sent as the first column, named"
        " `destination`.",
        least=1,
    )
    on_recent = policy(
        ["allow", "skip", "refuse"],
        "numbers that wait for release in another batch, or were released within `recent_hours`: allow them, skip"
        " them, or refuse the batch.",
    )
    recent_hours = whole_number(1, 720, "How many hours count as recent.", default=24)
    calls_per_minute = whole_number(1, 100_000, "The pace: at most this many calls are released in any 60 seconds.")
    calling_hours = CallingHours(
        metadata=says(
            "Release calls only between these times, in the callee's local time. The first time is earlier, the second"
            " at most 24:00, at least 30 minutes apart. Retries end with the hours.",
            pattern=HOURS_PATTERN,
            examples=["09:00-21:00"],
        )
    )
    calling_days = CallingDays(
        metadata=says(
            "Release calls only on these days of the callee's week; default: every day. Requires `calling_hours`.",
            pattern=DAYS_PATTERN,
            examples=["mon,tue,wed,thu,fri"],
        )
    )
    time_zone = fields.String(
        validate=[validate.Length(max=100), _time_zone],
        metadata=says(
            "The time zone of all rows, an IANA name. Default: every zone that is known for the number; the hours must"
            " be open in all of them. Requires `calling_hours`.",
            examples=["America/New_York"],
        ),
    )
    time_zone_column = short_text(
        1000,
        "A column of the CSV with the time zone of each row. For an empty cell, the rule of `time_zone` applies."
        " Requires `calling_hours`.",
        least=1,
    )
    external_id = short_text(255, "Your own name for the batch. It must be unique.")
    labels = Labels(
        metadata=says(
            f"Your own labels for the batch: a JSON object with at most {MOST_LABELS} members. Names have 1 to 64"
            " characters without a colon, values 1 to 255."
        )
    )
    dry_run = Flag(metadata=says("1: return a preview; nothing is stored or sent."))

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _check_rules(self, values: dict[str, Any], given: Mapping[str, Any], **_: Any) -> None:
        now = datetime.now(UTC)
        faults: dict[str, str] = {}
        start, end = values.get("start_timestamp"), values.get("end_timestamp")
        if (values.get("max_attempts") or 1) > 1 and "reattempt_wait" not in given:
            faults["reattempt_wait"] = Coded("required", "It is required when max_attempts is more than 1.")
        if start is not None and start < now - CLOCK_TOLERANCE:
            faults["start_timestamp"] = Coded("in_the_past", "It is in the past. Leave it out to begin now.")
        if end is not None and end <= now:
            faults["end_timestamp"] = Coded("in_the_past", "It is in the past, so nobody would be called.")
        elif end is not None and start is not None and end <= start:
            faults["end_timestamp"] = "It must be after start_timestamp."
        for name in ("calling_days", "time_zone", "time_zone_column"):
            if name in given and "calling_hours" not in given:
                faults["calling_hours"] = Coded("required", f"They are required with {name}.")
        hours, zone = values.get("calling_hours"), values.get("time_zone")
        if hours is not None and zone is not None and "time_zone_column" not in given and not faults:
            opens, closes = hours
            gates = Gates(start, end, Hours(opens, closes, values.get("calling_days") or EVERY_DAY))
            if earliest(gates, [zone], now) is None:
                message = f"They never open in {zone} between the start and the end."
                faults["calling_hours"] = Coded("outside_calling_hours", message)
        if faults:
            raise ValidationError({name: [message] for name, message in faults.items()})

    @post_load
    def _upper_region(self, values: dict[str, Any], **_: Any) -> dict[str, Any]:
        if values.get("default_region"):  # a follow-up may have null
            values["default_region"] = values["default_region"].upper()
        return values


_DEFAULT_TEXTS = {
    name: ("", *Flag.falsy, "False") if isinstance(field, Flag) else ("", str(field.metadata.get("default", "")))
    for name, field in BatchForm().fields.items()
} | {"labels": ("", "{}")}
"""What can be written instead of leaving a field out."""


def without_defaults(form: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The fields of a form that change something. `defaults`: further defaults, which depend on the request."""
    return {
        name: text
        for name, text in form.items()
        if text not in _DEFAULT_TEXTS.get(name, ()) and text != defaults.get(name)
    }


def read_parameters(form: Mapping[str, Any], default_region: str, default_name: str = "") -> BatchParameters:
    """Read the parameters of a form. An empty text and None count as absent. Raises InvalidInput with each wrong field.

    `default_name` is the name of a file, which may contain any characters. Those that cannot be stored or shown are
    replaced.
    """
    given = {name: text for name, text in form.items() if text not in ("", None)}
    try:
        values = BatchForm().load(given)
    except ValidationError as error:
        raise InvalidInput("Some parameters are not valid.", faults(error)) from None
    name = values.pop("name", _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", default_name[:200])))
    return BatchParameters(**{"name": name, "default_region": default_region, **values})


def faults(error: ValidationError) -> list[Fault]:
    """The messages of marshmallow, each as a fault with a code of our own."""
    found: list[Fault] = []
    for where, messages in error.normalized_messages().items():  # type: ignore[no-untyped-call]
        for message in messages if isinstance(messages, list) else [str(messages)]:
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
