"""The parameters of a batch besides its CSV: one schema for the form, the API and the command line.

Ranges and rules are the provider's (provider page: Queue multiple calls). They are checked here, so that a fault is
reported with its field before anything is stored or sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate, validates_schema

from receiver.errors import Fault, InvalidInput
from receiver.model import rfc3339
from receiver.phone_numbers.destination import valid_region

FULL_DAY = timedelta(hours=24)
"""The longest time for which the provider dials if no end is given."""

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
    dry_run: bool = False

    def due_at(self, now: datetime, grace_seconds: int) -> datetime:
        """When a call without a result becomes overdue: after its last possible attempt and the grace time."""
        if self.end_timestamp is not None:
            last_attempt = self.end_timestamp
        else:
            waits = ((self.max_attempts or 1) - 1) * (self.reattempt_wait or 0)
            last_attempt = (self.start_timestamp or now) + FULL_DAY + timedelta(seconds=waits)
        return last_attempt + timedelta(seconds=grace_seconds)


class Timestamp(fields.Field[datetime]):
    """Unix seconds, or RFC 3339 with an offset. The precision is a microsecond, as in the database."""

    default_error_messages = {
        "invalid": "Enter Unix seconds, or a time with a UTC offset such as 2026-12-01T22:00:00Z."
    }

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


class BatchForm(Schema):
    """The fields besides `csv`. An unknown one is refused, because a misspelt option must not be ignored."""

    class Meta:
        unknown = RAISE

    application_id = WholeNumber(
        required=True,
        validate=validate.Range(1, 2**53),
        metadata=says("The provider's id of the application.", examples=[7]),
    )
    deployment_id = WholeNumber(
        required=True,
        validate=validate.Range(1, 2**53),
        metadata=says("The provider's id of the deployment.", examples=[3]),
    )
    name = fields.String(
        validate=[validate.Length(max=200), storable],
        metadata=says("A name for lists; default: the file's name.", pattern=STORABLE),
    )
    start_timestamp = WholeSecond(metadata=says("When dialing may begin; default: at once."))
    end_timestamp = WholeSecond(metadata=says("When dialing must stop."))
    max_attempts = WholeNumber(
        validate=validate.Range(1, 10),
        metadata=says("Maximum attempts per number; more than 1 requires `reattempt_wait`."),
    )
    reattempt_wait = WholeNumber(validate=validate.Range(60, 86400), metadata=says("Seconds between two attempts."))
    is_pci = Flag(metadata=says("Run connected calls in the provider's HIPAA/PCI environment."))
    default_region = fields.String(
        validate=_region,
        metadata=says("Country of numbers without a country code; default: `DEFAULT_REGION`.", pattern="^[A-Za-z]{2}$"),
    )
    on_invalid = fields.String(
        validate=validate.OneOf(["refuse", "skip"]),
        metadata=says("What to do with invalid rows: refuse the batch, or skip them.", default="refuse"),
    )
    on_duplicate = fields.String(
        validate=validate.OneOf(["refuse", "skip", "keep"]),
        metadata=says(
            "What to do with repeated destinations: refuse the batch, skip the later ones, or keep them all.",
            default="refuse",
        ),
    )
    dry_run = Flag(metadata=says("1: return a preview; nothing is stored or sent."))

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _check_rules(self, values: dict[str, Any], given: Mapping[str, Any], **_: Any) -> None:
        now = datetime.now(UTC)
        faults: dict[str, list[str]] = {}
        start, end = values.get("start_timestamp"), values.get("end_timestamp")
        if (values.get("max_attempts") or 1) > 1 and "reattempt_wait" not in given:
            faults["reattempt_wait"] = ["It is required when max_attempts is more than 1."]
        if start is not None and start < now - CLOCK_TOLERANCE:
            faults["start_timestamp"] = ["It is in the past. Leave it out to begin now."]
        if end is not None and end <= now:
            faults["end_timestamp"] = ["It is in the past, so nobody would be called."]
        elif end is not None and start is not None and end <= start:
            faults["end_timestamp"] = ["It must be after start_timestamp."]
        if faults:
            raise ValidationError(dict(faults))

    @post_load
    def _upper_region(self, values: dict[str, Any], **_: Any) -> dict[str, Any]:
        if "default_region" in values:
            values["default_region"] = values["default_region"].upper()
        return values


def read_parameters(form: Mapping[str, str], default_region: str, default_name: str = "") -> BatchParameters:
    """Read the parameters of a form. An empty text counts as absent. Raises InvalidInput with each wrong field.

    `default_name` is the name of a file, which may contain any characters. Those that cannot be stored or shown are
    replaced.
    """
    given = {name: text for name, text in form.items() if text != ""}
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
            found.append(Fault(where, _code(message), message))
    return found


def _code(message: str) -> str:
    # marshmallow has no codes, so this distinguishes its messages by their words.
    if message == Schema.error_messages.get("unknown", "Unknown field.") or message == "Unknown field.":
        return "unknown_field"
    if "equired" in message:
        return "required"
    if "more than once" in message:
        return "repeated_field"
    if "in the past" in message:
        return "in_the_past"
    if message.startswith(("Must be greater", "Must be less")):
        return "out_of_range"
    if message.startswith("Longer than"):
        return "too_long"
    return "invalid"
