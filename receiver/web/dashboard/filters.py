"""The filters of a page, read from its address. So an address can be stored and sent to another person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from receiver.queueing.form_fields import LARGEST_ID
from receiver.web.dashboard.session import zone

Choice = TypeVar("Choice", bound=str)

FIRST_YEAR, LAST_YEAR = 1971, 8999
"""Years that every part of the service can compute with."""


@dataclass(slots=True)
class Filters:
    """The values of a query, and messages about wrong values by field.

    Days are in the viewer's time zone. `first_day` and `last_day` are both included.
    """

    zone: ZoneInfo
    texts: Mapping[str, str]
    faults: dict[str, str] = field(default_factory=dict)
    application_id: int | None = None
    deployment_id: int | None = None
    first_day: date | None = None
    last_day: date | None = None

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Filters:
        filters = cls(zone(), {name: text.strip() for name, text in query.items()})
        filters.application_id = filters.whole_number("application_id")
        filters.deployment_id = filters.whole_number("deployment_id")
        filters.first_day, filters.last_day = filters._day("from"), filters._day("to")
        if filters.first_day and filters.last_day and filters.last_day < filters.first_day:
            filters.faults["to"] = "The last day is before the first day."
            filters.last_day = None
        return filters

    @property
    def query(self) -> dict[str, str]:
        """The query of the list of batches with the same filters, for links."""
        names = ("application_id", "deployment_id")
        days = {"from": self.first_day, "to": self.last_day}
        return {name: self.texts[name] for name in names if self.texts.get(name) and name not in self.faults} | {
            name: day.isoformat() for name, day in days.items() if day is not None
        }

    @property
    def starts_at(self) -> datetime | None:
        """The beginning of the first day."""
        return None if self.first_day is None else datetime.combine(self.first_day, time(), self.zone)

    @property
    def ends_at(self) -> datetime | None:
        """The end of the last day."""
        return None if self.last_day is None else end_of(self.last_day, self.zone)

    def one_of(self, name: str, choices: Iterable[Choice]) -> Choice | None:
        text = self.texts.get(name)
        chosen = next((choice for choice in choices if choice == text), None)
        if text and chosen is None:
            self.faults[name] = "Choose one from the list."
        return chosen

    def label(self) -> tuple[str, str] | None:
        """A label's name and its value."""
        text = self.texts.get("label", "")
        name, colon, value = text.partition(":")
        if text and (fault := text_fault(text, 320) or (None if colon else "Enter a name, a colon and a value.")):
            self.faults["label"] = fault
        return (name.strip(), value.strip()) if text else None

    def whole_number(self, name: str) -> int | None:
        text = self.texts.get(name, "")
        if not text:
            return None
        if text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= LARGEST_ID:
            return int(text)
        self.faults[name] = "Enter a whole number."
        return None

    def _day(self, name: str) -> date | None:
        text = self.texts.get(name, "")
        day = parse_day(text)
        if text and day is None:
            self.faults[name] = "Enter a day such as 2026-12-01."
        return day


def text_fault(text: str, most: int) -> str | None:
    """What is wrong with a line of text that somebody entered."""
    if len(text) <= most and (text.isprintable() or not text):
        return None
    return f"Enter at most {most:,} characters, without control characters."


def parse_day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if FIRST_YEAR <= day.year <= LAST_YEAR and len(text) == 10 else None


def end_of(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(), zone)
