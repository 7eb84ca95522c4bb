"""What the tests of queueing share: contacts to call, and a batch of them in the database."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from receiver.database.pool import Connection
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.contacts import ContactReader
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.submissions import Plan
from receiver.release.answer import Answer
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.recording import record_answer

LIMITS = Limits(submission_rows=10_000, result_grace_seconds=3600)
BOSTON = 6175550000

ACCEPTED = Answer("accepted", 200, calls_queued=3, answer_text='{"calls_queued": 3}')
REFUSED = Answer("refused", 400, error="destination missing", answer_text='{"error": "destination missing"}')
UNKNOWN = Answer("unknown", 500, error="database error")
NOT_SENT = Answer("not_sent", error="nothing was sent: no connection to the provider")


def number(index: int) -> str:
    """The `index`-th of ten thousand numbers that are valid in the US, as a user writes it."""
    return str(BOSTON + index)


def csv_of(rows: Iterable[Sequence[str]], columns: Sequence[str] = ("name",)) -> bytes:
    """A CSV as a spreadsheet saves it. A row's first cell is its destination."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("destination", *columns))
    writer.writerows(rows)
    return text.getvalue().encode()


def contacts_csv(count: int) -> bytes:
    """`count` rows, each with a number of its own."""
    return csv_of((number(index), f"name {index}") for index in range(count))


def plan(
    content: bytes, submission_rows: int = 10_000, *, on_invalid: Any = "refuse", on_duplicate: Any = "refuse"
) -> Plan:
    """A plan that was not read yet."""
    parameters = BatchParameters(7, 3, on_invalid=on_invalid, on_duplicate=on_duplicate)
    return Plan(ContactReader(io.BytesIO(content), "US"), parameters, submission_rows, datetime.now(UTC))


def queue(conn: Connection, content: bytes, submission_rows: int = 10_000, **parameters: Any) -> int:
    """A batch, committed, for a worker to send; returns its id."""
    given = BatchParameters(7, 3, **parameters)
    accepted = accept(conn, io.BytesIO(content), given, Limits(submission_rows, 3600))
    conn.commit()
    return accepted.batch_id


def batch_state(conn: Connection, batch_id: int) -> str:
    row = conn.execute("select state from batch where batch_id = %s", (batch_id,)).fetchone()
    conn.rollback()
    assert row is not None
    return str(row[0])


def submission_states(conn: Connection, batch_id: int) -> list[str]:
    """In the order of their numbers."""
    rows = conn.execute("select state from submission where batch_id = %s order by submission_no", (batch_id,))
    states = [state for (state,) in rows]
    conn.rollback()
    return states


def from_now(**delta: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**delta)


def claim(conn: Connection, worker_id: int = 1) -> Outgoing:
    outgoing = claim_submission(conn, worker_id)
    conn.commit()
    assert outgoing is not None
    return outgoing


def record(conn: Connection, outgoing: Outgoing, answer: Answer) -> str | None:
    state = record_answer(conn, outgoing, answer)
    conn.commit()
    return state
