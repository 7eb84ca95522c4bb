"""The parameters of a batch besides its CSV: one schema for the form, the API and the command line.

Ranges and rules are the provider's (provider page: Queue multiple calls). They are checked here, so that a fault is
reported with its field before anything is stored or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from receiver.queueing.form_fields import (
    DAYS_PATTERN,
    HOURS_PATTERN,
    LARGEST_ID,
    MOST_LABELS,
    CallingDays,
    CallingHours,
    Coded,
    Flag,
    Labels,
    WholeSecond,
    check_region,
    check_time_zone,
    made_storable,
    policy,
    read_fields,
    says,
    short_text,
    whole_number,
)
from receiver.schedule import EVERY_DAY, Gates, Hours, earliest
from receiver.text.cells import in_one_line

CLOCK_TOLERANCE = timedelta(minutes=5)
"""A start in the past is accepted within this time: filling in the form takes time, and clocks differ."""


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


class BatchForm(Schema):
    """The fields besides `csv`. An unknown one is refused, because a misspelt option must not be ignored."""

    application_id = whole_number(1, LARGEST_ID, "The provider's id of the application.", required=True, examples=[7])
    deployment_id = whole_number(1, LARGEST_ID, "The provider's id of the deployment.", required=True, examples=[3])
    name = short_text(200, "A name for lists; default: the file's name.")
    start_timestamp = WholeSecond(metadata=says("When dialing may begin; default: at once."))
    end_timestamp = WholeSecond(metadata=says("When dialing must stop."))
    max_attempts = whole_number(1, 10, "Maximum attempts per number; more than 1 requires `reattempt_wait`.")
    reattempt_wait = whole_number(60, 86400, "Seconds between two attempts.")
    is_pci = Flag(metadata=says("Run connected calls in the provider's HIPAA/PCI environment."))
    default_region = fields.String(
        validate=check_region,
        metadata=says("Country of numbers without a country code; default: `DEFAULT_REGION`.", pattern="^[A-Za-z]{2}$"),
    )
    on_invalid = policy(["refuse", "skip"], "invalid rows: refuse the batch, or skip them.")
    on_duplicate = policy(
        ["refuse", "skip", "keep"], "repeated destinations: refuse the batch, skip the later ones, or keep them all."
    )
    destination_column = short_text(
        1000,
        "The column that contains the numbers, if it is not `destination`. It is sent as the first column, named"
        " `destination`. White space and line breaks in it count as one space.",
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
        validate=[validate.Length(max=100), check_time_zone],
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


_DEFAULT_TEXTS = {name: ("", str(field.metadata.get("default", ""))) for name, field in BatchForm().fields.items()} | {
    "labels": ("", "{}")
}
"""What can be written instead of leaving a field out."""

_FLAG_TEXTS = dict.fromkeys(Flag.truthy, "1") | dict.fromkeys(Flag.falsy, "")


def without_defaults(form: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The fields of a form that change something, each in one spelling. `defaults`: further defaults, which depend on
    the request."""
    one_spelling = {
        "default_region": form.get("default_region", "").upper(),
        "is_pci": _FLAG_TEXTS.get(form.get("is_pci", "").lower(), form.get("is_pci", "")),
        "dry_run": "",
    }
    return {
        name: text
        for name, text in {**form, **one_spelling}.items()
        if text not in _DEFAULT_TEXTS.get(name, ()) and text != defaults.get(name)
    }


def read_parameters(form: Mapping[str, Any], default_region: str, default_name: str = "") -> BatchParameters:
    """Read the parameters of a form. An empty text and None count as absent. Raises InvalidInput with each wrong field.

    `default_name` is the name of a file, which may contain any characters. Those that cannot be stored or shown are
    replaced.
    """
    given = {name: text for name, text in form.items() if text not in ("", None)}
    for name in {"destination_column", "time_zone_column"} & given.keys():
        given[name] = in_one_line(str(given[name]))
    values = read_fields(BatchForm(), given)
    name = values.pop("name", made_storable(default_name[:200]))
    return BatchParameters(**{"name": name, "default_region": default_region, **values})
