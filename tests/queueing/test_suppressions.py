"""Suppressed numbers: added, found, removed, and erased without being called again."""

from __future__ import annotations

import io
import threading
from contextlib import closing

import pytest

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.database.pool import Connection, DatabaseUnavailable, connect
from receiver.errors import InvalidInput, NotFound
from receiver.queueing import suppression_files
from receiver.queueing.suppression_files import Imported, read_numbers, suppress_file
from receiver.queueing.suppressions import (
    delete_suppression,
    erase_suppression,
    find_suppressed,
    list_suppressions,
    suppress,
    suppress_all,
    unsuppress,
)
from tests.factories import make_batch, phone_number, read_batch
from tests.results.test_erasure import erase_all

NUMBER, OTHER, THIRD = (phone_number(index) for index in range(3))


def imported(conn: Connection, csv: str | bytes, reason: str | None = None, note: str | None = None) -> Imported:
    content = csv.encode() if isinstance(csv, str) else csv
    done = suppress_file(conn, read_numbers(io.BytesIO(content), "US", reason), by="Ana", note=note)
    conn.commit()
    return done


def reasons(conn: Connection) -> dict[int | None, str | None]:
    return {each.phone_number: each.reason for each in list_suppressions(conn, 100)}


def test_suppressed_number_is_found_and_no_other(conn: Connection) -> None:
    suppress(conn, NUMBER, by="Ana")
    assert find_suppressed(conn, [OTHER, NUMBER, THIRD]) == {NUMBER}
    unsuppress(conn, NUMBER, by="Ana")
    assert find_suppressed(conn, [OTHER, NUMBER]) == set()


def test_many_erased_numbers_are_found_among_others(conn: Connection) -> None:
    numbers = [phone_number(index) for index in range(20)]
    suppress_all(conn, dict.fromkeys(numbers[:10]), by="Ana")
    for number in numbers[:5]:
        assert erase_suppression(conn, number) == 1
    assert find_suppressed(conn, numbers) == set(numbers[:10])


def test_entry_that_is_there_stays_as_it_is(conn: Connection) -> None:
    first, is_new = suppress(conn, NUMBER, by="Ana", reason="opted_out", note="by mail")
    assert is_new and (first.reason, first.note, first.created_by) == ("opted_out", "by mail", "Ana")
    assert suppress(conn, NUMBER, by="Ben", reason="other") == (first, False)


def test_removing_what_is_not_there_is_an_error(conn: Connection) -> None:
    with pytest.raises(NotFound):
        unsuppress(conn, NUMBER, by="Ana")
    with pytest.raises(NotFound):
        delete_suppression(conn, 1, by="Ana")


def test_erased_number_keeps_its_hash_and_is_still_not_called(conn: Connection) -> None:
    suppress(conn, NUMBER, by="Ana", reason="opted_out", note="asked by mail")
    conn.commit()
    assert erase_all(conn).suppressions == 1
    (left,) = list_suppressions(conn, 10)
    assert (left.phone_number, left.reason, left.note) == (None, "opted_out", None)
    assert find_suppressed(conn, [NUMBER, OTHER]) == {NUMBER}
    assert list_suppressions(conn, 10, phone_numbers=[NUMBER]) == [left]
    assert list_suppressions(conn, 10, phone_numbers=[OTHER]) == []
    assert suppress(conn, NUMBER, by="Ben") == (left, False)
    conn.commit()
    batch_id = make_batch(conn, [NUMBER, OTHER])
    counts = read_batch(conn, batch_id).counts
    assert (counts["skipped"], counts["pending"]) == (1, 1)
    unsuppress(conn, NUMBER, by="Ana")
    assert find_suppressed(conn, [NUMBER]) == set()


def test_number_that_is_not_suppressed_is_not_by_its_erasure(conn: Connection) -> None:
    suppress(conn, OTHER, by="Ana")
    conn.commit()
    assert erase_all(conn).suppressions == 0
    assert find_suppressed(conn, [NUMBER, OTHER]) == {OTHER}


# Files


