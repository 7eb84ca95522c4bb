"""The time zones of each row: of its column, of all rows, or every zone that is known for its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from receiver.errors import Fault, InvalidInput, ReceiverError
from receiver.queueing.contacts import Contact
from receiver.queueing.form_fields import known_zones
from receiver.queueing.parameters import BatchParameters
from receiver.schedule import earliest, has_common_hours
from receiver.text.cells import in_one_line, trimmed
from receiver.text.quoting import quoted


class NoCommonHours(ReceiverError):
    """The row cannot be called within the calling hours. Codes: `time_zone_unknown`, `no_common_hours`."""

    code = "no_common_hours"


class RowZones:
    """Finds the zones of rows. Raises InvalidInput if the column that should name them does not exist."""

    def __init__(self, parameters: BatchParameters, columns: Sequence[str], now: datetime) -> None:
        assert parameters.hours is not None  # noqa: S101 else nobody needs to know any zone
        self._hours = parameters.hours
        self._gates = parameters.gates
        self._now = now
        self._of_all = (parameters.time_zone,) if parameters.time_zone is not None else None
        self._place: int | None = None
        if parameters.time_zone_column is not None:
            names = list(map(in_one_line, columns))
            wanted = in_one_line(parameters.time_zone_column)
            if wanted not in names:
                message = f'The file has no column "{quoted(parameters.time_zone_column, 40)}".'
                raise InvalidInput(
                    "Some parameters cannot be taken.", [Fault("time_zone_column", "unknown_column", message)]
                )
            self._place = names.index(wanted)
        self._of_number: Callable[[int], tuple[str, ...]] | None = None
        self._faults: dict[tuple[str, ...], str | None] = {}
        """What is wrong with a set of zones, None if nothing is."""

    def of(self, contact: Contact) -> tuple[str, ...]:
        """The row's zones, in order. Raises NoCommonHours."""
        zones = self._named(contact) or self._of_all or self._known(contact)
        if zones not in self._faults:
            self._faults[zones] = self._fault(zones)
        if (fault := self._faults[zones]) is not None:
            raise NoCommonHours(fault)
        return zones

    def _named(self, contact: Contact) -> tuple[str, ...] | None:
        cell = trimmed(contact.cells[self._place]) if self._place is not None else ""
        if cell and cell not in known_zones():
            raise NoCommonHours(
                f'"{quoted(cell, 40)}" is not a time zone. Write an IANA name such as America/New_York.',
                code="time_zone_unknown",
            )
        return (cell,) if cell else None

    def _known(self, contact: Contact) -> tuple[str, ...]:
        if self._of_number is None:
            # The library's table of zones, which nothing else needs.
            from receiver.phone_numbers.time_zones import zones_of

            self._of_number = zones_of
        zones = self._of_number(contact.phone_number)
        if not zones:
            raise NoCommonHours("The time zone of this number is not known. Name it.", code="time_zone_unknown")
        return zones

    def _fault(self, zones: tuple[str, ...]) -> str | None:
        names = ", ".join(zones[:3]) + (f" and {len(zones) - 3} others" if len(zones) > 3 else "")
        at = max(self._now, self._gates.start_at or self._now)
        if not has_common_hours(self._hours, zones, at):
            return f"The calling hours have less than 30 minutes in common in {names}. Name the zone of this row."
        if earliest(self._gates, zones, self._now) is None:
            return f"The calling hours in {names} do not open between the start and the end."
        return None
