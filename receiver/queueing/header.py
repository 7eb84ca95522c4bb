"""The CSV's first row: which columns it names, and which cells of a row they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from receiver.errors import Fault, InvalidInput
from receiver.queueing.exported import CODE_PLACE, SKIPPED_COLUMNS, begins_as_added
from receiver.text.cells import is_blank, trimmed
from receiver.text.formulas import restored
from receiver.text.quoting import quoted

Places = tuple[int, ...]
"""Of columns in the header, from 0."""

DESTINATION = "destination"

MAX_COLUMNS = 1000
"""Of the header. Short rows are filled up to its width, so without a bound a file of 2 MB, half of it header, would
come to many gigabytes."""


def invalid_csv(code: str, message: str, *, row: int | None = None) -> InvalidInput:
    """The error for a CSV that cannot be taken as a whole. Without a row, the fault is the field's."""
    fault = Fault("csv" if row is None else row, code, message)
    return InvalidInput(message, [fault], code="invalid_csv")


def no_header() -> InvalidInput:
    """The error for a file without a first row."""
    return invalid_csv("empty_file", "The file has only blank lines.")


def missing_destination(begins_with: str) -> InvalidInput:
    """The error for a file whose first column has another name; `begins_with` is that name."""
    return invalid_csv(
        "missing_destination",
        f'The first column must be named "destination", but the file begins with "{quoted(begins_with, 40)}".',
    )


def begins_as_header(record: Sequence[str]) -> bool:
    """Whether a record may be the header: its first name is `destination`, in any case, or that of an added column."""
    name = next(filter(None, map(trimmed, record)), "")
    return name.lower() == DESTINATION or begins_as_added(name)


@dataclass(frozen=True, slots=True)
class Header:
    """How a record of the file becomes a destination and its variables.

    `columns`: the names of the variables, as the user wrote them. `places`: where in a record the destination and the
    variables are. `unnamed`: the places of columns without a name before the last that has one; they must be empty.
    `code`: where the code of a skipped row is, if an export has added it.
    `width`: how many columns there are up to the last that has a name. `whole_width`: how many there are in all.
    """

    columns: tuple[str, ...]
    places: tuple[int, ...]
    unnamed: tuple[int, ...]
    code: int | None
    width: int
    whole_width: int

    def chosen(self, record: Sequence[str]) -> list[str]:
        """The destination and the variables of a record, which is at least `width` long."""
        return [record[place] for place in self.places]

    def check_unnamed(self, record: Sequence[str], beyond: Sequence[str], row: int) -> None:
        """Raise InvalidInput if a column without a name has a value: nobody can say which variable it is.

        `beyond`: the record's cells from `width` on.
        """
        filled = [place for place in self.unnamed if not is_blank((record[place],))]
        filled += [
            place for place, cell in enumerate(beyond, self.width) if place < self.whole_width and not is_blank((cell,))
        ]
        if filled:
            message = f"Column {filled[0] + 1} has no name, but row {row} has a value in it."
            raise invalid_csv("empty_column_name", message)


def read_header(record: Sequence[str], added: Places = ()) -> Header:
    """What the header says. The columns that an export `added` are left out.

    Names are unique once the space around them is put aside. Case counts, except in `destination`: `Name` and `name`
    are two variables to a voice application.
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
        # In a file of skipped rows, what had no column follows the added ones.
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
