"""Formulas are defused wherever a spreadsheet would begin a cell."""

from __future__ import annotations

import csv
from io import StringIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.text.csv_line import csv_line
from receiver.text.formulas import defuse, defuse_csv, restored


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(1)",
        "\t1",
        "\r1",
        "\n1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff201",
        "=",
        "@",
        "+1 617 555 1234",
        "-cmd|' /C calc'!A0",
        "+-1",
        "-1,x",
        '="1"',
        "+\u0661",
        '-"1"+1',
    ],
)
def test_formula_gets_an_apostrophe_in_every_column(cell: str) -> None:
    assert defuse(cell) == f"'{cell}"
    for cells in (["x", cell, "y"], [cell, "x", "y"], ["x", "y", cell], [cell, cell, 'a "b"']):
        block = (csv_line(["plain", "row", "1"]) + "\r\n" + csv_line(cells) + "\r\n").encode()
        rows = list(csv.reader(StringIO(defuse_csv(block).decode(), newline=""), strict=True))
        assert rows[1] == [f"'{one}" if one == cell else one for one in cells]


@pytest.mark.parametrize(
    ("cell", "defused"),
    [
        ('x;=HYPERLINK("http://evil.example/")', 'x;\'=HYPERLINK("http://evil.example/")'),
        ("x\n=1", "x\n'=1"),
        ("x\r=1", "x\r'=1"),
        ("x\r\n@now", "x\r\n'@now"),
        ("x\t=1", "x\t'=1"),
        (";=1", ";'=1"),
        ("=1;=2;3;+4+5", "'=1;'=2;3;'+4+5"),
        ("\t=1", "'\t'=1"),
        ('x;"=1"', 'x;"\'=1"'),
        ('x\n"" =1', 'x\n"" \'=1'),
        ("x;  =1", "x;  '=1"),
        ("x;\uff1d1", "x;'\uff1d1"),
        ("x;-1+1", "x;'-1+1"),
        ("x;-1,5+cmd|' /C calc'!A0", "x;'-1,5+cmd|' /C calc'!A0"),
        ("x\n+1,y", "x\n'+1,y"),
        ("+1;+2", "'+1;+2"),
        ("x;+\u0661", "x;'+\u0661"),
        ("'=1", "'''=1"),
        ("''=1", "'''''=1"),
        ("'+1 617 555 1234'", "'''+1 617 555 1234'"),
        ("'\n", "'''\n"),
        ("x;'=1", "x;'''=1"),
        ("'=1;=2", "'''=1;'=2"),
    ],
)
def test_formula_that_would_begin_within_a_cell_gets_an_apostrophe(cell: str, defused: str) -> None:
    """If the spreadsheet's separator is the semicolon or the tab, its cells differ from ours."""
    assert defuse(cell) == defused
    for cells in (["x", cell, "y"], [cell, "x", "y"], ["x", "y", cell]):
        block = (csv_line(["+16175551234", "a, b", "1"]) + "\r\n" + csv_line(cells) + "\r\n").encode()
        rows = list(csv.reader(StringIO(defuse_csv(block).decode(), newline=""), strict=True))
        assert rows[1] == [defused if one == cell else one for one in cells]


@pytest.mark.parametrize(
    "cell",
    [
        "call later; then write",
        "a;b;c",
        "a; b = c",
        "x;",
        "x;;",
        "1;-2;3",
        "6175551234;+16175551235",
        "a; -1.5 ;b",
        'x;"-1"',
        'one\ntwo, "three"\r\nfour\rfive\tsix',
        "x;\ufb01",
    ],
)
def test_separator_without_a_formula_changes_nothing(cell: str) -> None:
    assert defuse(cell) == cell
    block = (csv_line(["+16175551234", cell, cell]) + "\r\n").encode()
    assert defuse_csv(block) == block


@pytest.mark.parametrize(
    "cells",
    [
        ["a; b", "1;2"],
        ["a\tb", "c\td"],
        ["1 Main St\nBoston, MA", "x"],
        ["'Tis", 'the "season"'],
        ["-1.5", "2026-11-29"],
        ["", ""],
    ],
)
def test_block_without_a_formula_is_not_parsed(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing would take seven times as long."""
    monkeypatch.setattr("receiver.text.formulas.csv.reader", None)
    block = (csv_line(["+16175551234", *cells]) + "\r\n").encode() * 3
    assert defuse_csv(block) is block


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "1",
        "+16175551234",
        "-1",
        "-1.5",
        "+1,234.50",
        "-",
        "a=b",
        "a@b.c",
        " =1",
        "'a=1",
        "'+1",
        "1-2",
        "\u00ef",
        "\ufb01",
    ],
)
def test_cell_without_a_formula_stays_unchanged(cell: str) -> None:
    assert defuse(cell) == cell
    block = (csv_line(["x", cell, cell]) + "\r\n").encode()
    assert defuse_csv(block) == block


CELLS = st.text(st.sampled_from("=+-@\t\r\n,;\"'0159. ab\u00e9\uff1d\uff0b\uffe9"), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=4))
@example([["-1,=1", "x"], ['"=1', "+1"]])
@example([["", "\r\n=1"], ["x", "\n"]])
def test_block_is_defused_like_its_cells(rows: list[list[str]]) -> None:
    block = "".join(csv_line(cells) + "\r\n" for cells in rows).encode()
    defused = list(csv.reader(StringIO(defuse_csv(block).decode(), newline=""), strict=True))
    assert defused == [[defuse(cell) for cell in cells] for cells in rows]


@given(CELLS)
@example("'=1")
@example("\t\t=1")
@example("=1;'=2\n''-3+4")
@example("+5\n")
def test_defused_cell_is_restored_exactly(cell: str) -> None:
    exported = defuse(cell)
    assert restored(exported) == cell
    if exported != cell and exported.startswith("'"):
        # A spreadsheet may treat the first apostrophe as its own mark of a text, and not save it.
        assert restored(exported[1:]) == cell or not _is_defused_at_its_beginning(cell)


def _is_defused_at_its_beginning(cell: str) -> bool:
    return len(defuse(cell)) - len(defuse(cell).lstrip("'")) != len(cell) - len(cell.lstrip("'"))


@pytest.mark.parametrize(
    ("exported_by_release_1", "cell"),
    [
        ("'=1+1", "=1+1"),
        ("'+1 (617) 555-1248", "+1 (617) 555-1248"),
        ("x;'=1", "x;=1"),
        ("'Tis", "'Tis"),
        ("'+1", "'+1"),
    ],
)
def test_cell_that_release_1_defused_is_restored(exported_by_release_1: str, cell: str) -> None:
    assert restored(exported_by_release_1) == cell
