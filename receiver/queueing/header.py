"""Read the header of the CSV: the names of the columns, and their places in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from receiver.errors import Fault, InvalidInput
from receiver.queueing.exported import CODE_PLACE, SKIPPED_COLUMNS, begins_as_added
from receiver.text.cells import is_blank, trimmed
from receiver.text.formulas import restored
from receiver.text.quoting import quoted

Places = tuple[int, ...]
"""Places of columns in the header, from 0."""

DESTINATION = "destination"

MAX_COLUMNS = 1000
"""Maximum number of columns. Short rows get as many cells as the header has, so without a limit a file of 2 MB, half of
it header, would become many gigabytes."""


def invalid_csv(code: str, message: str, *, row: int | None = None) -> InvalidInput:
    """The error for a CSV that cannot be used. Without a row, the fault names the field `csv`."""
    fault = Fault("csv" if row is None else row, code, message)
    return InvalidInput(message, [fault], code="invalid_csv")


def no_header() -> InvalidInput:
    """The error for a file without a first row."""
    return invalid_csv("empty_file", "The file has only blank lines.")


def missing_destination(begins_with: str) -> InvalidInput:
    """The error for a file whose first column has another name, `begins_with`."""
    return invalid_csv(
        "missing_destination",
        f'The first column must be named "destination", but the file begins with "{quoted(begins_with, 40)}".',
    )


def begins_as_header(record: Sequence[str]) -> bool:
    """Whether a record may be the header: it begins with `destination`, in any case, or with an added column."""
    name = next(filter(None, map(trimmed, record)), "")
    return name.lower() == DESTINATION or begins_as_added(name)


@dataclass(frozen=True, slots=True)
class Header:
    """Where a record of the file contains the destination and the variables.

    `columns`: the names of the variables, as the user wrote them. `places`: the places of the destination and the
    variables in a record. `unnamed`: the places of columns without a name before the last one with a name; they must be
    empty. `code`: the place of the code of a skipped row, if an export added it. `width`: the number of columns up to
    the last one with a name. `whole_width`: the number of all columns.
    """

    columns: tuple[str, ...]
    places: tuple[int, ...]
    unnamed: tuple[int, ...]
    code: int | None
    width: int
    whole_width: int

    def chosen(self, record: Sequence[str]) -> list[str]:
        """The destination and the variables of a record, which has at least `width` cells."""
        return [record[place] for place in self.places]

    def check_unnamed(self, record: Sequence[str], beyond: Sequence[str], row: int) -> None:
        """Raise InvalidInput if a column without a name has a value, because it belongs to no variable.

        `beyond`: the cells of the record from `width` on.
        """
        filled = [place for place in self.unnamed if not is_blank((record[place],))]
        filled += [
            place for place, cell in enumerate(beyond, self.width) if place < self.whole_width and not is_blank((cell,))
        ]
        if filled:
            message = f"Column {filled[0] + 1} has no name, but row {row} has a value in it."
            raise invalid_csv("empty_column_name", message)


def read_header(record: Sequence[str], added: Places = ()) -> Header:
    """Read the header, without the columns that an export `added`.

    Names must be unique without the spaces around them. Upper and lower case differ, except in `destination`: for a
    voice application, `Name` and `name` are two variables.
    Raises InvalidInput (`missing_destination`, `too_many_columns`, `repeated_column_name`, `nul_character`).
    """
    names = [trimmed(restored(name) if added else name) for name in record]
    named = [place for place, name in enumerate(names) if name]
    places = [place for place in named if place not in added]
    if not places or names[places[0]].lower() != DESTINATION:
        raise missing_destination(names[places[0]] if places else "")
    width = named[-1] + 1
    if width - len(added) > MAX_COLUMNS:
        message = f"The header has {width - len(added):,} columns; at most {MAX_COLUMNS:,} are allowed."
        raise invalid_csv("too_many_columns", message)
    _check_names(names, places[1:])
    is_skipped_file = len(added) == len(SKIPPED_COLUMNS)
    return Header(
        columns=tuple(restored(record[place]) if added else record[place] for place in places[1:]),
        places=tuple(places),
        unnamed=tuple(place for place in range(width) if not names[place]),
        code=added[CODE_PLACE] if is_skipped_file else None,
        width=width,
        # In a file of skipped rows, the cells without a column follow the added columns.
        whole_width=width if is_skipped_file else len(record),
    )


def _check_names(names: Sequence[str], places: Sequence[int]) -> None:
    seen = {DESTINATION}
    faults = []
    for place in places:
        name = names[place]
        if "\0" in name:
            faults.append(Fault("csv", "nul_character", f"The name of column {place + 1} contains a NUL character."))
        elif name in seen:
            faults.append(Fault("csv", "repeated_column_name", f'Two columns are named "{quoted(name, 40)}".'))
        seen.add(name)
    if faults:
        message = "The header cannot be used: " + faults[0].message
        raise InvalidInput(message, faults[:100], faults_total=len(faults), code="invalid_csv")
