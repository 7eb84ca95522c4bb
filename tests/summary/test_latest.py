"""Exports of what rows came to through their follow-ups, on chains of several shapes. They balance with the lineage."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from receiver.database.pool import Connection, Pool, open_pool
from receiver.database.replica import Reader
from receiver.model import OUTCOMES
from receiver.queueing import stored_rows
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.follow_ups import FollowUp, follow_up_parameters
from receiver.queueing.suppressions import suppress
from receiver.release.control import cancel_batch
from receiver.summary import export
from receiver.summary.calls import CallFilter
from receiver.summary.export import export_calls_csv, export_calls_ndjson
from receiver.summary.lineage import get_lineage
from tests.factories import (
    REFUSED,
    answer_submissions,
    deliver,
    make_batch,
    make_overdue,
    phone_number,
    present,
    purge_old,
    result_body,
)

NUMBERS = [phone_number(index) for index in range(9)]
LINES = 8


@pytest.fixture
def reader(database_url: str) -> Iterator[Reader]:
    pool: Pool = open_pool(database_url, max_size=2, name="test latest")
    try:
        yield Reader(pool)
    finally:
        pool.close(timeout=2)


def follow(conn: Connection, batch_id: int, *, send: bool = True, include: tuple[str, ...] = ()) -> int:
    wanted = FollowUp(batch_id, outcomes=("failed", "rejected", "other"), include=include)
    followed = accept(conn, wanted, follow_up_parameters(conn, batch_id, {}), Limits(3, 3600)).batch_id
    conn.commit()
    if send:
        answer_submissions(conn)
    return followed


def results(conn: Connection, batch_id: int, statuses: str, *, late: bool = False) -> None:
    """Deliver a result for each call: c for completed, f, r, o (other); a dot for none."""
    names = {"c": "completed", "f": "failed", "r": "rejected", "o": 'odd, "new" one'}
    called = conn.execute(
        "select submission_no, phone_number from call where batch_id = %s order by row", (batch_id,)
    ).fetchall()
    for status, (submission_no, number) in zip(statuses, called, strict=True):
        if status in names:
            body = result_body(number, names[status], last_event=90 if late else 60)
            deliver(conn, batch_id, body, submission_no=submission_no)


def made(conn: Connection, statuses: str) -> int:
    """A batch of 8 calls and a skipped row, in several submissions."""
    numbers = [*NUMBERS[:3], "nobody", *NUMBERS[3:LINES]]
    batch_id = make_batch(conn, numbers, submission_rows=3, on_invalid="skip")
    results(conn, batch_id, statuses)
    return batch_id


def csv_rows(reader: Reader, batch_id: int, wanted: CallFilter = export.EVERY_CALL) -> list[dict[str, str]]:
    blocks = export_calls_csv(reader, batch_id, wanted, latest=True)
    return list(csv.DictReader(StringIO(b"".join(blocks).decode(), newline=""), strict=True))


def ndjson_rows(reader: Reader, batch_id: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(export_calls_ndjson(reader, batch_id, latest=True)).splitlines()]


def check(conn: Connection, reader: Reader, batch_id: int) -> list[str]:
    """Check that both files balance with the lineage, and return what the rows of the batch came to."""
    latest = get_lineage(conn, batch_id).latest
    conn.commit()
    assert latest is not None
    rows, calls = csv_rows(reader, batch_id), ndjson_rows(reader, batch_id)
    assert [row["state"] for row in rows] == [call["state"] for call in calls]
    assert [row["outcome"] or None for row in rows] == [call["outcome"] for call in calls]
    counted = Counter(row["state"] for row in rows) + Counter(row["outcome"] for row in rows if row["outcome"])
    assert counted + Counter(rows=len(rows) + 1, skipped=1) == present(latest)
    assert [row["destination"] for row in rows] == [str(number) for number in NUMBERS[:LINES]]
    numbers = [1, 2, 3, 5, 6, 7, 8, 9]
    assert [int(row["row"]) for row in rows] == numbers
    assert [(call["batch_id"], call["row"]) for call in calls] == [(batch_id, row) for row in numbers]
    for outcome in OUTCOMES:
        found = csv_rows(reader, batch_id, CallFilter(outcome=outcome))
        assert found == [row for row in rows if row["outcome"] == outcome]
    for state in ("pending", "overdue", "refused", "withdrawn", "final"):
        found = csv_rows(reader, batch_id, CallFilter(state=state))
        assert found == [row for row in rows if row["state"] == state]
    return [row["outcome"] or row["state"] for row in rows]


def test_batch_without_follow_ups_is_exported_as_without_latest(conn: Connection, reader: Reader) -> None:
    batch_id = made(conn, "cfro..cf")
    check(conn, reader, batch_id)
    for kind in (export_calls_csv, export_calls_ndjson):
        assert b"".join(kind(reader, batch_id, latest=True)) == b"".join(kind(reader, batch_id))


@pytest.mark.parametrize("block_rows", [1, 2, 5_000])
def test_each_row_has_the_result_of_its_last_call_and_completed_once_is_enough(
    conn: Connection, reader: Reader, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr(stored_rows, "BLOCK_ROWS", block_rows)
    first = made(conn, "cfrof.ff")
    second = follow(conn, first)
    results(conn, second, "cfof.f")
    third = follow(conn, second)
    results(conn, third, "rc..")
    assert check(conn, reader, first) == [
        "completed", "completed", "rejected", "completed", "pending", "pending", "pending", "pending",
    ]  # fmt: skip
    results(conn, first, "cffff.ff", late=True)
    # The first call of a row was answered after all, while its follow-up failed.
    deliver(conn, first, result_body(NUMBERS[2], last_event=95))
    assert check(conn, reader, first)[2] == "completed"
    # The middle batch: its own rows, and what they came to.
    rows = csv_rows(reader, second)
    assert [row["outcome"] or row["state"] for row in rows] == [
        "completed", "rejected", "completed", "pending", "pending", "pending",
    ]  # fmt: skip
    assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5", "6"]


def test_values_are_those_of_the_winning_call_and_links_those_of_the_row(conn: Connection, reader: Reader) -> None:
    first = made(conn, "cf......")
    second = follow(conn, first)
    deliver(conn, second, result_body(NUMBERS[1], attempts="3", last_event=75))
    row, call = csv_rows(reader, first)[1], ndjson_rows(reader, first)[1]
    (plain,) = (json.loads(line) for line in b"".join(export_calls_ndjson(reader, second)).splitlines())
    assert (row["attempts"], row["ended_at"], row["row"]) == ("3", "2026-03-01T12:01:15Z", "2")
    own = {"batch_id": first, "row": 2, "follows": None, "followed_by": {"batch_id": second, "row": 1}}
    assert call == {**plain, **own}


def test_large_body_is_that_of_the_winning_call(
    conn: Connection, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MOST_BODY", 0)
    first = made(conn, "cf......")
    deliver(conn, follow(conn, first), result_body(NUMBERS[1], last_event=75))
    assert ndjson_rows(reader, first)[1]["events"][-1]["at"] == "2026-03-01T12:01:15Z"


def test_follow_up_withdrawn_by_a_late_answer_shows_the_answer(conn: Connection, reader: Reader) -> None:
    first = made(conn, "ffffffff")
    second = follow(conn, first, send=False)
    results(conn, first, "c.c.....", late=True)
    assert check(conn, reader, first) == ["completed", "pending", "completed", *["pending"] * 5]
    assert [row["withdrawn_reason"] for row in csv_rows(reader, second)] == ["answered", "", "answered", *[""] * 5]
    # A still later result says that it failed. What was withdrawn because of the answer does not count.
    deliver(conn, first, result_body(NUMBERS[0], "failed", last_event=120))
    assert check(conn, reader, first) == ["failed", "pending", "completed", *["pending"] * 5]


def test_withdrawn_refused_and_overdue_follow_ups_count(conn: Connection, reader: Reader) -> None:
    first = made(conn, "cfffffff")
    second = follow(conn, first, send=False)
    suppress(conn, NUMBERS[4], by="Ana")
    conn.commit()
    answer_submissions(conn, lambda outgoing: REFUSED)
    assert check(conn, reader, first) == ["completed", *["refused"] * 3, "withdrawn", *["refused"] * 3]
    third = follow(conn, second, include=("refused",))
    results(conn, third, "cf....")
    make_overdue(conn, third)
    expected = ["completed", "completed", "failed", "overdue", "withdrawn", "overdue", "overdue", "overdue"]
    assert check(conn, reader, first) == expected
    fourth = follow(conn, third, include=("overdue",), send=False)
    cancel_batch(conn, fourth, by="Ana")
    conn.commit()
    assert check(conn, reader, first) == ["completed", "completed", *["withdrawn"] * 6]


@pytest.mark.parametrize(("purged", "expected"), [(1, "fccppppf"), (2, "cfcppppp"), (3, "ccfffffp")])
def test_purged_batch_leaves_the_results_before_and_after_it(
    conn: Connection, reader: Reader, purged: int, expected: str
) -> None:
    batches = [made(conn, "ffffffff")]
    for statuses in ("cffffff.", "cfffff", "c...."):
        batches.append(follow(conn, batches[-1]))
        results(conn, batches[-1], statuses)
    assert check(conn, reader, batches[0]) == ["completed"] * 3 + ["pending"] * 5
    purge_old(conn, batches[purged])
    assert "".join(each[0] for each in check(conn, reader, batches[0])) == expected
