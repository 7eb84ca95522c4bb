"""The CSV as users really save it: encodings, delimiters, line ends, quoting, and what is wrong with it."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import pytest

from receiver.errors import InvalidInput
from receiver.queueing.contacts import Contact, ContactReader, InvalidRow
from receiver.queueing.csv_text import MAX_CELL, MAX_RECORD
from receiver.queueing.header import MAX_COLUMNS, MissingDestination, PhoneColumn
from receiver.queueing.parameters import read_parameters

SAMPLES = Path(__file__).parents[1] / "samples"
BOSTON = 16175551234


def read(content: bytes, region: str = "US") -> list[Contact | InvalidRow]:
    return list(ContactReader(io.BytesIO(content), region))


def faults(content: bytes) -> list[tuple[str | int, str]]:
    """Where and what, for a file that is refused as a whole; its messages must be sentences."""
    with pytest.raises(InvalidInput) as caught:
        read(content)
    assert caught.value.code == "invalid_csv"
    assert all(fault.message.endswith(".") for fault in caught.value.faults)
    return [(fault.where, fault.code) for fault in caught.value.faults]


def valid(rows: list[Contact | InvalidRow]) -> list[Contact]:
    contacts = [row for row in rows if isinstance(row, Contact)]
    assert len(contacts) == len(rows), rows
    return contacts


def sample(name: str) -> tuple[ContactReader, list[Contact | InvalidRow]]:
    with (SAMPLES / name).open("rb") as stream:
        reader = ContactReader(stream, "US")
        return reader, list(reader)


def test_documented_sample_is_read() -> None:
    reader, rows = sample("contacts.csv")
    assert (reader.encoding, reader.delimiter) == ("utf-8", ",")
    assert reader.columns == ("first_name", "appointment")
    assert valid(rows)[1] == Contact(2, "tel:+16175551299", 16175551299, None, ("Björn", "2026-12-01 10:00"))
    assert [row.postd for row in valid(rows)] == [None, None, None, "2"]


def test_german_excel_file_is_cp1252_with_semicolons() -> None:
    reader, rows = sample("csv/excel-german-cp1252.csv")
    assert (reader.encoding, reader.delimiter) == ("cp1252", ";")
    assert [row.cells for row in valid(rows)] == [("Ana", "kommt; später"), ("Jürgen", "10 €")]


def test_excel_unicode_text_is_utf16_with_tabs() -> None:
    reader, rows = sample("csv/excel-unicode-text-utf16.csv")
    assert (reader.encoding, reader.delimiter) == ("utf-16-le", "\t")
    assert [row.cells for row in valid(rows)] == [("Зоя", "Boston"), ("Chloé", 'a "quoted" word')]
    assert valid(rows)[1].destination == "16175551299"


def test_quoted_newlines_are_kept_and_blank_lines_not_counted() -> None:
    _, rows = sample("csv/utf8-mark-quoted-newlines.csv")
    assert [(row.row, row.cells) for row in valid(rows)] == [
        (1, ("Ana", "line one\nline two\r\nline three")),
        (2, ("Björn", "")),
    ]


def test_each_invalid_row_is_reported_in_its_place() -> None:
    _, rows = sample("csv/mixed-faults.csv")
    assert [(row.row, row.code if isinstance(row, InvalidRow) else "") for row in rows] == [
        (1, ""),
        (2, "destination_emergency"),
        (3, "destination_invalid"),
        (4, "destination_malformed"),
        (5, "too_many_cells"),
        (6, "destination_empty"),
        (7, ""),
        (8, "nul_character"),
    ]
    assert rows[4].cells == ("Ed", "extra")
    assert rows[6].cells == ("",)  # a short row is filled up
    assert rows[7].cells == ("G\u2400us",)


def test_quote_that_is_never_closed_names_the_row_it_opened_in() -> None:
    assert faults((SAMPLES / "csv/unclosed-quote.csv").read_bytes()) == [(2, "unclosed_quote")]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", [("csv", "empty_file")]),
        (b"\n\r\n  \n", [("csv", "empty_file")]),
        (b"\xef\xbb\xbf", [("csv", "empty_file")]),
        ("sep=;\n\u2003;\n".encode(), [("csv", "empty_file")]),
        (b"destination,name\n", [("csv", "no_rows")]),
        (b"destination,name\n\n \n", [("csv", "no_rows")]),
        (b"phone,name\n6175551234,Ana\n", [("csv", "missing_destination")]),
        (b"6175551234,Ana\n", [("csv", "missing_destination")]),
        (b"destinations,name\n6175551234,Ana\n", [("csv", "missing_destination")]),
        ("destination,a\n6175551234,b".encode("utf-16-le"), [("csv", "missing_destination")]),
        (b"destination,,b\n6175551234,1,2\n", [("csv", "empty_column_name")]),
        (
            b"destination,a, a,Destination,destination,\n",
            [("csv", "repeated_column_name"), ("csv", "repeated_column_name")],
        ),
        (b"destination,a\x00b\n6175551234,1\n", [("csv", "nul_character")]),
        (b'destination,"a\n6175551234,1\n', [("csv", "unclosed_quote")]),
        (b'"destination" ,a\n6175551234,1\n', [("csv", "malformed_quotes")]),
        (b'destination,a\n6175551234,1\n\n6175551299,"x"y"\n', [(2, "malformed_quotes")]),
        (b"destination,a\n6175551234,\xe4\n6175551299,\x81\n", [(2, "undecodable")]),
        (b"destination,\x81\n6175551234,a\n", [("csv", "undecodable")]),
        (b"\xef\xbb\xbfdestination,a\n6175551234,b\n\n\xe4,b\n", [(2, "undecodable")]),
        ("\ufeffdestination,a\n6175551234,b".encode("utf-16-le") + b"x", [(1, "undecodable")]),
        (
            b"\xfe\xff" + "destination,a\n6175551234,".encode("utf-16-be") + b"\xd8\x00\x00a",
            [(1, "undecodable")],
        ),
        (
            b"destination,a\n6175551234,1\n6175551299," + b"x" * (MAX_CELL + 1),
            [(2, "cell_too_long")],
        ),
        (
            b'destination,a\n\n6175551234,1\n6175551299,"' + b"x\n" * MAX_CELL,
            [(2, "cell_too_long")],
        ),
        (b"destination,a\n6175551234,1\n6175551299" + b",1" * MAX_RECORD, [(2, "row_too_long")]),
        (b"destination,a\n6175551234" + b',"1\n"' * MAX_RECORD, [(1, "row_too_long")]),
    ],
)
def test_file_that_cannot_be_taken_is_refused_with_the_place(
    content: bytes, found: list[tuple[str | int, str]]
) -> None:
    assert faults(content) == found


def test_undecodable_row_is_found_behind_quoted_newlines_and_many_blocks() -> None:
    rows = b'6175551234,"two\nlines"\n\n' * 20_000
    assert faults(b"destination,a\n" + rows + b"6175551234,\x81\xe4\n" + rows) == [(20_001, "undecodable")]


@pytest.mark.parametrize("content", [b"\x1b[2J\x85\x7f,a\n", b"destination,\x1b[2J\xad\x7f,\x1b[2J\xad\x7f\n"])
def test_message_shows_nothing_that_a_terminal_would_obey(content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(content)
    assert str(caught.value).isprintable()
    assert "\u241b[2J" in str(caught.value) and "\u2421" in str(caught.value)


def test_header_of_too_many_columns_is_refused_before_its_names_are_looked_at() -> None:
    """Short rows are filled up to its width, so a wide header and short rows would come to gigabytes."""
    header = b"destination" + b"".join(b",c%d" % number for number in range(MAX_COLUMNS - 1))
    (row,) = valid(read(header + b"\n6175551234\n"))
    assert len(row.cells) == MAX_COLUMNS - 1
    assert faults(header + b",one more\n6175551234\n") == [("csv", "too_many_columns")]
    assert faults(b"destination" + b"," * 1_000_000 + b"a\n6175551234\n") == [("csv", "too_many_columns")]
    assert len(valid(read(b"destination" + b"," * 1_000_000 + b"\n6175551234\n"))[0].cells) == 0


def test_cell_of_the_greatest_length_is_kept() -> None:
    content = b"destination,a\n6175551234," + b"x" * MAX_CELL + b"\n6175551299,y\n"
    assert [len(row.cells[0]) for row in valid(read(content))] == [MAX_CELL, 1]


def test_many_blank_lines_are_no_long_row() -> None:
    content = b"destination\n" + b"\n" * (3 * MAX_RECORD) + b"6175551234\n"
    assert [row.row for row in valid(read(content))] == [1]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_single_column_file_needs_no_delimiter(end: bytes) -> None:
    rows = valid(read(end.join([b" Destination ", b"6175551234", b"", b"  ", b'""', b"6175551299"])))
    assert [(row.row, row.phone_number, row.cells) for row in rows] == [(1, BOSTON, ()), (2, 16175551299, ())]


def test_characters_that_only_unicode_calls_line_ends_stay_in_their_cell() -> None:
    note = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    assert valid(read(f"destination,note\n6175551234,{note}\n".encode()))[0].cells == (note,)


@pytest.mark.parametrize("length", range(65_500, 65_560))
def test_row_is_whole_wherever_a_block_ends(length: int) -> None:
    filler = "ä" * ((length - 30) // 2) + "x" * (length % 2)
    content = f"destination,a\r\n6175551234,{filler}\r\n6175551299,ü\r\n"
    assert [row.cells[0] for row in valid(read(content.encode()))] == [filler, "ü"]
    assert [row.cells[0] for row in valid(read(content.encode("utf-16")))] == [filler, "ü"]


def test_nul_is_found_in_a_row_that_ends_blocks_later() -> None:
    content = b'destination,a\n6175551234,"x\x00\n' + b"y\n" * 60_000 + b'"\n'
    (row,) = read(content)
    assert isinstance(row, InvalidRow)
    assert row.code == "nul_character"


def test_reader_can_be_iterated_again_and_leaves_the_stream_open() -> None:
    with SpooledTemporaryFile(max_size=64) as stream:
        stream.write(b"destination,a\n" + b"6175551234,x\n" * 1000)
        reader = ContactReader(cast(BinaryIO, stream), "US")
        first = list(reader)
        assert list(reader) == first
        assert len(first) == 1000
        partly = iter(reader)
        next(partly)
        del partly
        assert not stream.closed


def test_unknown_region_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="ZZ"):
        ContactReader(io.BytesIO(b"destination\n6175551234"), "ZZ")


class Endless(io.RawIOBase):
    """A file of a given number of equal rows, which takes no memory itself."""

    def __init__(self, header: bytes, row: bytes, rows: int) -> None:
        self._header, self._row, self._size = header, row, len(header) + len(row) * rows
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        end = min(self._at + size, self._size)
        begin, self._at = self._at, max(self._at, end)
        head = self._header[begin:end]
        first = max(begin, len(self._header)) - len(self._header)
        last = max(end, len(self._header)) - len(self._header)
        skip = first % len(self._row)
        return head + (self._row * ((last - first) // len(self._row) + 2))[skip : skip + last - first]


def test_memory_does_not_grow_with_the_file() -> None:
    stream = cast(BinaryIO, Endless(b"destination,a,b\n", b"6175551234,Ana,hello world\n", 30_000))
    assert len(list(ContactReader(cast(BinaryIO, Endless(b"destination,a,b\n", b"6175551234,,\n", 3)), "US"))) == 3
    tracemalloc.start()
    try:
        count = sum(isinstance(row, Contact) for row in ContactReader(stream, "US"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        (b"sep=;", ";"),
        (b"SEP=,", ","),
        (b"sep=\t", "\t"),
        (b"sep=|", "|"),
        (b"sep=^", "^"),
        (b'"sep=;"', ";"),
        (b"sep=;;;", ";"),
        (b"\r\n;;\r\nsep=;", ";"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_sep_line_gives_the_delimiter(line: bytes, delimiter: str, encoding: str, end: str) -> None:
    rows = ["Destination;näme;x", "", '6175551234;"a,b";', ";;", '6175551299;"c;d";1']
    lines = [*line.decode().split("\r\n"), *(row.replace(";", delimiter) for row in rows)]
    reader = ContactReader(io.BytesIO(end.join(lines).encode(encoding)), "US")
    assert (reader.delimiter, reader.columns) == (delimiter, ("näme", "x"))
    assert [row.cells for row in valid(list(reader))] == [("a,b", ""), (f"c{delimiter}d", "1")]


@pytest.mark.parametrize(
    "line", [b"sep=", b"sep=1", b"sep=a", b"sep=.", b"sep=-", b"sep=+", b"sep= ", b'sep="', b"sep=;,"]
)
def test_sep_line_with_what_numbers_are_written_with_is_refused(line: bytes) -> None:
    assert faults(line + b"\r\ndestination;a\r\n6175551234;b\r\n") == [("csv", "missing_destination")]


def test_sep_line_holds_against_another_delimiter_in_the_header() -> None:
    assert faults(b"sep=,\r\ndestination;a\r\n6175551234;b\r\n") == [("csv", "missing_destination")]
    assert faults(b"sep=;\r\n") == [("csv", "empty_file")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_lines_of_delimiters_are_ignored_and_not_counted(delimiter: str) -> None:
    text = ',,\n , ,\n"",""\ndestination,a,b\n,,\n6175551234,1,\n,\n,,,,,\n" ", ,\n6175551299,,2\n,,\n'
    rows = valid(read(text.replace(",", delimiter).encode()))
    assert [(row.row, row.cells) for row in rows] == [(1, ("1", "")), (2, ("", "2"))]


def test_header_is_found_behind_any_number_of_blank_lines() -> None:
    content = b",,\r\n" * 50_000 + b" " * 70_000 + b"\r\n" + b"destination;a\r\n6175551234;b\r\n"
    assert [row.cells for row in valid(read(content))] == [("b",)]
    assert faults(b",,\r\n" * 50_000) == [("csv", "empty_file")]


def test_columns_without_name_and_value_are_ignored() -> None:
    for header, row in (
        ("destination,a,,", "6175551234,1,,"),
        ("destination,a,,", "6175551234,1"),
        ("destination,a,,", "6175551234,1,,,,  ,"),
        ("destination,,a", "6175551234,,1"),
        (",destination,,a,", ",6175551234, ,1"),
        ("destination,a", "6175551234,1,,,,"),
    ):
        reader = ContactReader(io.BytesIO(f"{header}\n{row}\n".encode()), "US")
        assert reader.columns == ("a",)
        assert [(contact.destination, contact.cells) for contact in valid(list(reader))] == [("6175551234", ("1",))]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("destination,a,,", "6175551234,1,2"),
        ("destination,a,,", "6175551234,1,,2,3"),
        ("destination,,a", "6175551234,2,1"),
        (",destination,a", "0,6175551234,1"),
    ],
)
def test_value_under_a_column_without_a_name_is_refused(header: str, row: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(f"{header}\n6175551299\n{row}\n".encode() if header[0] != "," else f"{header}\n{row}\n".encode())
    (fault,) = caught.value.faults
    assert (fault.where, fault.code) == ("csv", "empty_column_name")
    assert "has no name, but row" in fault.message


def test_only_filled_cells_beyond_the_header_are_too_many() -> None:
    first, second = read(b"destination,a\n6175551234,1,,\n6175551299,1,,x,\n")
    assert isinstance(first, Contact) and first.cells == ("1",)
    assert isinstance(second, InvalidRow)
    assert (second.code, second.cells) == ("too_many_cells", ("1", "", "x"))
    assert second.message == "The row has 4 cells, 2 more than the header."


def test_nul_beyond_the_header_is_shown_as_its_symbol() -> None:
    (row,) = read(b"destination,a\n6175551234,1,\0\n")
    assert isinstance(row, InvalidRow) and (row.code, row.cells) == ("nul_character", ("1", "\u2400"))


def test_destination_is_trimmed_and_no_other_cell_is() -> None:
    content = '"\u200b Destination\n", a\n"\u202a6175551234\u202c\n"," \n Ana\t"\n" 617 555 1299\t",\n'.encode()
    reader = ContactReader(io.BytesIO(content), "US")
    assert reader.columns == (" a",)
    assert [(row.destination, row.cells) for row in valid(list(reader))] == [
        ("6175551234", (" \n Ana\t",)),
        ("617 555 1299", ("",)),
    ]


def test_invalid_destination_is_kept_as_it_was_written() -> None:
    (row,) = read(b'destination\n" 911\n"\n')
    assert isinstance(row, InvalidRow) and row.destination == " 911\n"


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", ","])
def test_delimiter_is_seen_behind_a_header_of_one_name(delimiter: str) -> None:
    reader = ContactReader(io.BytesIO(f"destination{delimiter}\n6175551234{delimiter}\n".encode()), "US")
    assert (reader.delimiter, reader.columns) == (delimiter, ())
    assert len(valid(list(reader))) == 1


@pytest.mark.parametrize("text", ["'6175551234", "'6175551234'", " '+1 617 555 1234 ' ", "''6175551234''"])
def test_apostrophes_around_a_number_are_not_sent(text: str) -> None:
    """A spreadsheet writes them to keep a number as text. The provider may not know them."""
    (contact,) = valid(read(f"destination\n{text}\n".encode()))
    assert contact.destination == text.strip("' ") and contact.phone_number == BOSTON


@pytest.mark.parametrize("chosen", ["Phone\nnumber", "Phone\r\nnumber", "phone number", " Phone  number "])
def test_column_with_a_line_break_in_its_name_can_be_chosen(chosen: str) -> None:
    """In a workbook, a header cell is often broken into lines. A form sends a line break as two characters."""
    content = io.BytesIO(b'name,"Phone\nnumber"\nAna,6175551234\n')
    form = {"application_id": "7", "deployment_id": "3", "destination_column": chosen}
    reader = ContactReader(content, "US", read_parameters(form, "US").destination_column)
    assert reader.columns == ("name",) and valid(list(reader))[0].phone_number == BOSTON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Our customers\nphone,name\n6175551234,Ana\n", 'the first row begins with "Our customers". '),
        (b"name,Phone,Phone\nAna,6175551234,6175551299\n", 'the first row begins with "name".'),
        (
            b"name,Phone\nAna,6175551234\n",
            'Columns with valid numbers: "Phone" (1 of 1 cells). Choose one with destination_column.',
        ),
        ("destination,a\n6175551234,b".encode("utf-16-le"), "Save it as UTF-8."),
    ],
)
def test_missing_destination_says_what_to_do(content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(content)
    assert message in f"{caught.value.faults[0].message} " and "Choose" not in str(caught.value)
    assert message.startswith("Columns") or '"Phone" (' not in caught.value.faults[0].message


TITLED = b"""Riverside Clinic,,
exported by Pat,2026-11-28,

