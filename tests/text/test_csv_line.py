"""A row becomes one line of CSV, and can be read back."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from receiver.text.csv_line import csv_line, read_csv_line
from tests.queueing.test_contacts_made_up import cells_of


@settings(max_examples=300, deadline=None)
@given(st.lists(cells_of(st.characters()), max_size=6))
@example([""])
@example([])
@example(["", ""])
@example([" leading", "trailing ", "\r", 'a"b', "\n\n", "\ud800", "\0"])
def test_csv_line_has_an_exact_inverse(cells: list[str]) -> None:
    assert read_csv_line(csv_line(cells)) == cells


def test_csv_line_quotes_only_where_needed() -> None:
    assert csv_line(["6175551234", "Ana", "a, b", 'c "d"', "e\nf"]) == '6175551234,Ana,"a, b","c ""d""","e\nf"'
