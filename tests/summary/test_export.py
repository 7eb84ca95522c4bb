"""Exports against what spreadsheets run, what Postgres escapes, and batches that change or go meanwhile."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import BytesIO, StringIO

import pytest

from receiver.database.pool import Connection, Pool, open_pool
from receiver.database.replica import Reader
from receiver.errors import NotFound
from receiver.queueing import stored_rows
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.exported import RESULT_COLUMNS
from receiver.queueing.parameters import BatchParameters
from receiver.summary.export import (
    export_calls_csv,
    export_calls_ndjson,
    export_skipped_csv,
)
from receiver.text.csv_line import csv_line
from tests.factories import (
    NOON,
    REFUSED,
    answer_submissions,
    deliver,
    make_batch,
    phone_number,
    purge_batch,
    result_body,
)


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    pool = open_pool(database_url, max_size=1, name="test export")
    try:
        yield pool
    finally:
        pool.close(timeout=2)


def queue(conn: Connection, text: str, **parameters: object) -> int:
    given = BatchParameters(application_id=7, deployment_id=3, **{"on_invalid": "skip", **parameters})  # type: ignore[arg-type]
    batch_id = accept(conn, BytesIO(text.encode()), given, Limits(10_000, 3600)).batch_id
    conn.commit()
    answer_submissions(conn)
    return batch_id


def rows_of(blocks: Iterator[bytes]) -> list[dict[str, str]]:
    text = b"".join(blocks).decode()
    assert text.endswith("\r\n")
    header, *rows = csv.reader(StringIO(text, newline=""), strict=True)
    assert len(set(header)) == len(header)
    return [dict(zip(header, row, strict=True)) for row in rows]


# Calls --------------------------------------------------------------------------------------------


def test_calls_in_every_state(conn: Connection, pool: Pool) -> None:
    numbers = [phone_number(index) for index in range(4)]
    batch_id = make_batch(conn, numbers)
    deliver(
        conn,
        batch_id,
        result_body(numbers[0]),
        result_body(numbers[1], 'odd, "new" one'),
        result_body(numbers[2], "dialing"),
    )
    conn.execute("update callback set received_at = %s", (NOON,))
    conn.execute("update result set received_at = %s + interval '0.999999 s'", (NOON,))
    conn.commit()
    first, second, third, fourth = rows_of(export_calls_csv(Reader(pool), batch_id))
    assert list(first) == ["destination", "name", *RESULT_COLUMNS]
    assert first == {
        "destination": str(numbers[0]),
        "name": "Ana",
        "row": "1",
        "phone_number": f"+{numbers[0]}",
        "state": "final",
        "outcome": "completed",
        "provider_status": "completed",
        "attempts": "1",
        "max_attempts": "3",
        "queued_at": "2026-03-01T12:00:00Z",
        "started_at": "",
        "ended_at": "2026-03-01T12:01:00Z",
        "duration_seconds": "30",
        "result_received_at": "2026-03-01T12:00:00.999999Z",
        "result_source": "callback",
        "withdrawn_reason": "",
    }
    assert (second["outcome"], second["provider_status"]) == ("other", 'odd, "new" one')
    assert (third["state"], third["outcome"], third["provider_status"]) == ("pending", "", "dialing")
    assert (third["result_received_at"], third["result_source"]) == ("", "")
    assert [fourth[name] for name in RESULT_COLUMNS] == ["4", f"+{numbers[3]}", "pending", *[""] * 11]


def test_refused_and_overdue_calls_show_their_state(conn: Connection, pool: Pool) -> None:
    refused = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    overdue = make_batch(conn, past_due=True)
    assert [rows_of(export_calls_csv(Reader(pool), batch_id))[0]["state"] for batch_id in (refused, overdue)] == [
        "refused",
        "overdue",
    ]


def test_cells_of_the_user_are_exported_unchanged(conn: Connection, pool: Pool) -> None:
    cells = [
        'say "hi"',
        "a,b",
        "line\none",
        "line\r\ntwo",
        "\\n \\, \\\\",
        "  spaced  ",
        "Zoë \U0001f600",
        "",
        "\x01\x1f",
    ]
    columns = [f"column {number}" for number in range(len(cells))]
    batch_id = queue(conn, f"{csv_line(['destination', *columns])}\n{csv_line(['6175551234', *cells])}\n")
    (row,) = rows_of(export_calls_csv(Reader(pool), batch_id))
    assert [row[column] for column in columns] == cells


def test_formulas_in_cells_header_and_status_are_defused(conn: Connection, pool: Pool) -> None:
    batch_id = queue(conn, "destination,=name,phone\n6175551234,=1+1,+16175551234\n6175551235,Ana,-2\n")
    deliver(conn, batch_id, result_body(16175551234, "@now"))
    first, second = rows_of(export_calls_csv(Reader(pool), batch_id))
    assert (first["'=name"], first["phone"], first["provider_status"]) == ("'=1+1", "+16175551234", "'@now")
    assert (second["'=name"], second["phone"]) == ("Ana", "-2")


def test_users_columns_with_our_names_keep_their_names(conn: Connection, pool: Pool) -> None:
    batch_id = queue(conn, "destination,state,result_state,row\n6175551234,MA,NH,seven\n")
    (row,) = rows_of(export_calls_csv(Reader(pool), batch_id))
    assert (row["state"], row["result_state"], row["row"]) == ("MA", "NH", "seven")
    assert (row["result_result_state"], row["result_row"]) == ("pending", "1")


def test_blocks_together_are_one_file(conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int | str] = [phone_number(index) for index in range(23)]
    numbers[5:12] = ["nobody"] * 7
    batch_id = make_batch(conn, numbers, on_invalid="skip")
    kinds = (export_calls_csv, export_skipped_csv, export_calls_ndjson)
    whole = {what: b"".join(what(Reader(pool), batch_id)) for what in kinds}
    assert (whole[export_calls_csv].count(b"\r\n"), whole[export_skipped_csv].count(b"\r\n")) == (17, 8)
    for rows in (1, 4, 5, 23, 24):
        monkeypatch.setattr(stored_rows, "BLOCK_ROWS", rows)
        monkeypatch.setattr(stored_rows, "BLOCK_ROWS", rows)
        for what, content in whole.items():
            assert b"".join(what(Reader(pool), batch_id)) == content


def test_wide_rows_are_exported_in_small_blocks(conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "BLOCK_BYTES", 50_000)
    lines = "".join(f"{phone_number(index)},{'x' * 20_000}\n" for index in range(10))
    blocks = list(export_calls_csv(Reader(pool), queue(conn, f"destination,note\n{lines}")))
    assert len(blocks) == 1 + 5
    assert max(map(len, blocks)) < 50_000


# Skipped rows -------------------------------------------------------------------------------------


def test_skipped_rows_show_the_reason_and_can_be_queued_again(conn: Connection, pool: Pool) -> None:
    text = "destination,name\n6175551234,Ana\n555,=Ben\n6175551234,Cleo\n6175551235,Dan,more,cells\nnobody\n"
    batch_id = queue(conn, text, on_duplicate="skip")
    content = b"".join(export_skipped_csv(Reader(pool), batch_id)).decode()
    header, *rows = csv.reader(StringIO(content, newline=""), strict=True)
    assert header == ["destination", "name", "row", "code", "message"]
    assert [row[:4] for row in rows] == [
        ["555", "'=Ben", "2", "destination_invalid"],
        ["6175551234", "Cleo", "3", "duplicate"],
        ["6175551235", "Dan", "4", "too_many_cells"],
        ["nobody", "", "5", "destination_malformed"],
    ]
    assert all(row[4] for row in rows)
    assert rows[2][5:] == ["more", "cells"]


def test_file_without_skipped_rows_is_only_a_header(conn: Connection, pool: Pool) -> None:
    assert list(export_skipped_csv(Reader(pool), make_batch(conn))) == [b"destination,name,row,code,message\r\n"]


# NDJSON -------------------------------------------------------------------------------------------


def test_ndjson_has_one_call_per_line(conn: Connection, pool: Pool) -> None:
    batch_id = queue(conn, 'destination,note\n6175551234,"a\nb\u2028"\n6175551235,Zoë\n')
    lines = b"".join(export_calls_ndjson(Reader(pool), batch_id)).decode().split("\n")
    assert lines.pop() == ""
    calls = [json.loads(line) for line in lines]
    assert [call["variables"]["note"] for call in calls] == ["a\nb\u2028", "Zoë"]


# During an export ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [export_calls_csv, export_skipped_csv, export_calls_ndjson])
def test_unknown_batch_is_reported_before_the_first_block(pool: Pool, what: object) -> None:
    with pytest.raises(NotFound):
        what(Reader(pool), 99)  # type: ignore[operator]


@pytest.mark.parametrize("what", [export_calls_csv, export_skipped_csv, export_calls_ndjson])
def test_export_of_a_batch_that_is_purged_meanwhile_fails(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch, what: object
) -> None:
    monkeypatch.setattr(stored_rows, "BLOCK_ROWS", 2)
    monkeypatch.setattr(stored_rows, "BLOCK_ROWS", 2)
    batch_id = make_batch(conn, [phone_number(index) for index in range(6)])
    blocks = what(Reader(pool), batch_id)  # type: ignore[operator]
    next(blocks)
    purge_batch(conn, batch_id)
    with pytest.raises(NotFound):
        list(blocks)


@pytest.mark.parametrize("what", [export_calls_csv, export_skipped_csv, export_calls_ndjson])
def test_export_holds_no_connection_between_two_blocks(conn: Connection, pool: Pool, what: object) -> None:
    batch_id = make_batch(conn, [phone_number(0), "nobody"], on_invalid="skip")
    blocks = what(Reader(pool), batch_id)  # type: ignore[operator]
    next(blocks)
    with pool.connection(timeout=30) as only_one:
        only_one.execute("select 1")
    blocks.close()