Patient,Mobile,Notes
Ana,6175551234,"likes mornings
and has a dog"
Dev,555,
"""


def test_header_is_found_below_titles() -> None:
    reader = ContactReader(io.BytesIO(TITLED), "US", "mobile")
    assert reader.columns == ("Patient", "Notes")
    assert [(warning.where, warning.code) for warning in reader.warnings] == [("csv", "title_rows")]
    assert reader.warnings[0].message == "2 rows above the header are left out."
    ana, dev = list(reader)
    assert isinstance(ana, Contact) and isinstance(dev, InvalidRow)
    assert (ana.row, ana.line_no, ana.phone_number) == (1, 5, BOSTON)
    assert (dev.row, dev.line_no) == (2, 6)
    reader = ContactReader(io.BytesIO(b"A title\ndestination\n6175551234\n"), "US")
    assert [row.row for row in reader] == [1]
    assert reader.warnings[0].message == "1 row above the header is left out."


def test_columns_of_numbers_are_found_below_titles() -> None:
    with pytest.raises(MissingDestination) as caught:
        read(TITLED)
    assert caught.value.columns == (PhoneColumn("Mobile", 1, 2),)


def test_a_header_that_is_too_short_is_not_taken_for_a_title() -> None:
    with pytest.raises(MissingDestination) as caught:
        read(b"Mobile\n6175551234,Ana,,a note\n")
    assert caught.value.columns == (PhoneColumn("Mobile", 1, 1),)


def test_rows_below_titles_are_numbered_from_the_header() -> None:
    with pytest.raises(InvalidInput) as caught:
        list(ContactReader(io.BytesIO(TITLED + b'Erin,"6175551234'), "US", "Mobile"))
    assert [(fault.where, fault.code) for fault in caught.value.faults] == [(3, "unclosed_quote")]
