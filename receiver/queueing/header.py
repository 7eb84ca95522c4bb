"""Read the header of the CSV: the names of the columns, and their places in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from receiver.errors import Fault, InvalidInput
from receiver.queueing.exported import ADDED_LATER, CODE_PLACE, RESULT_COLUMNS, begins_as_added
from receiver.queueing.workbook_child import LOST_DIGITS
from receiver.text.cells import in_one_line, is_blank, trimmed
from receiver.text.formulas import restored
from receiver.text.quoting import quoted

Places = tuple[int, ...]
"""Places of columns in the header, from 0."""

DESTINATION = "destination"

MAX_COLUMNS = 1000
"""Maximum number of columns. Short rows get as many cells as the header has, so without a limit a file of 2 MB, half of
it header, would become many gigabytes."""


def invalid_csv(code: str, message: str, *, row: int | None = None, line: int | None = None) -> InvalidInput:
    """The error for a CSV that cannot be used. Without a row, the fault names the field `csv`."""
    fault = Fault("csv" if row is None else row, code, message, line)
    return InvalidInput(message, [fault], code="invalid_csv")


def no_header() -> InvalidInput:
    """The error for a file without a first row."""
    return invalid_csv("empty_file", "The file has only blank lines.")


@dataclass(frozen=True, slots=True)
class PhoneColumn:
    """A column that looks like phone numbers: `valid` of its `cells` that are not empty are valid numbers."""

    name: str
    valid: int
    cells: int


class MissingDestination(InvalidInput):
    """No column of the header is the destination. `columns`: those that look like phone numbers."""

    def __init__(self, message: str, columns: Sequence[PhoneColumn] = ()) -> None:
        if columns:
            shown = (f'"{quoted(each.name, 40)}" ({each.valid:,} of {each.cells:,} cells)' for each in columns[:5])
            message += f" Columns with valid numbers: {', '.join(shown)}."
        what_to_do = f"{message} Choose one with destination_column." if columns else message
        faults = [Fault("csv", "missing_destination", what_to_do)]
        super().__init__(message, faults, code="invalid_csv", columns=[asdict(column) for column in columns])
        self.columns = tuple(columns)


def find_destination(names: Sequence[str], chosen: str | None) -> int | None:
    """The place of the destination: the column that the user chose, or the first named one, called `destination`.

    Case matters in the chosen name only if several columns differ in nothing else.
    """
    if chosen is None:
        place = next((place for place, name in enumerate(names) if name), None)
        return place if place is not None and names[place].lower() == DESTINATION else None
    names, wanted = list(map(in_one_line, names)), in_one_line(chosen)
    if wanted and wanted in names:
        return names.index(wanted)
    similar = [place for place, name in enumerate(names) if name and name.lower() == wanted.lower()]
    return similar[0] if len(similar) == 1 else None


def may_be_header(record: Sequence[str], chosen: str | None) -> bool:
    """Whether a record has a destination, or begins with a column that an export added."""
    names = [trimmed(name) for name in record]
    return find_destination(names, chosen) is not None or begins_as_added(next(filter(None, names), ""))


def count_titles(records: Sequence[Sequence[str]], chosen: str | None) -> int:
    """How many of the first records are titles above the header. 0 if no record has the destination."""
    destinations = (find_destination([trimmed(name) for name in record], chosen) for record in records)
    return next((place for place, found in enumerate(destinations) if found is not None), 0)


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


def read_header(record: Sequence[str], added: Places = (), chosen: str | None = None) -> Header:
    """Read the header, without the columns that an export `added`. `chosen`: the name of the destination's column.

    Names must be unique without the spaces around them. Upper and lower case differ, except in `destination`: for a
    voice application, `Name` and `name` are two variables.
    Raises MissingDestination, and InvalidInput (`too_many_columns`, `repeated_column_name`, `nul_character`).
    """
    names = [trimmed(restored(name) if added else name) for name in record]
    named = [place for place, name in enumerate(names) if name]
    own = ["" if place in added and in_one_line(name) != chosen else name for place, name in enumerate(names)]
    destination = find_destination(own, chosen)
    if destination is None:
        first = next(filter(None, own), "")
        if "\0" in first:
            raise MissingDestination("The file seems to be UTF-16 without a byte order mark. Save it as UTF-8.")
        raise MissingDestination(
            f'The first column must be named "{DESTINATION}", but the first row begins with "{quoted(first, 40)}".'
            if chosen is None
            else f'The first row has no column "{quoted(chosen, 40)}".'
        )
    others = [place for place in named if own[place] and place != destination]
    width = named[-1] + 1
    if width - len(added) > MAX_COLUMNS:
        message = f"The header has {width - len(added):,} columns; at most {MAX_COLUMNS:,} are allowed."
        raise invalid_csv("too_many_columns", message)
    _check_names(names, destination, others)
    has_reasons = 0 < len(added) < len(RESULT_COLUMNS) - ADDED_LATER
    return Header(
        columns=tuple(restored(record[place]) if added else record[place] for place in others),
        places=(destination, *others),
        unnamed=tuple(place for place in range(width) if not names[place]),
        code=added[CODE_PLACE] if has_reasons else None,
        width=width,
        # In a file of skipped rows, the cells without a column follow the added columns.
        whole_width=width if has_reasons else len(record),
    )


def _check_names(names: Sequence[str], destination: int, places: Sequence[int]) -> None:
    seen = {DESTINATION, names[destination]}
    is_chosen = names[destination].lower() != DESTINATION
    faults = []
    for place in places:
        name = names[place]
        if "\0" in name:
            faults.append(Fault("csv", "nul_character", f"The name of column {place + 1} contains a NUL character."))
        elif LOST_DIGITS in name:
            faults.append(Fault("csv", "digits_lost", f"The name of column {place + 1} is a number that lost digits."))
        elif name in seen or (is_chosen and name.lower() == DESTINATION):
            faults.append(Fault("csv", "repeated_column_name", f'Two columns are named "{quoted(name, 40)}".'))
        seen.add(name)
    if faults:
        message = "The header cannot be used: " + faults[0].message
        raise InvalidInput(message, faults[:100], faults_total=len(faults), code="invalid_csv")
