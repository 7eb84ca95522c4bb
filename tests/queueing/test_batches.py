"""A batch in the database: whole, or not at all."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from receiver.database.pool import Connection, connect
from receiver.errors import InvalidInput
from receiver.queueing import submissions
from receiver.queueing.acceptance import accept, preview
from receiver.queueing.parameters import BatchParameters
from receiver.summary.batches import get_batch
from receiver.summary.verify import verify
from tests.queueing.queueing import LIMITS, contacts_csv, csv_of, from_now, number, queue

TABLES = ("batch", "submission", "call", "skipped", "outstanding", "batch_count", "idempotency")


def filled_tables(conn: Connection) -> list[str]:
    """Names of the tables that hold a row."""
    filled = [name for name in TABLES if conn.execute(f"select from {name} limit 1".encode()).fetchone()]
    conn.rollback()
    return filled


def refused(conn: Connection, content: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        queue(conn, content)
    conn.rollback()
    return caught.value


def test_batch_is_stored_with_its_submissions_calls_and_counters(conn: Connection) -> None:
    content = csv_of([(number(1), "Ana"), (f"tel:+1{number(2)}", 'Björn "B", jr.\nII')], ("name",))
    end = from_now(hours=2)
    batch_id = queue(conn, content, name="December", end_timestamp=end, max_attempts=3, reattempt_wait=300)
    batch = get_batch(conn, batch_id)
    assert (batch.name, batch.state, batch.application_id, batch.deployment_id) == ("December", "queueing", 7, 3)
    assert batch.due_at == end + timedelta(seconds=LIMITS.result_grace_seconds)
    assert (batch.counts["rows"], batch.counts["pending"], batch.counts["skipped"]) == (2, 2, 0)
    assert [(each.id, each.state, each.calls) for each in batch.submissions] == [(1, "pending", 2)]
    calls = conn.execute("select row, phone_number, line from call order by row").fetchall()
    assert calls == [
        (1, 16175550001, "6175550001,Ana"),
        (2, 16175550002, 'tel:+16175550002,"Björn ""B"", jr.\nII"'),
    ]
    conn.rollback()
    assert list(verify(conn, batch_id)) == []


def test_skipped_rows_are_kept_with_their_reasons(conn: Connection) -> None:
    content = csv_of([("nobody", "a\0b"), (number(1), "Ana"), (number(1), "Ana"), ("911", "")])
    batch_id = queue(conn, content, on_invalid="skip", on_duplicate="skip")
    assert conn.execute("select row, code, line from skipped order by row").fetchall() == [
        (1, "nul_character", "nobody,a␀b"),
        (3, "duplicate", "6175550001,Ana"),
        (4, "destination_emergency", "911,"),
    ]
    counts = get_batch(conn, batch_id).counts
    assert (counts["rows"], counts["skipped"], counts["pending"]) == (4, 3, 1)
    conn.rollback()
    assert list(verify(conn, batch_id)) == []


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (csv_of([(number(1), ""), ("nobody", ""), (number(1), "")]), ["destination_malformed", "duplicate"]),
        (csv_of([]), ["no_rows"]),
        (b"phone,name\n6175550001,Ana\n", ["missing_destination"]),
        (b'destination,name\n6175550001,"Ana\n', ["unclosed_quote"]),
        (b"", ["empty_file"]),
    ],
)
def test_refused_batch_leaves_nothing_behind(conn: Connection, content: bytes, codes: list[str]) -> None:
    error = refused(conn, content)
    assert error.code == "invalid_csv"
    assert [fault.code for fault in error.faults] == codes
    assert filled_tables(conn) == []


def test_fault_in_the_last_of_many_rows_leaves_nothing_behind(conn: Connection) -> None:
    content = contacts_csv(10_000) + b"617555000,too short\r\n"
    error = refused(conn, content)
    assert [(fault.where, fault.code) for fault in error.faults] == [(10_001, "destination_invalid")]
    assert filled_tables(conn) == []


def test_lost_connection_in_the_middle_leaves_nothing_behind(conn: Connection, database_url: str) -> None:
    class CuttingStream(io.BytesIO):
        """Ends the database connection once half of it was read."""

        def readline(self, *args: int | None) -> bytes:
            self._cut()
            return super().readline(*args)

        def read(self, *args: int | None) -> bytes:
            self._cut()
            return super().read(*args)

        def _cut(self) -> None:
            if self.tell() > len(self.getvalue()) // 2:
                conn.execute("select pg_terminate_backend(%s)", [victim.info.backend_pid])

    columns = csv_of([(number(index), "x" * 400) for index in range(5_000)])
    with contextlib.closing(connect(database_url, name="test")) as victim:
        with pytest.raises(psycopg.OperationalError):
            accept(victim, CuttingStream(columns), BatchParameters(7, 3), LIMITS)
            victim.commit()
    assert filled_tables(conn) == []


def test_preview_says_what_queueing_then_does(conn: Connection) -> None:
    a, b = number(1), number(2)
    content = csv_of([(a, ""), ("911", ""), (b, ""), (a, ""), (f"{a};postd=1", "")])
    parameters = BatchParameters(7, 3, on_invalid="skip", on_duplicate="keep", end_timestamp=from_now(hours=1))
    seen = preview(io.BytesIO(content), parameters, LIMITS)
    assert (seen.rows, seen.valid, seen.invalid, seen.duplicates, seen.submissions) == (5, 4, 1, 1, 3)
    assert [(fault.where, fault.code) for fault in seen.errors] == [(2, "destination_emergency")]
    assert filled_tables(conn) == []
    batch = get_batch(conn, accept(conn, io.BytesIO(content), parameters, LIMITS).batch_id)
    assert (batch.counts["rows"], batch.counts["skipped"]) == (5, 1)
    assert len(batch.submissions) == 3
    assert batch.due_at == seen.due_at


def test_preview_of_what_would_be_refused_names_the_faults(conn: Connection) -> None:
    seen = preview(io.BytesIO(csv_of([(number(1), ""), ("nobody", "")])), BatchParameters(7, 3), LIMITS)
    assert (seen.valid, seen.invalid, seen.errors_total) == (1, 1, 1)


@pytest.mark.long
def test_memory_does_not_grow_with_the_file(conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "BLOCK_ROWS", 500)
    path = tmp_path / "contacts.csv"
    with path.open("wb") as file:
        file.write(b"destination,note\r\n")
        for index in range(4_000):
            file.write(b"%s,%s\r\n" % (number(index // 2).encode(), b"n" * 10_000))
    assert path.stat().st_size > 40_000_000
    tracemalloc.start()
    try:
        with path.open("rb") as stream:
            accept(conn, stream, BatchParameters(7, 3, on_duplicate="skip"), LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert conn.execute("select (select count(*) from call), (select count(*) from skipped)").fetchone() == (2000, 2000)


def test_preview_warns_of_numbers_that_the_provider_may_leave_out() -> None:
    unusual = ["[617] 555 0001", "617\u2013555\u20130002", "617\u00a0555\u00a00003", "(+1) 617 555 0004"]
    usual = ["'6175550005", " (617) 555-0006 ", "tel:+1.617.555.0007;ani=8009957586", "6175550008;postd=2"]
    content = csv_of((text, "Ana") for text in [*usual, *unusual])
    (warning,) = preview(io.BytesIO(content), BatchParameters(7, 3), LIMITS).warnings
    assert (warning.where, warning.line, warning.code) == (5, 6, "unusual_characters")
    assert "may not accept: 4, the first in row 5." in warning.message
