"""Statements that run all the time, or that a page waits for, do not read a table of many submissions or numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.intake.packing import pack
from receiver.queueing.follow_ups import ChosenCalls, FollowUp
from receiver.queueing.suppressions import list_suppressions
from receiver.release.deployment_cancel import claim_cancel
from receiver.release.sender import abandon_submissions, list_taken
from receiver.summary.export import export_calls_csv, export_calls_ndjson
from receiver.summary.gauges import get_gauges
from tests.factories import make_batch, phone_number, result_body

SUBMISSIONS = 20_000


@pytest.fixture
def paced(conn: Connection) -> Connection:
    """A batch whose slices are one call each, in every state, and as many suppressed numbers."""
    conn.execute(
        "insert into batch (application_id, deployment_id, name, is_pci, default_region, columns, state, due_at)"
        " values (7, 3, 'paced', false, 'US', '{}', 'queueing', now() + interval '1 day')"
    )
    conn.execute("insert into batch_count (batch_id, rows) values (1, %s)", (SUBMISSIONS,))
    conn.execute(
        "insert into submission (batch_id, submission_no, calls, first_row, last_row, csv_bytes, worker_id, state)"
        " select 1, n, 1, n, n, 30, 1, case when n = 7 then 'sending' when n = 8 then 'refused' when n = 9 then"
        " 'unknown' else (array['pending', 'withdrawn', 'accepted'])[n %% 3 + 1] end from generate_series(1, %s) n",
        (SUBMISSIONS,),
    )
    conn.execute(
        "insert into suppression (phone_number, digest, reason, created_by) select n, sha256(n::text::bytea),"
        " case when n = 7 then 'rare' else 'common' end, 'test' from generate_series(1, %s) n",
        (SUBMISSIONS,),
    )
    conn.commit()
    conn.autocommit = True
    conn.execute("vacuum analyze")
    conn.execute("set max_parallel_workers_per_gather = 0")  # the view below has only this process's reads
    conn.autocommit = False
    return conn


def assert_few_rows_read(conn: Connection, table: str) -> None:
    """Of this table, in this transaction. What only an index was read for does not count."""
    row = conn.execute(
        "select seq_tup_read, coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = %s", (table,)
    ).fetchone()
    assert row is not None and row[0] == 0 and row[1] < 100, row


def test_gauges_do_not_read_the_submissions(paced: Connection) -> None:
    gauges = get_gauges(paced)
    assert_few_rows_read(paced, "submission")
    in_each = (SUBMISSIONS - 2) // 3
    assert gauges.submissions == {
        "pending": in_each - 1,
        "sending": 1,
        "accepted": in_each,
        "refused": 1,
        "unknown": 1,
        "withdrawn": in_each,
    }
    assert gauges.unreleased_calls == in_each - 1
    assert gauges.oldest_pending_submission_seconds is not None


@pytest.mark.parametrize(
    "read",
    [
        lambda conn: abandon_submissions(conn, 2),
        lambda conn: list_taken(conn, 1),
        lambda conn: claim_cancel(conn, 2),
    ],
    ids=["abandoned", "taken", "canceled"],
)
def test_what_is_being_sent_is_found_without_reading_what_waits(
    paced: Connection, read: Callable[[Connection], object]
) -> None:
    paced.execute("insert into deployment_cancel (application_id, deployment_id, requested_by) values (7, 4, 'Ana')")
    read(paced)
    assert_few_rows_read(paced, "submission")


def test_suppressions_are_found_by_their_reason(paced: Connection) -> None:
    assert [each.phone_number for each in list_suppressions(paced, 10, reason="rare")] == [7]
    assert_few_rows_read(paced, "suppression")


UNKNOWN_ROWS = 1_000


@pytest.fixture
def unknown_id(conn: Connection) -> int:
    """A batch of 1,000 final calls that the statistics of Postgres do not know, beside one that they know."""
    for known in (True, False):
        numbers = map(phone_number, range(5_000 if known else UNKNOWN_ROWS))
        batch_id = make_batch(conn, numbers)
        conn.execute(
            "insert into result (batch_id, row, callback_id, outcome, attempts, received_at, last_event_at,"
            " provider_status) select batch_id, row, row, 'failed', 1, now(), now(), 'failed' from call"
            " where batch_id = %s",
            (batch_id,),
        )
        conn.execute(
            "insert into callback (batch_id, callback_id, received_at, submission_no, content_type, packing, body)"
            " select batch_id, row, now(), 1, 'application/json', %s, %s from call where batch_id = %s",
            (*pack(result_body(1)), batch_id),
        )
        conn.commit()
        conn.autocommit = True
        if known:
            conn.execute("vacuum analyze")
        conn.autocommit = False
    return batch_id


def reader_of(conn: Connection) -> Any:
    return SimpleNamespace(read=lambda read, *given: read(conn, *given))


@pytest.mark.parametrize(
    "read",
    [
        lambda conn, batch_id: ChosenCalls(conn, FollowUp(batch_id)),
        lambda conn, batch_id: export_calls_csv(reader_of(conn), batch_id),
        lambda conn, batch_id: export_calls_ndjson(reader_of(conn), batch_id),
    ],
    ids=["follow-up", "CSV", "NDJSON"],
)
def test_results_of_a_batch_that_statistics_do_not_know_are_read_once(
    conn: Connection, unknown_id: int, read: Callable[[Connection, int], Iterator[object]]
) -> None:
    assert list(read(conn, unknown_id))
    read_rows: dict[str, int] = dict(
        conn.execute("select relname::text, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables").fetchall()
    )
    assert UNKNOWN_ROWS <= read_rows["result"] <= 2 * UNKNOWN_ROWS
    assert read_rows["callback"] <= 2 * UNKNOWN_ROWS
