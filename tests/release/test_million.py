"""Canceling a million unreleased calls takes less than five seconds, in one transaction: here a fifth of that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receiver.database.pool import Connection
from receiver.release.claim import claim_submission
from receiver.release.control import cancel_batch
from receiver.release.recording import record_answer
from receiver.summary.batches import get_batch
from tests.factories import ACCEPTED, differences

ROWS, SLICE_ROWS = 200_000, 500


@pytest.mark.long
def test_a_million_calls_are_canceled_in_five_seconds(conn: Connection) -> None:
    batch_id = _make(conn)
    outgoing = claim_submission(conn, 1)
    assert outgoing is not None
    conn.commit()
    record_answer(conn, outgoing, ACCEPTED)
    conn.commit()
    began = backend_seconds(conn)
    canceled = cancel_batch(conn, batch_id, by="Ana", note="stop")
    conn.commit()
    seconds = backend_seconds(conn) - began  # of processors: other work on the machine does not count
    assert (canceled.withdrawn, canceled.at_provider) == (ROWS - SLICE_ROWS, SLICE_ROWS)
    assert get_batch(conn, batch_id).counts["withdrawn"] == ROWS - SLICE_ROWS
    assert differences(conn, batch_id) == []
    assert seconds < 5 * ROWS / 1_000_000, seconds


def backend_seconds(conn: Connection) -> float:
    """Processor time of the connection's process, which runs on this machine: fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _make(conn: Connection) -> int:
    """As acceptance writes it, but by Postgres alone: reading a file of this size takes longer than the rest."""
    row = conn.execute(
        "insert into batch (application_id, deployment_id, name, is_pci, default_region, columns, due_at, simulated)"
        " values (7, 3, 'large', false, 'US', '{name}', now() + interval '1 day', false) returning batch_id"
    ).fetchone()
    assert row is not None
    batch_id: int = row[0]
    given = {"batch_id": batch_id, "rows": ROWS, "size": SLICE_ROWS}
    # Two kinds of zones, so that the rows of submissions are interleaved.
    conn.execute(
        "insert into call (batch_id, phone_number, row, submission_no, line)"
        " select %(batch_id)s, 16170000000 + row, row, ((row - 1) / (%(size)s * 2)) * 2 + 1 + row %% 2,"
        "  format('%%s,somebody with a name and an address of usual length', 16170000000 + row)"
        " from generate_series(1, %(rows)s) as row",
        given,
    )
    conn.execute(
        "insert into submission (batch_id, submission_no, calls, first_row, last_row, csv_bytes)"
        " select batch_id, submission_no, count(*), min(row), max(row), 100000 from call where batch_id = %(batch_id)s"
        " group by batch_id, submission_no",
        given,
    )
    conn.execute(
        "insert into outstanding (batch_id, row) select batch_id, row from call where batch_id = %(batch_id)s", given
    )
    conn.execute("insert into batch_count (batch_id, rows) values (%(batch_id)s, %(rows)s)", given)
    conn.commit()
    return batch_id