def test_file_adds_each_number_once_and_reports_the_rest(conn: Connection) -> None:
    suppress(conn, OTHER, by="Ana", reason="first")
    csv = (
        "name,Phone_Number ,reason\nAna,617-555-0000,opted_out\nBen,+16175550001,again\nCy,(617) 555-0002,\n"
        "Ana,6175550000,twice\nDev,555,\n,,\n"
    )
    done = imported(conn, csv, reason="list of May", note="from the regulator")
    assert (done.added, done.present, done.invalid) == (2, 2, 1)
    assert [(fault.where, fault.code) for fault in done.errors] == [(5, "destination_invalid")]
    assert reasons(conn) == {NUMBER: "opted_out", OTHER: "first", THIRD: "list of May"}
    assert {each.note for each in list_suppressions(conn, 10) if each.phone_number != OTHER} == {"from the regulator"}
    assert imported(conn, csv).added == 0


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_file_is_read_in_each_encoding_and_delimiter(conn: Connection, delimiter: str, encoding: str) -> None:
    rows = [["reason", "phone_number"], ["wünscht es", str(NUMBER)], ["", str(OTHER)]]
    csv = "\r\n".join(delimiter.join(row) for row in rows).encode(encoding)
    assert imported(conn, csv).added == 2
    assert reasons(conn) == {NUMBER: "wünscht es", OTHER: None}


def test_file_of_numbers_alone_and_an_export_are_read(conn: Connection) -> None:
    assert imported(conn, f"phone_number\n{NUMBER}\n").added == 1
    assert imported(conn, f"destination,phone_number,outcome\nx,'+{OTHER},failed\nx,+{THIRD},failed\n").added == 2


def test_faulty_reason_leaves_its_row_out(conn: Connection) -> None:
    done = imported(conn, f"phone_number,reason\n{NUMBER},{'x' * 201}\n{OTHER},a\0b\n{THIRD},{'x' * 200}\n")
    assert (done.added, [fault.code for fault in done.errors]) == (1, ["too_long", "nul_character"])


@pytest.mark.parametrize(
    ("csv", "code"),
    [
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"number\n6175550000\n", "missing_phone_number"),
        (b"PK\x03\x04", "broken_workbook"),
        (b"phone_number\n6175550000\n\x81\n", "undecodable"),
        (b'phone_number\n6175550000\n"617', "unclosed_quote"),
    ],
)
def test_file_that_cannot_be_read_adds_nothing(conn: Connection, csv: bytes, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        imported(conn, csv)
    assert (caught.value.code, caught.value.faults[0].code) == ("invalid_csv", code)
    assert reasons(conn) == {}


def test_import_that_fails_keeps_its_blocks_and_says_how_many_it_added(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is committed, so nobody waits for the complete import."""
    monkeypatch.setattr(suppression_files, "STORED_AT_ONCE", 2)
    csv = f"phone_number\n{THIRD}\n{OTHER}\n{NUMBER}\n".encode()
    conn.execute(
        "create function lose_connection() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$"
    )
    conn.execute(
        "create trigger lose_connection before insert on suppression for each row"
        f" when (new.phone_number = {THIRD}) execute function lose_connection()"
    )
    conn.commit()
    with (
        pytest.raises(DatabaseUnavailable, match=r" 2 numbers were added before\."),
        closing(connect(database_url, name="test")) as theirs,
    ):
        suppress_file(theirs, read_numbers(io.BytesIO(csv), "US"), by="Ana")
    assert set(reasons(conn)) == {NUMBER, OTHER}
    assert [each.details for each in list_changes(conn, ChangeFilter(), 10)] == [{"added": 2, "present": 0}]
    conn.execute("drop trigger lose_connection on suppression")
    conn.commit()
    done = imported(conn, csv)
    assert (done.added, done.present) == (1, 2)


def test_two_files_in_different_orders_do_not_wait_for_each_other(conn: Connection, database_url: str) -> None:
    """All writers insert in the order of the numbers. The second waits for the first, and adds what that did not."""
    numbers = [phone_number(index) for index in range(200)]
    done: list[int] = []
    suppress_all(conn, dict.fromkeys(numbers[100:]), by="Ana")

    def other() -> None:
        with connect(database_url, name="test") as theirs:
            done.append(suppress_all(theirs, dict.fromkeys(reversed(numbers)), by="Ben"))

    thread = threading.Thread(target=other)
    thread.start()
    suppress_all(conn, dict.fromkeys(numbers[150:]), by="Ana")
    conn.commit()
    thread.join()
    assert done == [100]
    assert find_suppressed(conn, numbers) == set(numbers)
