"""`follow-up` and `calls`."""

from __future__ import annotations

import json

from receiver.database.pool import Connection
from tests.cli.conftest import Run
from tests.factories import deliver, differences, make_batch, phone_number, result_body

NUMBERS = [phone_number(index) for index in range(4)]


def test_failed_calls_are_followed_up_once(run: Run, conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, name="May")
    statuses = zip(NUMBERS, ("completed", "failed", "rejected"), strict=False)
    deliver(conn, batch_id, *(result_body(number, status) for number, status in statuses))
    dry = run("follow-up", str(batch_id), "--outcome", "failed", "--dry-run")
    assert (dry.status, dry.err) == (0, "")
    assert dry.lines[:2] == [
        "1 calls are called again. Left out: 1 completed, 1 pending, 1 not chosen.",
        "1 rows: 1 valid, 0 invalid, 0 duplicates",
    ]
    made = run("follow-up", str(batch_id), "--calls-per-minute", "60", "--name", "May again")
    assert (made.status, made.err) == (0, "")
    assert made.lines == [
        f"Batch {batch_id + 1} is stored; a worker sends it.",
        "2 calls are called again. Left out: 1 completed, 1 pending.",
    ]
    latest = run("export", str(batch_id), "--latest", "--format", "ndjson")
    assert [json.loads(line)["state"] for line in latest.out.splitlines()] == ["final", "pending", "pending", "pending"]
    again = run("follow-up", str(batch_id))
    assert (again.status, again.out) == (1, "")
    assert again.err == (
        "receiver: No call of this batch can be followed up. Left out: 1 completed, 1 pending, 2 followed up.\n"
    )
    assert conn.execute("select name, calls_per_minute, created_by from batch order by 1 desc limit 1").fetchall() == [
        ("May again", 60, "command line")
    ]
    shown = run("calls", "617-555-0001")
    assert shown.lines[0] == f"batch {batch_id + 1} row 1: pending, follows batch {batch_id} row 2"
    first = f"batch {batch_id} row 2: final failed (failed), 1 attempts, 2026-03-01T12:00:0"
    assert shown.lines[1].startswith(first) and shown.lines[1].endswith(f", followed by batch {batch_id + 1} row 1")
    assert differences(conn) == []


def test_number_without_calls_and_text_that_is_no_number(run: Run) -> None:
    assert run("calls", "617-555-0001").out == "There is no call to this number.\n"
    refused = run("calls", "nobody")
    assert (refused.status, refused.out) == (2, "")
