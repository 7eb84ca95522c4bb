"""The fields of a batch as people fill them in, and as `read_parameters` takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from werkzeug.datastructures import MultiDict

from receiver.errors import Fault
from receiver.model import rfc3339
from receiver.queueing.form_fields import DAYS, NOT_A_TIME, days_text, hours_text, known_zones
from receiver.queueing.parameters import BatchForm
from receiver.web.dashboard.session import time_zone, zone

FIELDS = tuple(name for name in BatchForm().fields if name != "dry_run")
MOMENTS = ("start_timestamp", "end_timestamp")

MOST_ZONES = 50
"""Sets of time zones that a preview lists."""

NO_DAY = "none"
"""What `calling_days` becomes without any day: a missing field would allow every day."""

PRESETS = {
    "hours": ("09:00-20:00", "08:00-21:00", "10:00-18:00"),
    "paces": (10, 60, 120, 300, 600, 1200),
    "days": "mon,tue,wed,thu,fri",
    "zones": (
        "America/New_York",
        "America/Chicago",
        "America/Denver",
        "America/Phoenix",
        "America/Los_Angeles",
        "America/Anchorage",
        "Pacific/Honolulu",
    ),
}


def field_words() -> dict[str, object]:
    """What the macros of batch_form.html and preview_parts.html need."""
    form = {"presets": PRESETS, "days": DAYS, "zone": time_zone()}
    return {
        **form,
        "clock": clock,
        "days_text": days_text,
        "hours_text": hours_text,
        "is_night": is_night,
        "most_zones": MOST_ZONES,
    }


def clock(zones: str) -> str:
    """The local time now in zones that are joined by commas: `09:30`, or `09:30 to 11:30`. Empty if none is known."""
    times = sorted(_local_times(zones), key=lambda at: at.utcoffset() or timedelta())
    return " to ".join(dict.fromkeys(f"{at:%H:%M}" for at in (*times[:1], *times[-1:])))


def is_night(zones: str) -> bool:
    """Whether it is before 8:00, or 21:00 or later, in one of these zones now."""
    return any(not 8 <= at.hour < 21 for at in _local_times(zones))


def _local_times(zones: str) -> list[datetime]:
    return [datetime.now(ZoneInfo(name)) for name in zones.split(",") if name in known_zones()]


def read_form(given: MultiDict[str, str], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """The form's texts for `read_parameters`. Times in the viewer's zone get their UTC offset."""
    form = {name: given[name].strip() for name in FIELDS if name in given}
    for name in MOMENTS:
        if name in form:
            form[name] = _with_offset(form[name], (before or {}).get(name, ""))
    if "fields" in given:
        # Browsers do not send a box that is not ticked.
        form["is_pci"] = "1" if given.get("is_pci") else "0"
        form["calling_days"] = ",".join(given.getlist("calling_days")) or NO_DAY
        if "labels" in form:
            form["labels"] = _read_labels(form["labels"])
    return form


def for_schema(form: Mapping[str, str]) -> dict[str, str]:
    """The form for `read_parameters`. Days mean nothing without hours; and people are asked about recent numbers."""
    given = {"on_recent": "refuse"} | {name: text for name, text in form.items() if text or name != "on_recent"}
    if not given.get("calling_hours"):
        given.pop("calling_days", None)
    return given


def shown(form: Mapping[str, str]) -> dict[str, str]:
    """The form's texts for its fields: times in the viewer's zone, and one label in each line."""
    return {
        **form,
        **{name: _local(form[name]) for name in MOMENTS if name in form},
        "labels": _labels_text(form.get("labels", "")),
    }


def by_field(faults: Iterable[Fault]) -> dict[str, str]:
    """The first message of each field, in the words of the form."""
    found: dict[str, str] = {}
    for fault in faults:
        message = _PLAIN.get((str(fault.where), fault.code), fault.message)
        if message == NOT_A_TIME:
            message = "Enter a day and a time such as 2026-12-01T22:00."
        for name, words in _NAMES.items():
            message = message.replace(name, words)
        found.setdefault(str(fault.where), message)
    return found


_NAMES = {
    "max_attempts": "the number of attempts",
    "start_timestamp": "the start",
    "calling_days": "calling days",
    "time_zone_column": "a column of time zones",
    "time_zone": "a time zone",
}
"""The form has other names for these fields than the API."""

_PLAIN = {
    ("calling_days", "invalid"): "Choose at least one day.",
    ("labels", "invalid"): (
        "Write each label on its own line: a name of at most 64 characters, a colon, and a value of at most 255. Use"
        " each name once, and at most 10 labels."
    ),
}


def _labels_text(text: str) -> str:
    """A JSON object of labels as lines of `name: value`. Other text stays as it is."""
    try:
        return "\n".join(f"{name}: {value}" for name, value in json.loads(text).items())
    except (ValueError, AttributeError, RecursionError):
        return text


def _read_labels(text: str) -> str:
    """Lines of `name: value` as a JSON object. Text that is not such lines stays as it is, and is a fault."""
    labels: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon or name.strip() in labels:
            return text
        labels[name.strip()] = value.strip()
    return labels_json(labels)


def labels_json(labels: Mapping[str, str]) -> str:
    return json.dumps(labels, ensure_ascii=False) if labels else ""


def _with_offset(text: str, before: str) -> str:
    if text == _local(before):
        return before  # unchanged: keep the seconds, which the field does not show
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return rfc3339(moment.replace(tzinfo=zone()))
    except (ValueError, OverflowError):
        pass
    return text


def _local(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone(zone()).strftime("%Y-%m-%dT%H:%M")
    except (ValueError, OverflowError):
        return text
