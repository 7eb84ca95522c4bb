"""Any table, any bytes and any line: the CSV's reader and writer against made-up ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from receiver.errors import InvalidInput
from receiver.queueing.contacts import Contact, ContactReader
from receiver.text.csv_line import csv_line
from tests.queueing.test_contacts import read, sample, valid


def cells_of(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    # The characters that CSV is about must come often, or the quoting is hardly tried.
    return st.text(st.sampled_from("\",;\t|\r\n '") | alphabet, max_size=12)


def tables(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    return st.integers(0, 4).flatmap(
        lambda width: st.lists(st.lists(cells_of(alphabet), min_size=width, max_size=width), min_size=1, max_size=6)
    )


def without_nul(codec: str) -> st.SearchStrategy[str]:
    return st.characters(codec=codec, exclude_characters="\0")


TABLES_IN_ENCODINGS = st.one_of(
    st.tuples(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), tables(without_nul("utf-8"))),
    st.tuples(st.just("cp1252"), tables(without_nul("cp1252"))),
)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    TABLES_IN_ENCODINGS,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
@example(("utf-8", [["\r", "\n"], ["", '"']]), "\t", "\r", csv.QUOTE_MINIMAL)
def test_any_table_reads_back_the_same(
    encoded: tuple[str, list[list[str]]], delimiter: str, end: str, quoting: int
) -> None:
    encoding, table = encoded
    text = io.StringIO(newline="")
    quoting_style = cast("csv._QuotingType", quoting)  # type: ignore[name-defined, unused-ignore]
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting_style)
    writer.writerow(["destination", *(f"ä{number}" for number in range(len(table[0])))])
    # Python's writer quotes a line end only if it is the file's own, so another one would end the row.
    plain_rows = [
        [cell.replace("\r", end).replace("\n", end) if len(end) == 1 else cell for cell in row] for row in table
    ]
    for row in plain_rows:
        writer.writerow(["6175551234", *row])
    reader = ContactReader(io.BytesIO(text.getvalue().encode(encoding)), "US")
    assert [row.cells for row in valid(list(reader))] == [tuple(row) for row in plain_rows]
    assert len(reader.columns) == len(table[0])


PIECES = st.sampled_from(
    [
        b"destination",
        b",",
        b";",
        b"\n",
        b"\r",
        b'"',
        b"6175551234",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\x81",
        b" ",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([b"", b"destination", b"destination,a\n", b"\xff\xfe", "\ufeffdestination\n".encode("utf-16-be")]),
    st.lists(PIECES | st.binary(max_size=8), max_size=30),
)
def test_any_bytes_are_read_or_refused(head: bytes, pieces: list[bytes]) -> None:
    try:
        reader = ContactReader(io.BytesIO(head + b"".join(pieces)), "US")
        for number, row in enumerate(reader, 1):
            assert row.row == number
            assert "\0" not in row.destination + "".join(row.cells)
            "".join([row.destination, *row.cells]).encode()
    except InvalidInput as error:
        assert error.code == "invalid_csv"
        assert error.faults_total >= len(error.faults) > 0


def test_csv_lines_joined_are_the_csv_again() -> None:
    def again(rows: list[Contact]) -> Iterator[str]:
        yield csv_line(["destination", "first_name", "note"])
        for row in rows:
            yield csv_line([row.destination, *row.cells])

    _, rows = sample("csv/utf8-mark-quoted-newlines.csv")
    rewritten = "\r\n".join(again(valid(rows))).encode()
    assert read(rewritten) == rows
